"""`python -m moga.generate` when something goes wrong: one sentence, no film, nothing lost."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from moga.checkpoint import read, write
from moga.config import MoGAConfig
from moga.generate import main

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = Path("/proc")  # where nobody can write, root neither
LONG = "[5f] " + "rain " * 8000  # no text encoder counts it: the shots go into the latents' header


@pytest.fixture
def said(capsys):
    """The one sentence of a run that failed."""

    def said(arguments, status):
        assert main(arguments) == status
        (message,) = [x for x in capsys.readouterr().err.splitlines() if "moga.generate: " in x]
        return message.partition("moga.generate: ")[2]

    return said


@pytest.fixture
def changed(model_files, tmp_path):
    """A model file with some tensors changed; by name, in the file's own names."""

    def changed(kind, change):
        tensors, metadata = read(model_files(kind))
        path = tmp_path / f"changed_{kind}.safetensors"
        save_file({key: change(key, tensor) for key, tensor in tensors.items()}, path, metadata)
        return path

    return changed


def nan_in(*names):
    return lambda key, tensor: torch.full_like(tensor, torch.nan) if key in names else tensor


# Values that aren't numbers


@pytest.mark.parametrize("key", ["blocks.0.ffn.0.weight", "head.head.bias"])
def test_a_model_of_nan_is_found_at_the_first_step(line, changed, said, tmp_path, key):
    model = changed("t2v", nan_in(key))
    words = said(line(model=model, steps=9), 1)
    assert words.startswith("changed_t2v.safetensors gave values that aren't numbers (NaN or ")
    assert "in step 1 of 9, from latent frame 0 on;" in words
    assert list(tmp_path.glob("film*")) == []


def test_the_expert_that_gave_nan_is_named(line, model_files, changed, said, tmp_path):
    low = changed("low", nan_in("head.head.bias"))
    both = {"model": None, "model_high": model_files("t2v"), "model_low": low, "dtype": "bf16"}
    words = said(line(**both, steps=4), 1)
    assert words.startswith("changed_low.safetensors gave") and "try --dtype fp32, or" in words
    assert "in step 1 of" not in words
    assert list(tmp_path.glob("film*")) == []


def test_a_vae_of_nan_leaves_the_latents_and_no_film(line, changed, said, tmp_path):
    vae = changed("vae", nan_in("decoder.conv_out.bias"))
    words = said(line(vae=vae), 1)
    latents = tmp_path / "film.latents.safetensors"
    assert "aren't numbers (NaN or infinite) from video frame 0 on" in words
    assert words.endswith(f". The latents are in {latents}: --latents decodes them.")
    assert latents.exists() and list(tmp_path.glob("film*.mp4")) == []


@pytest.mark.parametrize("where", ["model", "routers"])
def test_routers_of_nan_are_found_before_the_model_is_read(line, model_files, changed, said, where):
    kind = "t2v" if where == "model" else "routers"
    routers = changed(kind, nan_in("blocks.1.self_attn.router.bias"))
    given = {where: routers, **({} if where == "model" else {"model": model_files("plain")})}
    words = said([*line(**given), "--plan"], 2)
    assert f"{routers.name}: the router bias of block 1 has values that aren't numbers" in words


def test_text_of_nan_is_found_before_sampling(line, changed, said, tmp_path):
    encoder = changed("umt5", nan_in("encoder.final_layer_norm.weight"))
    words = said(line(embeddings=None, text_encoder=encoder), 2)
    assert "the text has values that aren't numbers" in words
    assert list(tmp_path.glob("film*")) == []


def test_embeddings_of_nan(line, save_text, said, tmp_path):
    path, text = tmp_path / "nan.safetensors", torch.zeros(2, 9, 64)
    for prompt, negative, name in (
        (text + torch.inf, text[:1], "prompt_embeds"),
        (text, text[:1] * torch.nan, "negative_prompt_embeds"),
    ):
        save_text(path, prompt, negative)
        words = said(line(embeddings=path), 2)
        assert words.startswith(f"nan.safetensors has values in {name} that aren't numbers")


