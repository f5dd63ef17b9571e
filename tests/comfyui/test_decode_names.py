"""Names of files: what may name one, what is filled in, and when the rest is refused."""

import asyncio
import json
import os
import re
from datetime import datetime

import pytest
import torch
from harness import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

av = pytest.importorskip("av", reason="PyAV reads the written videos back: pip install av")


@pytest.fixture(scope="module")
def vae(comfy):
    from comfy.sd import VAE

    with tiny.small_models():
        return VAE(sd=tiny.vae("2.1"))


def save_prompt(comfy, vae, prefix, **inputs):
    """A prompt that saves one frame of 16x16; what isn't a widget's value comes from a node."""
    inputs = {"fps": 16.0, "filename_prefix": prefix, "quality": 18, **inputs}
    inputs |= {"samples": {"samples": torch.zeros(1, 16, 1, 2, 2)}, "vae": vae}
    linked = {n: v for n, v in inputs.items() if not isinstance(v, (int, float, str))}
    prompt = {name: comfy.put(value) for name, value in linked.items()}
    inputs |= {name: [name, 0] for name in linked}
    return {**prompt, "save": {"class_type": "MoGADecodeToVideo", "inputs": inputs}}


def queue_errors(prompt):
    """What ComfyUI answers when a prompt is queued: (field, words) of each error of the node."""
    import execution

    _, _, _, found = asyncio.run(execution.validate_prompt("id", prompt, None))
    errors = found.get("save", {}).get("errors", [])
    return [(each["extra_info"].get("input_name"), each["details"]) for each in errors]


def everything(folder):
    """Contents of all files under a folder, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


STRANGE_KEYS = (
    "../../../victim",
    "{outside}/created",
    "a/b",
    "..",
    "",
    "\0",
    "\ud800",
    "[CHAPTER]",
    "x\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=1\ntitle",
    "timecode",
    "creation_time",
    "k" * 5000,
)


@pytest.mark.parametrize("format", ["png", "h264", "prores", "ffv1"])
def test_what_comes_with_a_prompt_names_no_file(comfy, vae, tmp_path, format):
    victim = tmp_path / "victim.json"
    victim.write_text("precious")
    outside = {key.format(outside=tmp_path): "x" for key in STRANGE_KEYS}
    to_victim = os.path.relpath(tmp_path / "victim", comfy.output_dir / "keys" / format)
    extra = {**outside, to_victim: "x", f"{to_victim}/../../x": "x", "workflow": {"nodes": []}}
    before = set(everything(comfy.base))
    prompt = save_prompt(comfy, vae, f"keys/{format}/a", format=format, keep_latent=True)
    result = run_with(comfy, prompt, extra)
    assert result.error is None, result.error
    assert everything(tmp_path) == {victim: b"precious"}
    inside = comfy.output_dir / "keys" / format
    made = {p for p in everything(comfy.base) if p not in before and inside not in p.parents}
    assert all(path.parent == comfy.base / "temp" for path in made)  # the still
    if format == "png":
        names = {"000001.png", "workflow.json", "prompt.json", "extra_pnginfo.json"}
        assert set(os.listdir(inside / "a_00001_")) == names
        kept = json.loads((inside / "a_00001_" / "extra_pnginfo.json").read_text())
        assert kept["../../../victim"] == "x"
    else:
        (video,) = [path for path in inside.iterdir() if path.suffix != ".latent"]
        with av.open(str(video)) as container:
            assert not container.chapters()
            tags = {key.lower(): value for key, value in container.metadata.items()}
        assert json.loads(tags["workflow"]) == {"nodes": []} and "victim" not in tags


def run_with(comfy, prompt, extra_pnginfo):
    """Run a prompt with what POST /prompt lets anybody send beside it."""
    executor = comfy.executor()
    execute = executor.execute_async

    async def with_extra(prompt, prompt_id, extra, outputs):
        await execute(prompt, prompt_id, {"extra_pnginfo": extra_pnginfo}, outputs)

    executor.execute_async = with_extra
    return comfy.run(prompt, check=False, executor=executor)


def test_captions_name_no_file_and_make_no_chapter(comfy, vae):
    caption = "../../../victim\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=9\ntitle=/x"
    Shot, ShotList = (getattr(comfy.module("moga.shots"), name) for name in ("Shot", "ShotList"))
    shots = ShotList((Shot(caption, frames=1),), 16)
    comfy.run(save_prompt(comfy, vae, "captions/a", shots=shots))
    names = sorted(os.listdir(comfy.output_dir / "captions"))
    assert names == ["a_00001_.mp4", "a_00001_shot_01.mp4"]
    with av.open(str(comfy.output_dir / "captions" / names[0])) as container:
        (mark,) = container.chapters()
    assert mark["metadata"]["title"].startswith("../../../victim")


@pytest.mark.parametrize(
    "extra", [[1], "workflow", 7, {"workflow": [1]}, {"workflow": {"nodes": 3}}]
)
def test_extra_pnginfo_of_another_kind_does_no_harm(comfy, vae, extra):
    assert run_with(comfy, save_prompt(comfy, vae, "odd/a"), extra).error is None


def test_library_refuses_a_tag_that_would_name_a_file_elsewhere(comfy, tmp_path):
    VideoWriter = comfy.module("moga.video").VideoWriter
    png = comfy.module("moga.video.formats").png
    for key in ("../x", "/x", "a b", "", "..", "a.b"):
        with pytest.raises(ValueError, match=r"^tags have the key "):
            VideoWriter(tmp_path / "a", 16, 16, 16, png(), tags={key: "x"})


# Fields


@settings(deadline=None)
@given(
    now=st.datetimes(),
    pieces=st.lists(
        st.sampled_from(["yyyy", "yy", "M", "MM", "d", "dd", "h", "hh", "m", "mm", "s", "ss"])
    ),
)
def test_dates_are_filled_in_as_in_the_browser(comfy, now, pieces):
    """Against the letters' meaning, written out once more."""
    fill = comfy.module("moga.hosts.comfyui.fields").fill_dates
    meaning = {"yyyy": f"{now.year:04}", "yy": f"{now.year:04}"[2:]}
    for letter, value in zip(
        "Mdhms", (now.month, now.day, now.hour, now.minute, now.second), strict=True
    ):
        meaning |= {letter: str(value), letter * 2: f"{value:02}"}
    form = "-".join(pieces)
    assert fill(f"a%date:{form}%b", now) == "a" + "-".join(meaning[p] for p in pieces) + "b"


