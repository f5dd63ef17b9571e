"""Chunked VAE Decode to Video: what is saved, and that nothing sampled is lost when it fails."""

import contextlib
import json
import os
import re
import resource
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from harness import tiny

av = pytest.importorskip("av", reason="PyAV reads the written videos back: pip install av")

WORKFLOW = {"nodes": [{"id": 1, "text": "wörk; = flow"}], "version": 0.4}
ON_CPU = ("h264", "h265", "av1", "prores", "ffv1", "png")


@pytest.fixture(scope="module")
def vae(comfy):
    from comfy.sd import VAE

    with tiny.small_models():
        return VAE(sd=tiny.vae("2.1"))


@pytest.fixture
def latent():
    """5 latent frames, 17 frames of 64x96."""
    return make_latent(5)


@pytest.fixture
def failing(vae):
    """Makes the decoder fail with an exception at its third call."""
    decoder, calls = vae.first_stage_model.decoder, []
    forward = decoder.forward

    def install(error):
        def fail_third(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise error
            return forward(*args, **kwargs)

        decoder.forward = fail_third

    yield install
    decoder.__dict__.pop("forward", None)


def make_latent(frames, batch=1):
    generator = torch.Generator().manual_seed(0)
    return {"samples": torch.randn(batch, 16, frames, 8, 12, generator=generator)}


def save_prompt(comfy, vae, samples, folder, **inputs):
    """A prompt with one save node; what isn't a widget's value comes from a node of its own."""
    inputs = {"fps": 16.0, "filename_prefix": f"{folder}/a", "quality": 18, **inputs}
    inputs |= {"samples": samples, "vae": vae}
    linked = {n: v for n, v in inputs.items() if not isinstance(v, (int, float, str))}
    prompt = {name: comfy.put(value) for name, value in linked.items()}
    inputs |= {name: [name, 0] for name in linked}
    return {**prompt, "save": {"class_type": "MoGADecodeToVideo", "inputs": inputs}}


def save(comfy, vae, samples, folder, **inputs):
    """Names in the output folder after a run that has to succeed, and what the node shows."""
    result = comfy.run(save_prompt(comfy, vae, samples, folder, **inputs))
    return sorted(os.listdir(comfy.output_dir / folder)), result["save"]


def failure(comfy, vae, samples, folder, **inputs):
    return comfy.run(save_prompt(comfy, vae, samples, folder, **inputs), check=False).error.message


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


def frame_count(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def read(path):
    """Frames, uint8 (T, H, W, 3)."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.stack([torch.from_numpy(frame) for frame in frames])


@torch.inference_mode()
def core_decode(vae, samples):
    return vae.decode(samples["samples"]).flatten(0, 1)


def test_only_the_video_stays(comfy, vae, latent):
    names, shown = save(comfy, vae, latent, "plain")
    assert names == ["a_00001_.mp4"]
    assert [file["filename"] for file in shown["images"]] == names


def test_frames_before_encoding_are_those_of_vae_decode(comfy, vae, latent):
    save(comfy, vae, latent, "exact", format="ffv1")
    expected = core_decode(vae, latent).mul(255).round().to(torch.uint8)
    assert torch.equal(read(comfy.output_dir / "exact" / "a_00001_.mkv"), expected)


def test_kept_latent_is_loaded_by_core(comfy, vae, latent):
    names, _ = save(comfy, vae, latent, "kept", keep_latent=True)
    assert names == ["a_00001_.latent", "a_00001_.mp4"]
    shutil.copy(comfy.output_dir / "kept" / names[0], comfy.base / "input" / "kept.latent")
    (loaded,) = comfy.call("LoadLatent", latent="kept.latent")
    assert torch.equal(loaded["samples"], latent["samples"])


def test_failure_says_where_the_latent_lies_and_it_resumes(comfy, vae, latent, failing):
    before = children()
    failing(RuntimeError("out of luck"))
    message = failure(comfy, vae, latent, "rescued")
    path = comfy.output_dir / "rescued" / "a_00001_.latent"
    assert "out of luck" in message and str(path) in message and "Load Latent" in message
    assert str(comfy.base / "input") in message
    assert os.listdir(path.parent) == [path.name] and children() == before

    vae.first_stage_model.decoder.__dict__.pop("forward")
    shutil.move(path, comfy.base / "input" / "rescued.latent")  # as the message says
    (loaded,) = comfy.call("LoadLatent", latent="rescued.latent")
    assert save(comfy, vae, loaded, "rescued")[0] == ["a_00001_.mp4"]


def test_running_out_of_memory_stays_that_kind_of_error(comfy, vae, latent, failing):
    import comfy.model_management as mm

    failing(mm.OOM_EXCEPTION("CUDA out of memory"))
    message = failure(comfy, vae, latent, "oom")
    assert "OutOfMemoryError" in message and "a_00001_.latent" in message


def test_interrupt_keeps_the_latent_and_nothing_else(comfy, vae, latent, failing, caplog):
    import comfy.model_management as mm

    before = children()
    failing(mm.InterruptProcessingException())
    assert "interrupted" in failure(comfy, vae, latent, "stopped")
    assert os.listdir(comfy.output_dir / "stopped") == ["a_00001_.latent"]
    assert children() == before


def test_ffmpeg_killed_in_mid_run(comfy, vae, monkeypatch):
    video = comfy.module("moga.video").VideoWriter
    write = video.write

    def kill_then_write(self, frames):
        if self.frames == 5:
            self.kill()
            self._process.wait()
        write(self, frames)

    monkeypatch.setattr(video, "write", kill_then_write)
    before = children()
    message = failure(comfy, vae, make_latent(9), "killed")
    assert re.search(r"ffmpeg stopped with code -9 at frame \d+", message)
    assert "a_00001_.latent" in message
    assert os.listdir(comfy.output_dir / "killed") == ["a_00001_.latent"] and children() == before


def test_too_small_a_disk_is_refused_first(comfy, vae, latent, monkeypatch):
    usage = namedtuple("usage", "total used free")
    files = comfy.module("moga.files")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 10**6))
    message = failure(comfy, vae, latent, "small")
    assert re.search(r"small has 1 MB free and the video takes about [\d.]+ MB", message)
    assert os.listdir(comfy.output_dir / "small") == []


@contextlib.contextmanager
def files_of_at_most(size):
    """What a full disk is to a program: the system refuses to let a file grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_that_is_full_before_the_latent_is_saved(comfy, vae, latent):
    with files_of_at_most(10_000):
        message = failure(comfy, vae, latent, "no_latent")
    assert "can't be saved to" in message and "still in ComfyUI's cache" in message
    assert os.listdir(comfy.output_dir / "no_latent") == []


def test_disk_that_is_full_in_mid_run(comfy, vae, latent):
    with files_of_at_most(100_000):  # the latent is smaller, the video larger
        message = failure(comfy, vae, latent, "full", format="ffv1")
    assert "ffmpeg stopped with code" in message and "Load Latent" in message
    assert os.listdir(comfy.output_dir / "full") == ["a_00001_.latent"]


def test_output_folder_that_cannot_be_written_to(comfy, vae, latent):
    (comfy.output_dir / "blocked").write_text("a file where the folder should be")
    message = failure(comfy, vae, latent, "blocked")
    assert "Nothing can be written under" in message and str(comfy.output_dir) in message


def test_unwritable_output_folder_is_refused_before_sampling(comfy, vae, monkeypatch, tmp_path):
    import folder_paths

    (tmp_path / "file").touch()
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "file"))
    assert "can't be written to" in failure(comfy, None, None, "any")


