"""Storyboards say what they show, and what they show can be read back."""

import json

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moga.data.storyboard import EVERYBODY, is_held_out, main, storyboard, write
from moga.data.storyboard.drawing import COLOURS, PLACES, SHAPES, TEXTURES
from moga.data.storyboard.evaluate import NOTHING, read_film, read_frame, same_character
from moga.shots import ShotList

SIZE = (160, 96)
stories = st.builds(
    storyboard,
    st.integers(0, 2**31),
    shots=st.none() | st.integers(1, 6),
    frames=st.integers(6, 15).map(lambda n: 4 * n + 1),
    even=st.booleans(),
    named=st.sampled_from(("full", "shape")),
    held_out=st.booleans(),
)


def film(story):
    return np.concatenate(list(story.render()))


@settings(max_examples=25, deadline=None)
@given(story=stories)
def test_every_shot_shows_the_character(story):
    seen = read_film(film(story), story.frame_starts)
    assert [one.character for one in seen] == [story.character] * len(story.shots)
    assert same_character(seen[0], seen[-1])


@pytest.mark.parametrize("seed", range(4))
def test_it_is_still_read_from_a_compressed_video(tmp_path, seed):
    story = storyboard(seed, shots=3, even=True)
    write(tmp_path / "film.mp4", story)
    with av.open(str(tmp_path / "film.mp4")) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert frames.shape == (93, 96, 160, 3)
    seen = read_film(frames, story.frame_starts)
    assert [one.character for one in seen] == [story.character] * 3


@pytest.mark.parametrize("character", [c for i, c in enumerate(EVERYBODY) if i % 7 == 0])
def test_a_blurred_picture_is_still_read(character):
    """Averaged over 3 x 3 pixels, as a small VAE blurs."""
    from moga.data.storyboard.drawing import paint, place

    words = (character.shape, character.colour, character.texture)
    frame = paint(place("sea", *SIZE), *words, 80, 50, 30)
    near = [np.roll(frame, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert read_frame(np.mean(near, 0).astype(np.uint8)).character == character


@pytest.mark.parametrize("name", PLACES)
def test_an_empty_place_shows_nobody(name):
    from moga.data.storyboard.drawing import place

    assert read_frame(place(name, *SIZE).astype(np.uint8)) == NOTHING


def test_noise_shows_nobody():
    noise = np.random.default_rng(0).integers(0, 256, (96, 160, 3)).astype(np.uint8)
    assert read_frame(noise).character is None


def test_two_characters_are_not_the_same():
    one, other = (storyboard(seed, shots=1) for seed in (1, 2))
    assert one.character != other.character
    seen = [read_film(film(story), (0,))[0] for story in (one, other)]
    assert not same_character(*seen)
    assert not same_character(NOTHING, NOTHING)


@settings(max_examples=25, deadline=None)
@given(story=stories)
def test_a_seed_is_a_film(story):
    assert np.array_equal(film(story), film(story))


def test_seeds_differ():
    assert len({storyboard(seed) for seed in range(50)}) == 50


@given(seed=st.integers(0, 10**6))
def test_held_out_characters_are_kept_from_training(seed):
    assert not is_held_out(storyboard(seed).character)
    assert is_held_out(storyboard(seed, held_out=True).character)


def test_each_word_is_seen_in_training():
    kept = [c for c in EVERYBODY if is_held_out(c)]
    assert len(kept) == len(EVERYBODY) // 8
    trained = [c for c in EVERYBODY if not is_held_out(c)]
    for words, name in ((SHAPES, "shape"), (COLOURS, "colour"), (TEXTURES, "texture")):
        assert {getattr(c, name) for c in trained} == {getattr(c, name) for c in kept} == set(words)


@settings(deadline=None)
@given(story=stories)
def test_texts_say_what_is_drawn(story):
    character = story.character
    said = story.global_caption
    assert character.shape in said
    assert (story.named == "full") == (character.colour in said and character.texture in said)
    for shot, caption in zip(story.shots, story.captions, strict=True):
        assert all(w in caption for w in (shot.camera, shot.action, shot.place, character.shape))


@settings(deadline=None)
@given(story=stories)
def test_the_script_has_the_cuts_of_the_film(story):
    shots = ShotList.parse(story.script(), story.fps)
    assert shots.frame_starts == story.frame_starts and shots.frames == story.frames
    row = story.row("x.mp4")
    assert [shot["start"] * story.fps for shot in row["shots"]] == list(story.frame_starts)
    texts = [f"{row['global']} {shot['caption']}" for shot in row["shots"]]
    assert texts == list(shots.texts)


@settings(max_examples=25, deadline=None)
@given(story=stories)
def test_a_cut_changes_the_place_and_movement_does_not(story):
    """Nearly every pixel changes at a cut; elsewhere those where the character is or was."""
    frames = film(story).astype(np.int16)
    changed = (np.abs(np.diff(frames, axis=0)).max(-1) > 2).mean((1, 2))
    cuts = [start - 1 for start in story.frame_starts[1:]]
    assert all(changed[cuts] > 0.55)
    assert all(np.delete(changed, cuts) < 0.45)


def test_the_command_writes_clips_and_rows(tmp_path, capsys):
    out = tmp_path / "set"
    words = [str(out), "--count", "3", "--frames", "13", "--shots", "2", "--workers", "1"]
    assert main(words) == 0
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [(out / row["video"]).stat().st_size > 500 for row in rows] == [True] * 3
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_drawing_goes_on_where_it_was_cut_off(tmp_path, capsys):
    words = ["--count", "3", "--frames", "13", "--shots", "2", "--workers", "1"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main([str(whole), *words]) == main([str(out), *words]) == 0
    first = (out / "clips/000000.mp4").stat().st_mtime_ns
    (out / "rows.jsonl").unlink()
    (out / "clips/000001.mp4").rename(out / "clips/000001.partial.mp4")
    assert main([str(out), *words, "--seed", "7"]) == 2
    assert "holds clips of other settings; delete it" in capsys.readouterr().err
    assert main([str(out), *words]) == 0
    assert (out / "clips/000000.mp4").stat().st_mtime_ns == first
    files = [sorted(path for path in x.rglob("*") if path.is_file()) for x in (whole, out)]
    assert [p.relative_to(whole) for p in files[0]] == [p.relative_to(out) for p in files[1]]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "12"], "frames is 12; give 4n + 1, such as 13"),
        (["--frames", "5", "--shots", "3"], "shots is 3; 5 frames hold 1 to 2"),
        (["--size", "big"], "--size is 'big'"),
    ],
)
def test_a_wrong_request(tmp_path, capsys, words, message):
    assert main([str(tmp_path / "set"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