def test_a_date_in_a_prompt(comfy, vae):
    comfy.run(save_prompt(comfy, vae, "dates/%date:yyyy-MM-dd%/film %date:hh.mm% %width%"))
    (folder,) = os.listdir(comfy.output_dir / "dates")
    assert abs((datetime.now() - datetime.strptime(folder, "%Y-%m-%d")).days) <= 1
    (name,) = os.listdir(comfy.output_dir / "dates" / folder)
    assert re.fullmatch(r"film \d\d\.\d\d 16_00001_\.mp4", name)


def with_noise(prompt, **more):
    """The prompt with a node to take values from."""
    noise = {"class_type": "RandomNoise", "inputs": {"noise_seed": 42}, **more}
    return {**prompt, "7": noise}


def test_values_of_widgets_are_filled_in(comfy, vae):
    cases = {
        "type/%RandomNoise.noise_seed%_a": ({}, None, "type/42_a"),
        "title/%My noise.noise_seed%": ({"_meta": {"title": "My noise"}}, None, "title/42"),
        "name/%N 1.noise_seed%": (
            {},
            named({"id": 7, "properties": {"Node name for S&R": "N 1"}}),
            "name/42",
        ),
        "own/%MoGADecodeToVideo.fps%-%MoGADecodeToVideo.quality%": ({}, None, "own/16-18"),
    }
    for prefix, (more, workflow, expected) in cases.items():
        comfy.run(with_noise(save_prompt(comfy, vae, prefix), **more), workflow=workflow)
        folder, name = expected.split("/")
        assert os.listdir(comfy.output_dir / folder) == [f"{name}_00001_.mp4"]


def named(*nodes):
    return {"nodes": list(nodes)}


def test_a_value_cannot_leave_the_folder(comfy, vae):
    text = {"class_type": "StringConcatenate", "inputs": {"string_b": "", "delimiter": ""}}
    for value, name in (("../../../x", ".._.._.._x"), ("/etc/x", "_etc_x"), ("a\0\\b", "a__b")):
        text["inputs"]["string_a"] = value
        prompt = save_prompt(comfy, vae, "values/%StringConcatenate.string_a%")
        comfy.run({**prompt, "7": text})
        assert f"{name}_00001_.mp4" in os.listdir(comfy.output_dir / "values")
    text["inputs"]["string_a"] = ".."
    prompt = save_prompt(comfy, vae, "%StringConcatenate.string_a%/x")
    message = comfy.run({**prompt, "7": text}, check=False).error.message
    assert "filename_prefix '../x' leaves ComfyUI's output folder" in message


@pytest.mark.parametrize(
    ("prefix", "problem"),
    [
        ("%Nobody.seed%", "no node of this workflow is called 'Nobody'"),
        (
            "%RandomNoise.seed%",
            "'RandomNoise' has no value of its own for 'seed'; choose one of noise_seed",
        ),
        ("%MoGADecodeToVideo.samples%", "no value of its own for 'samples'"),
    ],
)
def test_a_value_that_is_not_there_is_refused_before_sampling(comfy, vae, prefix, problem):
    prompt = with_noise(save_prompt(comfy, vae, prefix))
    prompt["samples"] = {
        "class_type": "RandomNoise",
        "inputs": {"noise_seed": 1},
    }  # no latent at all
    prompt["samples"] = comfy.put(None)
    message = comfy.run(prompt, check=False).error.message
    assert problem in message and "ValueError" in message