def test_name_that_another_comfyui_takes_meanwhile(comfy, vae, latent, monkeypatch):
    output = comfy.module("moga.hosts.comfyui.output").folder_paths
    choose, calls = output.get_save_image_path, []

    def lose_the_race(*args):
        chosen = choose(*args)
        if not calls:
            (comfy.output_dir / "race" / "a_00001_.latent").write_text("theirs")
        calls.append(1)
        return chosen

    monkeypatch.setattr(output, "get_save_image_path", lose_the_race)
    names, _ = save(comfy, vae, latent, "race")
    assert names == ["a_00001_.latent", "a_00002_.mp4"] and len(calls) == 2
    assert (comfy.output_dir / "race" / names[0]).read_text() == "theirs"


def test_nan_leaves_no_trace(comfy, vae, latent):
    latent["samples"][0, 0, 3, 0, 0] = torch.nan
    assert "from latent frame 3 on" in failure(comfy, vae, latent, "nan")
    assert not (comfy.output_dir / "nan").exists()


@pytest.mark.parametrize("name", ON_CPU)
def test_every_format_is_saved_and_shown(comfy, vae, latent, name):
    (file,), shown = save(comfy, vae, latent, name, format=name)
    path = comfy.output_dir / name / file
    assert frame_count(path / "%06d.png" if path.is_dir() else path) == 17
    (image,) = shown["images"]
    if path.suffix == ".mp4":
        assert image["type"] == "output" and image["filename"] == file
    else:
        assert image["type"] == "temp" and (comfy.base / "temp" / image["filename"]).exists()


