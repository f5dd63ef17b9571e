"""What the page shows of Decode to Video, and what an unchanged Run does."""

import gc
import os
import weakref

import pytest
import torch
from harness import tiny

pytest.importorskip("imageio_ffmpeg", reason="ffmpeg comes with it: pip install imageio-ffmpeg")


@pytest.fixture(scope="module")
def vae(comfy):
    return make_vae("2.1")


def make_vae(kind):
    from comfy.sd import VAE

    with tiny.small_models():
        return VAE(sd=tiny.vae(kind))


@pytest.fixture
def page(comfy, monkeypatch):
    """(node, text) of each line that the server sends to the page."""
    sent = []

    def send(text, node_id, sid=None):
        sent.append((node_id, text))

    monkeypatch.setattr(comfy.server, "send_progress_text", send)
    return sent


def make_latent(channels=16, frames=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"samples": torch.randn(1, channels, frames, 2, 2, generator=generator)}


def save_prompt(comfy, vae, samples, folder, **inputs):
    inputs = {"fps": 16.0, "filename_prefix": f"{folder}/a", "quality": 18, **inputs}
    inputs |= {"samples": samples, "vae": vae}
    linked = {n: v for n, v in inputs.items() if not isinstance(v, (int, float, str))}
    prompt = {name: comfy.put(value) for name, value in linked.items()}
    inputs |= {name: [name, 0] for name in linked}
    return {**prompt, "save": {"class_type": "MoGADecodeToVideo", "inputs": inputs}}


def shots_of(comfy, script="[9f] one", fps=16):
    return comfy.module("moga.shots").ShotList.parse(script, fps)


@pytest.fixture
def decoder(vae):
    """Counts the decoder's calls; ``at`` calls something at the third one."""
    inner = vae.first_stage_model.decoder
    forward, calls, at = inner.forward, [], []

    def counted(*args, **kwargs):
        calls.append(1)
        if at and len(calls) == 3:
            at[0]()
        return forward(*args, **kwargs)

    inner.forward = counted
    counted.calls, counted.at = calls, at
    yield counted
    inner.__dict__.pop("forward", None)


# What the page shows


def test_the_node_says_what_it_does_and_has_done(comfy, vae, page):
    result = comfy.run(save_prompt(comfy, vae, make_latent(), "told"))
    assert {node for node, _ in page} == {"save"}
    asked, decodes, done = (text for _, text in page)
    assert asked == "h264, 16 fps." and decodes == "Decodes 9 frames of 16x16."
    assert done.startswith("a_00001_.mp4: 9 of 9 frames, ")
    assert result["save"]["text"] == [done]


def test_an_interrupt_says_where_the_latent_lies(comfy, vae, page, decoder):
    import comfy.model_management as mm

    decoder.at.append(lambda: mm.interrupt_current_processing(True))
    result = comfy.run(save_prompt(comfy, vae, make_latent(frames=9), "told of"), check=False)
    assert "interrupted" in result.error.message
    path = comfy.output_dir / "told of" / "a_00001_.latent"
    assert os.listdir(path.parent) == [path.name]
    node, text = page[-1]
    assert node == "save" and text.startswith(
        f"Interrupted. The sampled latent is saved in {path}."
    )
    assert str(comfy.base / "input") in text and "connect Load Latent" in text


def test_the_page_takes_the_text_as_the_servers_protocol_has_it(comfy, vae, monkeypatch):
    """The real server's own method, of this version, down to the bytes that are sent."""
    import server

    sent = []
    real = object.__new__(server.PromptServer)
    real.send_sync = lambda event, data, sid=None: sent.append((event, data))
    monkeypatch.setattr(comfy.server, "send_progress_text", real.send_progress_text)
    comfy.run(save_prompt(comfy, vae, make_latent(), "bytes"))
    assert sent[0] == (server.BinaryEventTypes.TEXT, b"\0\0\0\4saveh264, 16 fps.")