@pytest.mark.parametrize("prefix", ["a%seed%", "%Year%", "%dates%"])
def test_a_field_that_nobody_fills_in_is_refused_when_queued(comfy, prefix):
    ((field, words),) = queue_errors(save_prompt(comfy, None, prefix))
    assert field == "filename_prefix" and "which nothing fills in; use %width%" in words


@pytest.mark.parametrize("prefix", ["50%", "100% of 50%", "a % b", "%"])
def test_other_percent_signs_are_letters(comfy, vae, prefix):
    comfy.run(save_prompt(comfy, vae, f"percent/{prefix}"))
    assert f"{prefix}_00001_.mp4" in os.listdir(comfy.output_dir / "percent")


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_prefix_and_no_value_names_a_file_elsewhere(comfy, prefix, value):
    """Whatever is not refused stays in the output folder, in ComfyUI's own hands too."""
    import folder_paths

    fields, output = (comfy.module(f"moga.hosts.comfyui.{name}") for name in ("fields", "output"))
    try:
        name = fields.fill_widgets(f"{prefix}%a.b%", lambda node, widget: value)
    except ValueError:
        return
    if output.prefix_problem(name) is not None:
        return
    root = os.path.realpath(folder_paths.get_output_directory())
    path = os.path.realpath(os.path.join(root, os.path.normpath(name)))
    assert path.startswith(root + os.sep)


# Refusals


BAD = {"filename_prefix": "../out", "tile_size": 5000, "quality": 99, "format": "gif", "fps": 0.1}


@pytest.mark.parametrize("field", BAD)
def test_a_bad_field_is_shown_once_under_its_name(comfy, field):
    prompt = save_prompt(comfy, None, "one/a", tile_overlap=64, tile_size=0, format="h264")
    prompt["save"]["inputs"][field] = BAD[field]
    if field == "format" and comfy.version < (0, 4):  # which checks no list of a node like ours
        assert queue_errors(prompt) == []
        message = comfy.run(prompt, check=False).error.message
        assert message.count("format is 'gif'; choose one of h264") == 1
    else:
        assert [name for name, _ in queue_errors(prompt)] == [field]


def test_a_missing_ffmpeg_is_said_once_when_queued(comfy, monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    ((_, words),) = queue_errors(save_prompt(comfy, None, "no ffmpeg/a"))
    assert "Saving a video needs ffmpeg, and imageio-ffmpeg has no program to run at" in words


def test_an_empty_sound_is_refused_before_sampling(comfy, vae):
    for shape in ((1, 2, 0), (0, 2, 9), (1, 0, 9)):
        sound = {"waveform": torch.zeros(shape), "sample_rate": 48000}
        prompt = save_prompt(comfy, vae, "silent/a", audio=sound)
        prompt["samples"]["inputs"]["key"] = "none such"  # fails where a sampler would run
        message = comfy.run(prompt, check=False).error.message
        assert message.count("it is empty; give a sound, or leave audio out.") == 1


def test_what_takes_two_fields_is_said_once_before_sampling(comfy):
    for node in ("MoGADecodeToVideo", "MoGAChunkedDecode"):
        prompt = save_prompt(comfy, None, "two/a")
        prompt["save"]["class_type"] = node
        prompt["save"]["inputs"] |= {"tile_size": 128, "tile_overlap": 96}
        prompt["end"] = {"class_type": "TestCapture", "inputs": {"value": ["save", 0]}}
        assert queue_errors(prompt) == []
        message = comfy.run(prompt, check=False).error.message
        assert message.count("tile_overlap is 96 and tile_size 128") == 1
        assert f"{node}: ValueError:" in message


@pytest.mark.parametrize("letter", ["a", "é", "\u5b57", "\U0001f3ac"])
def test_the_longest_name_is_saved_and_a_longer_one_refused_when_queued(comfy, vae, letter):
    room = 255 - len("_00001_shot_001.partial.mp4")
    longest = letter * (room // len(letter.encode()))
    for format in ("h264", "png", "ffv1"):
        prompt = save_prompt(comfy, vae, f"long/{longest}", format=format, keep_latent=True)
        comfy.run(prompt)
    assert len(os.listdir(comfy.output_dir / "long")) >= 6
    ((field, words),) = queue_errors(save_prompt(comfy, None, f"long/{longest}{letter}"))
    assert field == "filename_prefix" and "bytes, and here at most 228 fit" in words
    ((_, words),) = queue_errors(save_prompt(comfy, None, f"{'é' * 128}/a"))
    assert "has a name of 256 bytes, and here at most 255 fit; shorten it." in words
    ((_, words),) = queue_errors(save_prompt(comfy, None, "/".join(["folder"] * 700)))
    assert "makes a path of" in words


@pytest.mark.parametrize("prefix", ["a\nb", "a\0b", "\ud800"])
def test_characters_that_no_name_holds_are_refused_when_queued(comfy, prefix):
    ((field, words),) = queue_errors(save_prompt(comfy, None, prefix))
    assert field == "filename_prefix" and "which file names cannot hold; leave it out." in words


def test_fields_are_not_refused_for_their_length(comfy):
    assert queue_errors(save_prompt(comfy, None, "a" * 200 + "%Node.widget%")) == []