def test_png_folder_gives_no_video(comfy, vae, latent):
    prompt = save_prompt(comfy, vae, latent, "pictures", format="png")
    prompt["read"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["save", 0]}}
    prompt["images"] = {"class_type": "TestCapture", "inputs": {"value": ["read", 0]}}
    result = comfy.run(prompt)
    assert "images" not in result.captured and result["save"]["images"]


def test_format_that_does_not_work_here_is_refused_first(comfy, monkeypatch):
    monkeypatch.setattr(comfy.module("nodes.decode"), "trial", lambda encoder: "no such card")
    assert "no such card" in failure(comfy, None, None, "nvenc", format="h264_nvenc")


def test_overlap_of_more_than_half_a_tile_is_refused_first(comfy):
    message = failure(comfy, None, None, "tiles", tile_size=128, tile_overlap=96)
    assert "tile_overlap is 96 and tile_size 128" in message


def tags_of(path):
    with av.open(str(path)) as container:
        return {key.lower(): value for key, value in container.metadata.items()}


@pytest.mark.parametrize("switch", [True, False])
def test_workflow_is_in_the_file_as_core_puts_it(comfy, vae, latent, switch):
    node = comfy.nodes["MoGADecodeToVideo"]
    prompt = {"1": {"class_type": "MoGADecodeToVideo"}}
    node = with_hidden(node, prompt=prompt, extra_pnginfo={"workflow": WORKFLOW})
    result = node.execute(
        latent, vae, 16.0, f"tags{switch}/a", 18, save_workflow=switch, keep_latent=True
    )
    folder = comfy.output_dir / f"tags{switch}"
    tags = tags_of(folder / "a_00001_.mp4")
    assert result.ui is not None
    if switch:
        assert json.loads(tags["workflow"]) == WORKFLOW and json.loads(tags["prompt"]) == prompt
    else:
        assert not {"workflow", "prompt"} & set(tags)

    from safetensors import safe_open

    with safe_open(folder / "a_00001_.latent", "pt") as file:
        assert bool(file.metadata()) == switch


def with_hidden(node, **hidden):
    """The node as ComfyUI prepares it to run a prompt."""
    prepared = node.PREPARE_CLASS_CLONE(None)
    prepared.hidden = SimpleNamespace(**hidden)
    return prepared


def test_graph_saved_before_these_inputs_still_runs(comfy, vae, latent):
    names, _ = save(comfy, vae, latent, "old")  # its prompt has only the first inputs
    assert names == ["a_00001_.mp4"]
    inputs = comfy.nodes["MoGADecodeToVideo"].INPUT_TYPES()
    widgets = [name for name in inputs["required"] if name not in ("samples", "vae")]
    assert widgets == ["fps", "filename_prefix", "quality"]


SCRIPT = "[5f] A door opens\n[8f] Close-up; her eyes\n[4f] Rain"


def make_shots(comfy, script=SCRIPT, fps=16):
    return comfy.module("moga.shots").ShotList.parse(script, fps)


def test_shots_become_files_and_chapters(comfy, vae, latent):
    names, shown = save(comfy, vae, latent, "shots", shots=make_shots(comfy), format="h264")
    parts = [f"a_00001_shot_0{n}.mp4" for n in (1, 2, 3)]
    assert names == sorted(["a_00001_.mp4", *parts])
    assert [file["filename"] for file in shown["images"]] == ["a_00001_.mp4", *parts]
    folder = comfy.output_dir / "shots"
    assert [frame_count(folder / part) for part in parts] == [5, 8, 4]
    with av.open(str(folder / "a_00001_.mp4")) as container:
        marks = [
            (c["metadata"]["title"], c["start"] * c["time_base"]) for c in container.chapters()
        ]
    assert [title for title, _ in marks] == ["A door opens", "Close-up; her eyes", "Rain"]
    assert [round(start * 16) for _, start in marks] == [0, 5, 13]


