"""The cache: what is in it, that it is made once, and that nothing stale is read from it."""

import json
import multiprocessing
import os
import resource
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from moga.checkpoint import CheckpointError
from moga.data.rows import Examined, Row, RowShot, examine, nearest_latent, read_rows
from moga.files import NoSpaceError
from moga.hosts.diffusers import load_text_encoder, load_vae
from moga.hosts.diffusers.calls import ShotMismatchError
from moga.train.cache.missing import find_missing, refuse_unwritable
from moga.train.cache.reader import load_latent, load_text, read_cache
from moga.train.cache.spec import SHORTEST, CacheError, CacheSpec, pieces, text_file
from moga.train.cache.writer import make_cache
from moga.video.reader import read_frames

FPS, LENGTHS = 8, (1.0, 2.0)
EXTRA = ["She’s  here &amp; waits…", "close"]


def a_spec(files, folder, **changed):
    spec = CacheSpec(
        folder / "cache",
        files / "vae.safetensors",
        files / "umt5.safetensors",
        32,
        32,
        FPS,
        LENGTHS,
    )
    return replace(spec, **changed)


def look(folder):
    return examine(read_rows(folder / "rows.jsonl"), fps=FPS)


@pytest.fixture
def project(files, tmp_path):
    """Copies of the videos and their rows, which a test may change."""
    for path in (*files.glob("*.mp4"), files / "rows.jsonl"):
        shutil.copy2(path, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def cached(files, tmp_path_factory):
    """A spec whose cache is complete, and its rows; not to be changed."""
    spec = a_spec(files, tmp_path_factory.mktemp("cached"))
    rows = look(files)
    make_cache(spec, rows, extra_texts=EXTRA)
    return spec, rows


def contents(spec):
    """Of all but what is remembered of other files, whose lines are as fast as each was read."""
    return {
        str(path.relative_to(spec.folder)): path.read_bytes()
        for path in spec.folder.rglob("*")
        if path.is_file() and path.name != "contents.jsonl"
    }


def times(spec, part):
    return {path.name: path.stat().st_mtime_ns for path in (spec.folder / part).iterdir()}


# Pieces


@st.composite
def clip(draw):
    """A video with shots that have latent frames of their own, and a length to cut it to."""
    fps = draw(st.sampled_from([8, 16, 23.976]))
    cuts = sorted(draw(st.sets(st.integers(1, 60), max_size=4).map(lambda s: {4 * n for n in s})))
    frames = draw(st.integers(1, 300)) + (cuts[-1] + 4 if cuts else 0)
    shots = [RowShot(cut / fps, f"shot at {cut}") for cut in (0, *cuts)]
    return Examined(Row(1, Path("a.mp4"), "", tuple(shots)), frames, fps)


@given(examined=clip(), seconds=st.floats(0.05, 12))
def test_pieces_cover_the_clip_without_overlap(examined, seconds):
    found = pieces(examined, seconds)
    longest = max(1, round(seconds * examined.fps))
    assert found[0].start == 0
    assert all(a.start + a.frames == b.start for a, b in pairwise(found))
    assert all(piece.frames % 4 == 1 and piece.frames <= longest for piece in found)
    assert len({piece.frames for piece in found[:-1]}) <= 1
    assert all(longest - piece.frames < 4 for piece in found[:-1])
    left = examined.frames - found[-1].start - found[-1].frames
    assert 0 <= left <= 4 * (SHORTEST - 1)
    if len(found) > 1:  # a last one that is much shorter than the others is not among them
        assert found[-1].frames >= min(found[0].frames, 4 * SHORTEST - 3)


@given(examined=clip(), seconds=st.floats(0.05, 12))
def test_every_latent_frame_of_a_piece_has_the_text_of_its_shot(examined, seconds):
    for piece in pieces(examined, seconds):
        total = (piece.frames + 3) // 4
        assert piece.starts[0] == 0 and piece.starts[-1] < total
        assert all(a < b for a, b in pairwise(piece.starts))
        ends = (*piece.starts[1:], total)
        read = [text for a, b, text in zip(piece.starts, ends, piece.texts, strict=True)
                for _ in range(a, b)]  # fmt: skip
        for latent, text in enumerate(read):
            begun = [
                shot.caption
                for shot, cut in zip(examined.row.shots, examined.cuts, strict=True)
                if nearest_latent(max(0, cut - piece.start)) <= latent
            ]
            assert text == begun[-1]


@pytest.mark.parametrize(("seconds", "frames"), [(5, 77), (10, 157), (20, 317), (30, 477)])
def test_pieces_at_16_fps_have_the_frames_of_the_papers_tables(seconds, frames):
    examined = Examined(Row(1, Path("a.mp4"), "", (RowShot(0, "a"),)), 16 * 65, 16)
    assert {piece.frames for piece in pieces(examined, seconds)[:-1]} == {frames}


# What is in it


@torch.no_grad()
@pytest.mark.parametrize("seconds", LENGTHS)
def test_latents_are_those_of_one_encode_of_the_same_frames(cached, seconds):
    spec, rows = cached
    vae = load_vae(spec.vae)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    wanted = [piece for row in rows for piece in pieces(row, seconds)]
    clips = read_cache(spec, rows, seconds)
    assert len(clips) == len(wanted) >= 3
    for found, piece in zip(clips, wanted, strict=True):
        video = piece.examined.row.video
        whole = np.concatenate(list(read_frames(video, fps=FPS, width=32, height=32)))
        part = torch.from_numpy(whole[piece.start : piece.start + piece.frames])
        encoded = vae.encode(part.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).latent_dist.mode()
        expected = ((encoded - mean) * (1 / std))[0]
        assert torch.equal(load_latent(found), expected)
        assert found.shape == tuple(expected.shape)
        assert found.starts == piece.starts
        assert found.texts == tuple(text_file(spec, text) for text in piece.texts)
        seconds_in = piece.start / FPS
        assert found.source == f"{video.name}, line {piece.examined.row.line}, {seconds_in:.1f} s"


@torch.no_grad()
def test_texts_are_those_of_the_pipeline_without_its_padding(cached):
    spec, rows = cached
    encoder, tokenizer = load_text_encoder(spec.text_encoder)
    pipe = WanPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=None, transformer=None, scheduler=None
    )
    for text in ["", *EXTRA, *(text for row in rows for text in row.row.texts)]:
        found = load_text(text_file(spec, text))
        expected, _ = pipe.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=512
        )
        assert torch.equal(expected[0, : len(found)], found), text
        assert expected[0, len(found) - 1].any() and not expected[0, len(found) :].any(), text