def test_latents_of_nan_name_the_frame(line, said, tmp_path):
    latents = torch.zeros(1, 16, 3, 4, 6)
    latents[0, 3, 1, 2, 2] = torch.nan
    save_file({"latents": latents}, tmp_path / "nan.safetensors")
    words = said(line(embeddings=None, latents=tmp_path / "nan.safetensors"), 2)
    assert "nan.safetensors has values that aren't numbers (NaN or infinite) from latent" in words
    assert "latent frame 1 on;" in words
    assert list(tmp_path.glob("film*")) == []


# Types and shapes of tensors


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_latents_of_any_floating_point_type(line, tmp_path, dtype):
    save_file({"latents": torch.zeros(1, 16, 3, 4, 6, dtype=dtype)}, tmp_path / "a.safetensors")
    assert main(line(embeddings=None, latents=tmp_path / "a.safetensors")) == 0


@pytest.mark.parametrize(("dtype", "name"), [
    (torch.int64, "I64"), (torch.bool, "BOOL"), (torch.uint8, "U8"), (torch.complex64, "C64"),
    (torch.float8_e4m3fn, "F8_E4M3"),
])  # fmt: skip
def test_tensors_of_other_types(line, save_text, said, tmp_path, dtype, name):
    path = tmp_path / "a.safetensors"
    save_file({"latents": torch.zeros(1, 16, 3, 4, 6).to(dtype)}, path)
    words = said(line(embeddings=None, latents=path), 2)
    assert words == f"a.safetensors has latents as {name}; save it in float32, float16 or bfloat16."
    save_text(path, torch.zeros(2, 9, 64).to(dtype), torch.zeros(1, 9, 64))
    assert f"a.safetensors has prompt_embeds as {name};" in said(line(embeddings=path), 2)


@pytest.mark.parametrize(
    "shape", [(), (2,), (2, 9), (1, 9, 32), (1, 8, 64), (3, 9, 64), (0, 9, 64)]
)
def test_negative_embeddings_of_other_shapes(line, save_text, said, tmp_path, shape):
    save_text(tmp_path / "a.safetensors", torch.zeros(2, 9, 64), torch.zeros(shape))
    words = said(line(embeddings=tmp_path / "a.safetensors"), 2)
    assert words.startswith(f"a.safetensors has negative_prompt_embeds of shape {shape}")


def test_negative_embeddings_of_each_shot_are_taken(line, save_text, tmp_path):
    save_text(tmp_path / "a.safetensors", torch.zeros(2, 9, 64), torch.zeros(2, 9, 64))
    assert main(line(embeddings=tmp_path / "a.safetensors")) == 0


# Places


@pytest.mark.skipif(not NOWHERE.is_dir(), reason="no folder that root cannot write to")
@pytest.mark.parametrize("name", ["out", "contact_sheet"])
def test_a_folder_that_cannot_be_written_is_found_before_sampling(line, changed, said, name):
    path = NOWHERE / ("film.mp4" if name == "out" else "sheet.png")
    model = changed("t2v", nan_in("head.head.bias"))  # of which sampling would complain
    words = said(line(**{name: path, "model": model}), 2)
    assert words.startswith(f"--{name.replace('_', '-')} is {path}, and nothing can be written")


@pytest.mark.parametrize("letters", [79, 100])
def test_a_name_that_is_too_long_is_found_before_sampling(line, said, tmp_path, letters):
    before = sorted(tmp_path.iterdir())
    out = tmp_path / ("\N{KATAKANA LETTER MO}" * letters + ".mp4")
    words = said(line(out=out), 2)
    assert "nothing can be written there (File name too long); choose another folder, or" in words
    assert sorted(tmp_path.iterdir()) == before


def test_names_that_are_too_long_to_look_at(line, said, tmp_path):
    path = tmp_path / ("n" * 300 + ".safetensors")
    for name in ("model", "vae", "routers", "embeddings", "latents", "script", "image"):
        assert "is not there" in (words := said(line(**{name: path}), 2)) or "too long" in words
    assert "too long" in said(line(embeddings=None, text_encoder=path), 2)