def test_shot_files_are_the_frames_of_the_video(comfy, vae, latent):
    save(comfy, vae, latent, "cuts", shots=make_shots(comfy), format="ffv1")
    folder = comfy.output_dir / "cuts"
    whole, *parts = (read(folder / name) for name in sorted(os.listdir(folder)))
    assert torch.equal(torch.cat(parts), whole)


def test_shots_of_another_length_are_refused_and_the_latent_kept(comfy, vae, latent):
    message = failure(comfy, vae, latent, "other", shots=make_shots(comfy, "[9f] short"))
    assert "shots are 9 frames and samples decode to 17" in message
    assert "cut them off with Trim Video Latent and its trim_latent first." in message
    message = failure(comfy, vae, latent, "other", shots=make_shots(comfy, "[21f] long"))
    assert "shots that samples were made with, or disconnect them.\nThe sampled" in message
    kept = sorted(os.listdir(comfy.output_dir / "other"))
    assert kept == ["a_00001_.latent", "a_00002_.latent"]


def test_a_video_at_another_rate_than_its_shots_is_said(comfy, vae, latent, caplog):
    save(comfy, vae, latent, "fast", shots=make_shots(comfy), fps=24)
    assert "the shots were timed at 16, so the video plays 1.5 times as fast" in caplog.text
    caplog.clear()
    for fps in (16, 23.976):
        shots = make_shots(comfy, "[17f] one", fps)
        save(comfy, vae, latent, f"right {fps}", shots=shots, fps=fps)
    assert "as fast" not in caplog.text


def test_failure_leaves_no_shot_files(comfy, vae, latent, failing):
    failing(RuntimeError("out of luck"))
    failure(comfy, vae, latent, "half", shots=make_shots(comfy))
    assert os.listdir(comfy.output_dir / "half") == ["a_00001_.latent"]


def test_core_saves_the_video_with_chapters_again(comfy, vae, latent):
    prompt = save_prompt(comfy, vae, latent, "first", shots=make_shots(comfy), file_per_shot=False)
    inputs = {"filename_prefix": "second/a", "format": "auto", "codec": "auto"}
    prompt["again"] = {"class_type": "SaveVideo", "inputs": {"video": ["save", 0], **inputs}}
    comfy.run(prompt)
    assert os.listdir(comfy.output_dir / "first") == ["a_00001_.mp4"]
    assert frame_count(comfy.output_dir / "second" / "a_00001_.mp4") == 17


def test_sound_is_in_the_video_and_in_its_shots(comfy, vae, latent):
    wave = torch.sin(torch.arange(48000) / 20).repeat(1, 2, 1) / 2
    audio = {"waveform": wave, "sample_rate": 24000}  # 2 s, for 17 frames of 16 a second
    names, _ = save(comfy, vae, latent, "sound", audio=audio, shots=make_shots(comfy))
    lengths = []
    for name in names:
        with av.open(str(comfy.output_dir / "sound" / name)) as container:
            heard = sum(frame.samples for frame in container.decode(audio=0))
            lengths.append(heard / 24000)
    expected = [17 / 16, 5 / 16, 8 / 16, 4 / 16]
    assert all(abs(got - wanted) < 0.1 for got, wanted in zip(lengths, expected, strict=True))


def test_progress_counts_frames_and_shows_a_picture(comfy, vae, latent, monkeypatch):
    from comfy import utils

    progress = comfy.module("moga.hosts.comfyui.progress")
    monkeypatch.setattr(progress, "SHOW_EVERY", 0)
    seen = []

    def hook(value, total, preview, node_id=None, **rest):
        seen.append((value, total, preview))

    monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", hook)
    save(comfy, vae, make_latent(9), "bar")
    assert seen[-1][:2] == (33, 33) and not any(preview for *_, preview in seen)
    save(comfy, vae, make_latent(9), "still", format="ffv1")  # which no browser plays
    assert seen[-1][:2] == (33, 33)
    kind, picture, size = next(preview for *_, preview in seen if preview)
    assert (kind, picture.size) == ("JPEG", (96, 64)) and size == progress.PICTURE_SIZE


def test_log_tells_time_spent_and_left(comfy, monkeypatch):
    module = comfy.module("moga.hosts.comfyui.progress")
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    progress = module.Progress(100)
    now = 60.0
    progress.advance(20)
    assert str(progress) == "20 of 100 frames, 0.33 a second, 1:00 so far, 4:00 left"
    progress.advance(80)
    assert str(progress) == "100 of 100 frames, 1.67 a second, in 1:00"