def test_headers_say_where_a_tensor_comes_from(cached):
    spec, rows = cached
    clip = read_cache(spec, rows, 1.0)[1]
    with safe_open(clip.file, "pt") as file:
        about = json.loads(file.metadata()["moga_clip"])
    assert Path(about["video"]).name in clip.source and (about["start"], about["frames"]) == (5, 5)
    assert Path(about["video"]) == rows[0].row.video.resolve()


def test_half_precision(files, tmp_path, cached):
    rows = cached[1][:1]
    spec = a_spec(files, tmp_path, dtype=torch.bfloat16, lengths=(2.0,))
    make_cache(spec, rows)
    (clip,) = read_cache(spec, rows, 2.0)
    assert load_file(clip.file)["latent"].dtype == torch.bfloat16
    assert load_file(clip.texts[0])["embedding"].dtype == torch.bfloat16
    exact = load_latent(read_cache(*cached, 2.0)[0])
    assert load_latent(clip).dtype == torch.float32
    torch.testing.assert_close(load_latent(clip), exact, rtol=0.1, atol=0.1)


# Going on


def test_a_second_run_computes_nothing(files, tmp_path, cached):
    spec, rows = cached
    shutil.copytree(spec.folder, tmp_path / "cache")
    spec = a_spec(files, tmp_path)
    before = times(spec, "latents"), times(spec, "texts")
    make_cache(spec, rows, extra_texts=EXTRA)
    assert (times(spec, "latents"), times(spec, "texts")) == before