def test_a_film_that_is_being_written_is_said_before_sampling(line, said, tmp_path):
    (tmp_path / "film.partial.mp4").touch()
    assert "so film.mp4 is being written or was cut off by a crash" in said(line(), 2)
    assert (tmp_path / "film.partial.mp4").exists()


def test_a_sheet_that_is_there_is_replaced(line, tmp_path):
    sheet = tmp_path / "sheet.jpg"
    sheet.write_bytes(b"old")
    assert main(line(contact_sheet=sheet)) == 0
    assert Image.open(sheet).format == "JPEG"


def test_latents_go_elsewhere_when_the_disk_fills(line, said, tmp_path, monkeypatch):
    """A small disk; the shots' text, which is saved with the latents, is what fills it."""
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes a privileged user")
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    (tmp_path / "story.txt").write_text(f"{LONG}\n[4f] coffee")
    out = disk / "film.mp4"
    try:
        words = said(line(out=out), 1)
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    (place,) = elsewhere.iterdir()
    assert words.startswith(f"{disk / 'film.latents.safetensors'} cannot be written (No space left")
    assert f"so the latents are in {place}; make room, then decode them with --latents" in words
    assert main(line(embeddings=None, latents=place)) == 0


@contextlib.contextmanager
def files_of_at_most(size):
    """No file of this process or its children gets larger."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_latents_that_no_place_takes_are_decoded_at_once(line, said, tmp_path):
    (tmp_path / "story.txt").write_text(f"{LONG}\n[4f] coffee")
    film, latents = tmp_path / "film.mp4", tmp_path / "film.latents.safetensors"
    with files_of_at_most(20_000):
        words = said(line(), 1)
    assert words.startswith(f"{film} is written, but {latents} cannot be written (File too large)")
    assert film.exists() and not latents.exists()
    film.unlink()
    with files_of_at_most(5_000):
        words = said(line(), 1)
    assert words.startswith(f"{latents} cannot be written (File too large), nor can any other")
    assert "and the film could not be made: ffmpeg stopped with code" in words
    assert list(tmp_path.glob("*film*")) == []


def test_a_film_that_fails_says_where_its_latents_are(line, said, tmp_path):
    """Latents fit below this limit, and the film, of noise, does not."""
    (tmp_path / "story.txt").write_text("[49f] rain\n[48f] coffee")
    with files_of_at_most(200_000):
        words = said(line(size="96x64"), 1)
    latents = tmp_path / "film.latents.safetensors"
    assert words.startswith("ffmpeg stopped with code")
    assert words.endswith(f". The latents are in {latents}: --latents decodes them.")
    assert latents.exists() and list(tmp_path.glob("film*.mp4")) == []


# Stopping


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to interrupt")
@pytest.mark.parametrize("when", ["sampling", "decoding"])
def test_ctrl_c_is_one_line_and_130(line, tmp_path, when):
    """As a terminal sends it: to the program and its ffmpeg."""
    if when == "decoding":
        (tmp_path / "story.txt").write_text("[20s] rain\n[20s] coffee")
    steps = 1000 if when == "sampling" else 1
    run = subprocess.Popen(
        [sys.executable, "-m", "moga.generate", *line(steps=steps)], cwd=ROOT, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, bufsize=1,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = ""
    while f"{when}: " not in said or "1/" not in said.rpartition(f"{when}: ")[2]:
        said += (letter := run.stderr.read(1))
        assert letter, said
    os.killpg(run.pid, signal.SIGINT)
    said += run.communicate(timeout=300)[1]
    assert run.returncode == 130, said
    latents = tmp_path / "film.latents.safetensors"
    kept = f" The latents are in {latents}: --latents decodes them." * latents.exists()
    assert said.splitlines()[-1] == f"moga.generate: stopped.{kept}"
    assert "Traceback" not in said
    assert latents.exists() == (when == "decoding")
    assert list(tmp_path.glob("film*.mp4")) == []


# Folders


def broken(config):
    """A config.json with something wrong in it, by what is wrong."""
    texts = {
        "empty": "",
        "no JSON": "{",
        "a list": "[]",
        "a number": "3",
        "deep": "[" * 100_000,
        "no text": b"\xff\xfe",
        "nothing in it": "{}",
    }
    for name, value in config.items():
        if isinstance(value, int | float | list):
            for other in ("x", -1, 0, 1.5, [2], [], ["x"] * 16, {}, True, None, 10**30):
                texts[f"{name} {other!r:.9}"] = json.dumps({**config, name: other})
        texts[f"no {name}"] = json.dumps({k: v for k, v in config.items() if k != name})
    return texts


@pytest.fixture
def folder(tiny, tmp_path):
    import transformers

    folder = tmp_path / "folder"
    tiny.wan().save_pretrained(folder / "transformer")
    tiny.vae().save_pretrained(folder / "vae")
    tiny.text_encoder().save_pretrained(folder / "text_encoder")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\N{LOWER ONE EIGHTH BLOCK}a", -1.0)]
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_broken_settings_of_a_folder(folder, part, tmp_path):
    """Each loads, or is refused in one sentence."""
    from moga.checkpoint import CheckpointError
    from moga.hosts.diffusers import load_text_encoder, load_vae, load_wan

    load = {"transformer": load_wan, "vae": load_vae, "text_encoder": load_text_encoder}[part]
    whole = weights(load(folder))
    path = folder / part / "config.json"
    for wrong, content in broken(json.loads(path.read_text())).items():
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            found = weights(load(folder))
        except CheckpointError as error:
            words = str(error)
            assert str(folder / part) in words and "\n" not in words and len(words) < 500, wrong
        else:
            assert found.keys() == whole.keys(), wrong
            assert all(torch.equal(found[key], whole[key]) for key in whole), wrong


def weights(loaded):
    return (loaded[0] if isinstance(loaded, tuple) else loaded).state_dict()


@pytest.mark.parametrize(("file", "content"), [
    ("model_index.json", "{"),
    ("model_index.json", "[1]"),
    ("model_index.json", "{}"),
    ("model_index.json", '{"_class_name": ["WanPipeline"]}'),
    ("transformer/config.json", ""),
    ("transformer/config.json", "{}"),
    ("transformer/config.json", '{"_class_name": "WanTransformer3DModel"}'),
    ("transformer/diffusion_pytorch_model.safetensors", "torn"),
    ("vae/config.json", "[]"),
    ("vae/config.json", '{"_class_name": "AutoencoderKL"}'),
    ("vae/diffusion_pytorch_model.safetensors", "torn"),
    ("text_encoder/config.json", "null"),
    ("text_encoder/config.json", "{}"),
    ("text_encoder/model.safetensors", "torn"),
    ("tokenizer/tokenizer_config.json", "{"),
    ("tokenizer/tokenizer.json", "{"),
])  # fmt: skip
def test_a_broken_folder_is_one_sentence(line, folder, said, model_files, tmp_path, file, content):
    (folder / file).write_text(content)
    given = {"model": folder, "vae": None, "embeddings": None, "routers": model_files("routers")}
    words = said([*line(**given), "--plan"], 2)
    assert str(folder) in words or file.rpartition("/")[2] in words
    assert list(tmp_path.glob("film*")) == []


def test_a_folder_that_lost_a_weight_is_not_filled_with_random_ones(folder):
    from moga.checkpoint import CheckpointError
    from moga.hosts.diffusers import load_text_encoder, load_vae, load_wan

    for part, load in (
        ("transformer", load_wan),
        ("vae", load_vae),
        ("text_encoder", load_text_encoder),
    ):
        (path,) = (folder / part).glob("*.safetensors")
        tensors, metadata = read(path)
        lost = sorted(tensors)[0]
        save_file({k: t for k, t in tensors.items() if k != lost}, path, metadata)
        with pytest.raises(CheckpointError, match="lacks 1 weights, such as"):
            load(folder)


def test_a_model_of_static_branches_alone_needs_no_routers(line, model_files, tmp_path):
    config = MoGAConfig(branches=("windows", "frames"))
    write(tmp_path / "static.safetensors", load_file(model_files("plain")), config)
    assert main(line(model=tmp_path / "static.safetensors")) == 0


def test_no_ffmpeg_is_said_before_sampling(line, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert "imageio-ffmpeg" in said(line(), 2)