@pytest.mark.parametrize(
    ("kind", "fps", "timed", "remark"),
    [
        ("2.1", 24, 16, "fps is 24 and the shots were timed at 16, so the video plays 1.5 times"),
        ("2.2", 16, None, "fps is 16, and vae is that of the 5B model, which was made for 24."),
        ("2.2", 16, 16, "the 5B model, which was made for 24."),
        ("2.1", 24, None, None),
        ("2.1", 16, 16, None),
        ("2.1", 23.976, 23.976, None),
        ("2.2", 24, 24, None),
    ],
)
def test_a_rate_that_was_hardly_meant_is_said_before_sampling(
    comfy, page, caplog, kind, fps, timed, remark
):
    vae = make_vae(kind)
    folder = f"rate {kind} {fps} {timed}"
    more = {} if timed is None else {"shots": shots_of(comfy, fps=timed)}
    samples = make_latent(vae.latent_channels)
    shown = comfy.run(save_prompt(comfy, vae, samples, folder, fps=fps, **more))["save"]["text"][0]
    texts = [text for _, text in page]
    if remark is None:
        assert not any("fps is" in text for text in [*texts, caplog.text])
    else:
        assert all(remark in text for text in [*texts, shown, caplog.text])
        page.clear()
        prompt = save_prompt(comfy, vae, None, folder, fps=fps, **more)
        prompt["samples"]["inputs"]["key"] = "none such"  # fails where a sampler would run
        assert "none such" in comfy.run(prompt, check=False).error.message
        assert [remark in text for _, text in page] == [True]


@pytest.mark.parametrize("node", ["MoGADecodeToVideo", "MoGAChunkedDecode"])
def test_a_node_that_waits_for_samples_is_not_shown_as_running(comfy, vae, monkeypatch, node):
    from comfy_execution.progress import get_progress_state
    from harness.objects import TestObject

    prompt, states = save_prompt(comfy, vae, make_latent(), f"waits {node}"), []
    prompt["save"]["class_type"] = node
    prompt["end"] = {"class_type": "TestCapture", "inputs": {"value": ["save", 0]}}
    give = TestObject.give

    def look(self, key):
        if key == prompt["samples"]["inputs"]["key"]:  # where a sampler would run
            states.append(get_progress_state().nodes["save"]["state"].value)
        return give(self, key)

    monkeypatch.setattr(TestObject, "give", look)
    comfy.run(prompt)
    assert states == ["pending"] and get_progress_state().nodes["save"]["state"].value == "finished"


def test_samples_are_waited_for_however_comfyui_keeps_what_nodes_gave(comfy, vae):
    import execution

    for kind in execution.CacheType:
        sizes = {"lru": 10, "ram": 1, "ram_inactive": 1}
        if comfy.version < (0, 4):
            executor = execution.PromptExecutor(comfy.server, kind, cache_size=10)
        else:
            executor = execution.PromptExecutor(comfy.server, kind, cache_args=sizes)
        prompt = save_prompt(comfy, vae, make_latent(), f"kept {kind.name}")
        prompt["other"] = {"class_type": "MoGAChunkedDecode", "inputs": {}}
        for name in ("samples", "vae"):  # shared
            prompt["other"]["inputs"][name] = [name, 0]
        prompt["end"] = {"class_type": "TestCapture", "inputs": {"value": ["other", 0]}}
        for fps in (16.0, 17.0):
            prompt["save"]["inputs"]["fps"] = fps
            assert len(comfy.run(prompt, executor=executor).captured["end"]) == 9
        assert len(os.listdir(comfy.output_dir / f"kept {kind.name}")) == 2


# An unchanged Run


def run_twice(comfy, prompt, change=lambda: None, **added):
    """Names that the node shows at first, and at a Run to which the page has added an input."""
    executor = comfy.executor()
    first = comfy.run(prompt, executor=executor)["save"]
    change()
    again = {**prompt, "save": {**prompt["save"], "inputs": {**prompt["save"]["inputs"], **added}}}
    second = comfy.run(again, executor=executor)["save"]
    return [[file["filename"] for file in shown["images"]] for shown in (first, second)]


PAGE_ADDS = {"video-preview": ""}