def test_however_often_it_is_interrupted_it_gets_there(files, tmp_path, cached, monkeypatch):
    """Every other file is cut off when half of it is written."""
    from moga.train.cache import writer as cache_writer

    spec, saved = a_spec(files, tmp_path), []

    def save_half(tensors, path, about):
        save_file(tensors, path, about)
        saved.append(path)
        if len(saved) % 2:
            os.truncate(path, os.path.getsize(path) // 2)
            raise KeyboardInterrupt

    monkeypatch.setattr(cache_writer, "save_file", save_half)
    interruptions, done = 0, False
    while not done:
        try:
            make_cache(spec, cached[1], extra_texts=EXTRA)
            done = True
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= len(saved) // 2 > 5
    assert contents(spec) == contents(cached[0])


def test_a_video_that_breaks_midway_is_named_and_the_rest_kept(files, project, cached):
    spec, rows = a_spec(files, project), look(project)
    whole = (project / "1.mp4").read_bytes()
    stat = (project / "1.mp4").stat()

    def put(data):
        (project / "1.mp4").write_bytes(data)
        os.utime(project / "1.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns))

    put(b"\0" * len(whole))
    with pytest.raises(CacheError, match=r"^line 2: 1\.mp4 cannot be read .* so far is kept\.$"):
        make_cache(spec, rows)
    kept = times(spec, "latents")
    assert kept
    put(whole)
    make_cache(spec, rows)
    assert kept.items() < times(spec, "latents").items()
    for seconds in LENGTHS:
        found, expected = (
            [load_latent(clip) for clip in read_cache(s, r, seconds)]
            for s, r in ((spec, rows), cached)
        )
        assert all(map(torch.equal, found, expected)) and len(found) == len(expected)


def test_a_full_disk_names_the_line_and_keeps_the_rest(files, tmp_path, cached):
    """The system refuses to let a file grow beyond a size: ENOSPC's sibling, EFBIG."""
    spec, rows = a_spec(files, tmp_path, width=96, height=96), cached[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(CacheError, match=r"^line 1: .*cache cannot be written .* make room"):
            make_cache(spec, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = times(spec, "texts") | times(spec, "latents")
    assert len(kept) > 3 and not any(name.endswith(".part") for name in kept)
    make_cache(spec, rows)
    assert kept.items() < (times(spec, "texts") | times(spec, "latents")).items()
    assert len(read_cache(spec, rows, 2.0)) == 3


@pytest.mark.parametrize(
    ("name", "option", "key", "said"),
    [
        ("vae.safetensors", "vae", "encoder.conv_in.bias",
         r"^0\.mp4, line 1, 0\.0 s: of \d+ values that data\.vae makes of it, \d+ are not"),
        ("vae.safetensors", "vae", "quant_conv.weight", r"^0\.mp4, .*vae.* is damaged, or "),
        ("umt5.safetensors", "text_encoder", "encoder.final_layer_norm.weight",
         r"^the text '': of \d+ values that data\.text_encoder makes of it, \d+ are not a number"),
    ],
)  # fmt: skip
def test_a_model_that_gives_no_numbers_is_blamed_at_once(
    files, tmp_path, cached, name, option, key, said
):
    """And nothing that it made is kept."""
    tensors = load_file(files / name)
    tensors[key].view(-1)[0] = float("nan")
    save_file(tensors, tmp_path / name)
    spec = a_spec(files, tmp_path, **{option: tmp_path / name})
    with pytest.raises(CacheError, match=said):
        make_cache(spec, cached[1])
    assert not list((spec.folder / "latents").iterdir())
    make_cache(a_spec(files, tmp_path), cached[1])
    for file in (spec.folder / "latents").iterdir():
        assert torch.isfinite(load_file(file)["latent"]).all()


def test_a_cache_that_cannot_be_written_is_read_or_refused(cached):
    """Complete, it is enough; else what it lacks is told before anything is computed.

    Below /proc nobody can make a file, as on a disk that is mounted to be read.
    """
    with pytest.raises(CacheError, match=r"^/proc/cache cannot be made \(.*choose another folder"):
        make_cache(replace(cached[0], folder=Path("/proc/cache")), cached[1])
    spec = replace(cached[0], folder=Path("/proc/self/task"), lengths=(1.0,))
    lacking = find_missing(spec, cached[1])
    with pytest.raises(CacheError, match=r"^data\.cache is /proc/self/task, which lacks \d+ texts"):
        refuse_unwritable(spec, lacking)
    refuse_unwritable(cached[0], find_missing(cached[0], cached[1]))


def test_trainings_started_together_share_a_cache(files, tmp_path):
    """All of them encode what the others have not finished yet, and none trips over another."""
    spec, texts = a_spec(files, tmp_path), [f"text {i}" for i in range(200)]
    fork = multiprocessing.get_context("fork")
    words = {"args": (spec, []), "kwargs": {"extra_texts": texts}}
    together = [fork.Process(target=make_cache, **words) for _ in range(6)]
    for process in together:
        process.start()
    for process in together:
        process.join()
    assert [process.exitcode for process in together] == [0] * len(together)
    assert not list(tmp_path.rglob("*.part"))
    assert all(len(load_text(text_file(spec, text))) for text in texts)


def test_a_mended_caption_leaves_the_latents_alone(files, project):
    spec = a_spec(files, project)
    make_cache(spec, look(project))
    before = times(spec, "latents"), times(spec, "texts")
    text = (project / "rows.jsonl").read_text().replace("wide 1", "tall 1")
    (project / "rows.jsonl").write_text(text)
    rows = look(project)
    with pytest.raises(CacheError, match=r"lacks 1\.mp4, line 2, .* --cache-only"):
        read_cache(spec, rows, 2.0)
    make_cache(spec, rows)
    assert times(spec, "latents") == before[0]
    assert len(times(spec, "texts")) == len(before[1]) + 1
    assert read_cache(spec, rows, 2.0)[1].texts[0] == text_file(spec, "square tall 1")


# What is stale


def test_a_video_that_changed_is_stale(files, project, make):
    spec, rows = a_spec(files, project), look(project)
    make_cache(spec, rows)
    (project / "1.mp4").unlink()
    make.mp4(project / "1.mp4", make.square(21, seed=9))
    with pytest.raises(CacheError, match=r"lacks 1\.mp4, line 2, 0\.0 s, or what .* is stale"):
        read_cache(spec, rows, 2.0)
    make_cache(spec, rows)
    assert len(read_cache(spec, rows, 2.0)) == 3


def test_a_video_that_is_gone_is_named(files, project):
    spec, rows = a_spec(files, project), look(project)
    (project / "2.mp4").unlink()
    with pytest.raises(CacheError, match=r"^line 3: .*2\.mp4 cannot be read .* check the path"):
        make_cache(spec, rows)
    assert not spec.folder.exists()


def other_vae(files, folder):
    tensors = load_file(files / "vae.safetensors")
    tensors["encoder.conv_in.bias"] += 1
    save_file(tensors, folder / "other.safetensors")
    return {"vae": folder / "other.safetensors"}


def other_text_encoder(files, folder):
    tensors = load_file(files / "umt5.safetensors")
    tensors["shared.weight"] += 1
    save_file(tensors, folder / "other.safetensors")
    return {"text_encoder": folder / "other.safetensors"}


@pytest.mark.parametrize(
    "change",
    [
        lambda files, folder: {"width": 48},
        lambda files, folder: {"height": 48},
        lambda files, folder: {"fps": 16},
        lambda files, folder: {"dtype": torch.bfloat16},
        lambda files, folder: {"folder": folder / "elsewhere"},
        other_vae,
        other_text_encoder,
    ],
)
def test_what_was_made_otherwise_is_not_read(files, tmp_path, cached, change):
    spec, rows = cached
    changed = replace(spec, **change(files, tmp_path))
    with pytest.raises(CacheError, match=r"run python -m moga\.train with --cache-only"):
        read_cache(changed, rows, 2.0)


def test_models_may_move(tmp_path, cached):
    spec, rows = cached
    moved = {name: tmp_path / f"{name}.safetensors" for name in ("vae", "text_encoder")}
    for name, path in moved.items():
        shutil.copy(getattr(spec, name), path)
    assert read_cache(replace(spec, **moved), rows, 2.0) == read_cache(spec, rows, 2.0)


def test_a_damaged_file_is_named(files, tmp_path, cached):
    shutil.copytree(cached[0].folder, tmp_path / "cache")
    spec, rows = a_spec(files, tmp_path), cached[1]
    clip = read_cache(spec, rows, 2.0)[0]
    for path in (clip.file, clip.texts[1]):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(CacheError, match=rf"{path.name} of .* is damaged; delete it, then run"):
            read_cache(spec, rows, 2.0)
        path.write_bytes(whole)


# What is refused


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 40}, r"^width is 40; give a multiple of 16, such as 32\.$"),
        ({"height": 0}, r"^height is 0; give a multiple of 16, such as 16\.$"),
        ({"fps": 0}, r"^fps is 0; choose a rate above 0"),
        ({"fps": float("nan")}, r"^fps is nan; choose"),
        ({"lengths": (2.0, 0.0)}, r"^a length is 0\.0; give seconds above 0\.$"),
        ({"lengths": (float("inf"),)}, r"^a length is inf; give"),
    ],
)
def test_impossible_values(files, tmp_path, changed, message):
    with pytest.raises(CacheError, match=message):
        a_spec(files, tmp_path, **changed)