@pytest.mark.parametrize("format", ["h264", "ffv1", "png"])
def test_an_unchanged_run_finds_the_film_again(comfy, vae, page, decoder, format):
    folder = comfy.output_dir / f"again {format}"
    more = {"shots": shots_of(comfy, "[5f] one\n[4f] two"), "format": format, "keep_latent": True}
    more["audio"] = {"waveform": torch.zeros(1, 1, 9000), "sample_rate": 16000}
    prompt = save_prompt(comfy, vae, make_latent(), folder.name, **more)
    first, second = run_twice(comfy, prompt, lambda: decoder.calls.append("again"), **PAGE_ADDS)
    if format == "h264":
        assert second == first == ["a_00001_.mp4", "a_00001_shot_01.mp4", "a_00001_shot_02.mp4"]
    else:  # a still, of the same film
        assert len(first) == len(second) == 1
    assert decoder.calls[-1] == "again" and len(os.listdir(folder)) == 4
    assert "is the same film; nothing was decoded again." in page[-1][1]


def test_the_video_of_an_unchanged_run_goes_on_to_other_nodes(comfy, vae):
    prompt = save_prompt(comfy, vae, make_latent(), "goes on")
    prompt["read"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["save", 0]}}
    prompt["images"] = {"class_type": "TestCapture", "inputs": {"value": ["read", 0]}}
    executor = comfy.executor()
    for added in ({}, PAGE_ADDS):
        prompt["save"]["inputs"] |= added
        images = comfy.run(prompt, executor=executor).captured["images"]
        assert images.shape == (9, 16, 16, 3)
    assert os.listdir(comfy.output_dir / "goes on") == ["a_00001_.mp4"]


@pytest.mark.parametrize(
    "change",
    ["deleted", "other file", "shot deleted", "latent", "vae", "quality", "fps", "shots", "audio",
     "new node"],
)  # fmt: skip
def test_what_has_changed_is_made_anew(comfy, vae, change):
    folder = comfy.output_dir / f"changed {change}"
    samples = make_latent()
    sound = {"waveform": torch.zeros(1, 1, 9000), "sample_rate": 16000}
    script = "[5f] one\n[4f] two"
    more = {"shots": shots_of(comfy, script), "audio": sound}
    prompt = save_prompt(comfy, vae, samples, folder.name, **more)
    film, shot = folder / "a_00001_.mp4", folder / "a_00001_shot_02.mp4"
    executor, inputs = comfy.executor(), prompt["save"]["inputs"]
    comfy.run(prompt, executor=executor)
    inputs |= PAGE_ADDS
    match change:
        case "deleted":
            film.unlink()
        case "other file":
            film.write_bytes(b"x" * film.stat().st_size)
        case "shot deleted":
            shot.unlink()
        case "latent":  # in place, which no executor notices
            samples["samples"][0, 0, 0, 0, 0] += 1
        case "vae":
            prompt["vae"] = comfy.put(make_vae("2.1"))
        case "quality" | "fps":
            inputs[change] = 19
        case "shots":
            prompt["shots"] = comfy.put(shots_of(comfy, script.replace("two", "three")))
        case "audio":
            sound["waveform"][0, 0, 9] = 1
        case "new node":
            executor = comfy.executor()
    (new,) = comfy.run(prompt, executor=executor)["save"]["images"][:1]
    numbers = {name[:7] for name in os.listdir(folder)}
    assert numbers >= {"a_00002"} or (change == "deleted" and new["filename"] == film.name)
    assert (folder / new["filename"]).stat().st_size > 500


def test_equal_values_are_the_same_film(comfy, vae):
    """The tensor may be another one, as after the sampler ran again with the same seed."""
    executor = comfy.executor()
    for added in ({}, PAGE_ADDS):
        comfy.run(save_prompt(comfy, vae, make_latent(), "equal", **added), executor=executor)
    assert os.listdir(comfy.output_dir / "equal") == ["a_00001_.mp4"]


def test_neither_latent_nor_vae_is_kept_alive(comfy, page):
    vae, samples = make_vae("2.1"), make_latent()
    executor = comfy.executor()
    comfy.run(save_prompt(comfy, vae, samples, "freed"), executor=executor)
    kept = weakref.ref(samples["samples"]), weakref.ref(vae)
    executor.reset()
    comfy.forget()
    del vae, samples
    gc.collect()
    assert [each() for each in kept] == [None, None]