@pytest.fixture(scope="module")
def wide_vae(tmp_path_factory):
    path = tmp_path_factory.mktemp("wide") / "vae22.safetensors"
    with torch.random.fork_rng():
        vae = AutoencoderKLWan(
            base_dim=8,
            decoder_base_dim=12,
            z_dim=48,
            in_channels=12,
            out_channels=12,
            is_residual=True,
            patch_size=2,
            scale_factor_spatial=16,
            latents_mean=[0.0] * 48,
            latents_std=[1.0] * 48,
        )
    save_file(vae.state_dict(), path)
    return path


def test_the_wide_vae_needs_multiples_of_32(files, tmp_path, wide_vae, cached):
    rows = cached[1][:1]
    spec = a_spec(files, tmp_path, vae=wide_vae, width=48, height=64, lengths=(2.0,))
    with pytest.raises(
        CacheError, match=r"^width is 48; give a multiple of 32, such as (32|64)\.$"
    ):
        make_cache(spec, rows)
    assert not spec.folder.exists()
    spec = replace(spec, width=32)
    make_cache(spec, rows)
    assert read_cache(spec, rows, 2.0)[0].shape == (48, 4, 4, 2)


def test_a_caption_that_is_too_long_costs_nothing(files, tmp_path, cached):
    spec = a_spec(files, tmp_path)
    with pytest.raises(ShotMismatchError, match=r"512 are read .* shorten"):
        make_cache(spec, cached[1], extra_texts=["q7" * 600])
    assert not spec.folder.exists()


def test_a_disk_that_is_too_small_is_seen_first(files, tmp_path):
    spec = a_spec(files, tmp_path, lengths=(1e12,))
    endless = replace(look(files)[0], frames=10**13)
    words = r"GB free and what the cache lacks takes about .* make room"
    with pytest.raises(NoSpaceError, match=words):
        make_cache(spec, [endless])
    assert not spec.folder.exists()


def test_a_folder_that_cannot_be_made(files, tmp_path, cached):
    (tmp_path / "cache").touch()
    with pytest.raises(CacheError, match=r"cannot be made .* choose another folder"):
        make_cache(a_spec(files, tmp_path), cached[1])


def test_another_model_is_named(files, tmp_path, cached):
    with pytest.raises(CheckpointError, match="is not a VAE of Wan"):
        make_cache(a_spec(files, tmp_path, vae=files / "umt5.safetensors"), cached[1])
