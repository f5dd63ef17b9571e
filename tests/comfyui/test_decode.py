"""The streamed decode against ComfyUI's own VAE.decode, with small Wan VAEs of random weights."""

import os
import weakref

import pytest
import torch
from harness import tiny


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads only wait for each other on tensors this small, and for other programs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def wan(request, comfy):
    return make_vae(request.param)


@pytest.fixture
def wan21(comfy):
    return make_vae("2.1")


def make_vae(kind, dtype=None):
    from comfy.sd import VAE

    with tiny.small_models():
        return VAE(sd=tiny.vae(kind), dtype=dtype)


def make_latent(vae, frames, height=4, width=6, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, vae.latent_channels, frames, height, width)
    return {"samples": torch.randn(shape, generator=generator)}


def video_prompt(comfy, samples, vae, **changes):
    inputs = {"fps": 16.0, "filename_prefix": "video/MoGA", "quality": 18, **changes}
    return {
        "samples": comfy.put(samples),
        "vae": comfy.put(vae),
        "save": {
            "class_type": "MoGADecodeToVideo",
            "inputs": {"samples": ["samples", 0], "vae": ["vae", 0], **inputs},
        },
    }


def read_video(path):
    """Frames uint8 (T, H, W, 3), rate, and the stream, by a reader that isn't ffmpeg's program."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(stream)]
        return torch.stack(frames), stream.average_rate, stream.codec_context


def saved(comfy, result, node="save"):
    """The one video that a node shows."""
    shown = result[node]
    assert list(shown["animated"]) == [True]
    (file,) = shown["images"]
    assert file["type"] == "output"
    return comfy.output_dir / file["subfolder"] / file["filename"]


def children():
    """Process ids of this process's children."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


@torch.inference_mode()
def core_decode(vae, latent):
    return vae.decode(latent["samples"]).flatten(0, 1)


def chunked_decode(comfy, vae, latent):
    (images,) = comfy.call("MoGAChunkedDecode", samples=latent, vae=vae)
    return images


def test_images_are_those_of_vae_decode(comfy, wan):
    for frames in range(1, 22):
        latent = make_latent(wan, frames, height=2, width=3, seed=frames)
        images = chunked_decode(comfy, wan, latent)
        assert len(images) == 4 * frames - 3
        assert images.std() > 0.05  # a picture, not a constant
        assert torch.equal(images, core_decode(wan, latent)), frames


def test_images_in_a_prompt_are_those_of_the_vae_decode_node(comfy, wan):
    prompt = {"samples": comfy.put(make_latent(wan, 3)), "vae": comfy.put(wan)}
    for name in ("MoGAChunkedDecode", "VAEDecode"):
        inputs = {"samples": ["samples", 0], "vae": ["vae", 0]}
        prompt[name] = {"class_type": name, "inputs": inputs}
        prompt["got " + name] = {"class_type": "TestCapture", "inputs": {"value": [name, 0]}}
    ours, core = comfy.run(prompt).captured.values()
    assert ours.dtype == core.dtype and ours.device == core.device
    assert torch.equal(ours, core)


def test_batch_is_decoded_one_after_the_other(comfy, wan):
    latent = make_latent(wan, 3, batch=2)
    each = [core_decode(wan, {"samples": one}) for one in latent["samples"].split(1)]
    images = chunked_decode(comfy, wan, latent)
    assert torch.equal(images, torch.cat(each))
    # Core may decode both in one call, for which the convolutions round in another order.
    torch.testing.assert_close(images, core_decode(wan, latent), rtol=0, atol=1e-5)


def test_half_precision_vae_is_exact_too(comfy):
    vae = make_vae("2.1", dtype=torch.bfloat16)
    latent = make_latent(vae, 4, height=2, width=3)
    assert torch.equal(chunked_decode(comfy, vae, latent), core_decode(vae, latent))


def test_one_chunk_at_a_time(comfy, wan):
    chunks = []

    def sink(chunk):
        assert all(seen() is None for seen in chunks)
        chunks.append(weakref.ref(chunk))

    patch_size = wan.upscale_ratio[1] // 8
    latent = make_latent(wan, 7)["samples"]
    stream_decode = comfy.module("moga.vae.decode").stream_decode
    assert stream_decode(wan.first_stage_model, latent, sink, patch_size=patch_size) == 25
    assert len(chunks) > 6
    assert "forward" not in vars(wan.first_stage_model.decoder)


def test_failing_sink_leaves_the_vae_as_it_was(comfy, wan):
    latent = make_latent(wan, 4)
    expected = core_decode(wan, latent)

    def sink(chunk):
        raise KeyError("full")

    with pytest.raises(KeyError, match="full"):
        comfy.module("moga.vae.decode").stream_decode(
            wan.first_stage_model, latent["samples"], sink
        )
    assert "forward" not in vars(wan.first_stage_model.decoder)
    assert torch.equal(core_decode(wan, latent), expected)


def test_decoder_that_another_node_replaced_stays_so(comfy, wan21):
    decoder = wan21.first_stage_model.decoder
    latent = make_latent(wan21, 3)
    expected = core_decode(wan21, latent)
    original = decoder.forward
    decoder.forward = replacement = lambda *args, **kwargs: original(*args, **kwargs)
    assert torch.equal(chunked_decode(comfy, wan21, latent), expected)
    assert decoder.forward is replacement


def test_vae_that_bypasses_its_decoder_is_refused(comfy):
    class Direct(torch.nn.Module):
        decoder = torch.nn.Identity()

        def decode(self, latent):
            return latent

    with pytest.raises(TypeError, match="Direct can't be decoded in a stream"):
        comfy.module("moga.vae.decode").stream_decode(Direct(), torch.zeros(1, 3, 2, 4, 4), print)


def test_video_is_the_decoded_frames(comfy, wan):
    latent = make_latent(wan, 4, height=6, width=8)
    path = saved(comfy, comfy.run(video_prompt(comfy, latent, wan, fps=12.5, quality=1)))
    assert path.parent == comfy.output_dir / "video" and path.name.startswith("MoGA_")
    frames, rate, codec = read_video(path)
    expected = core_decode(wan, latent)
    assert frames.shape == expected.shape and rate == 12.5
    assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    # Random weights make noise, whose colour detail 4:2:0 can't hold: compare means of 8x8 pixels.
    errors = torch.nn.functional.avg_pool2d((frames / 255 - expected).movedim(-1, 1), 8).abs()
    assert errors.mean() < 0.01 and errors.max() < 0.05
    assert not list(path.parent.glob("*partial*"))


def test_batch_becomes_one_video(comfy, wan21):
    latent = make_latent(wan21, 2, batch=2)
    frames, _, _ = read_video(saved(comfy, comfy.run(video_prompt(comfy, latent, wan21))))
    assert len(frames) == 10


def test_each_run_gets_the_next_number(comfy, wan21):
    prompt = video_prompt(comfy, make_latent(wan21, 1), wan21, filename_prefix="count/a")
    names = [saved(comfy, comfy.run(prompt)).name for _ in "12"]
    assert names == ["a_00001_.mp4", "a_00002_.mp4"]


def test_number_of_a_video_in_the_making_is_taken(comfy, wan21):
    folder = comfy.output_dir / "taken"
    folder.mkdir()
    (folder / "a_00004_.partial.mp4").touch()
    prompt = video_prompt(comfy, make_latent(wan21, 1), wan21, filename_prefix="taken/a")
    assert saved(comfy, comfy.run(prompt)).name == "a_00005_.mp4"


def test_video_goes_on_to_core_nodes(comfy, wan21):
    latent = make_latent(wan21, 2)
    prompt = video_prompt(comfy, latent, wan21)
    inputs = {"filename_prefix": "again/MoGA", "format": "auto", "codec": "auto"}
    prompt["again"] = {"class_type": "SaveVideo", "inputs": {"video": ["save", 0], **inputs}}
    prompt["read"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["save", 0]}}
    prompt["images"] = {"class_type": "TestCapture", "inputs": {"value": ["read", 0]}}
    prompt["fps"] = {"class_type": "TestCapture", "inputs": {"value": ["read", 2]}}
    result = comfy.run(prompt)
    frames, _, _ = read_video(saved(comfy, result))
    copy, rate, _ = read_video(saved(comfy, result, "again"))
    assert torch.equal(copy, frames) and rate == 16
    images = result.captured["images"]
    assert images.shape == frames.shape
    # Its conversion spreads colour in its own way, but the colours are the same.
    error = images.mean(dim=(0, 1, 2)) - core_decode(wan21, latent).mean(dim=(0, 1, 2))
    assert error.abs().max() < 0.01
    assert result.captured["fps"] == 16


def test_interrupt_stops_within_a_chunk(comfy, wan):
    import comfy.model_management as mm

    host = comfy.module("moga.hosts.comfyui.vae")
    seen = []

    def sink(frames):
        seen.append(len(frames))
        mm.interrupt_current_processing(True)

    with pytest.raises(mm.InterruptProcessingException):
        host.decode_frames(wan, host.plan_decode(wan, make_latent(wan, 9)), sink)
    assert seen == [1]


def test_interrupted_video_leaves_no_file_and_no_process(comfy, wan21):
    import comfy.model_management as mm

    decoder = wan21.first_stage_model.decoder
    forward, calls = decoder.forward, []

    def interrupt_third(*args, **kwargs):
        calls.append(children())
        mm.interrupt_current_processing(len(calls) == 3)
        return forward(*args, **kwargs)

    decoder.forward = interrupt_third
    before = children()
    latent = make_latent(wan21, 9)
    prompt = video_prompt(comfy, latent, wan21, filename_prefix="interrupted/a")
    result = comfy.run(prompt, check=False)
    assert "interrupted" in result.error.message
    assert len(calls) == 3 and len(calls[0]) == len(before) + 1  # ffmpeg was there
    assert children() == before
    assert os.listdir(comfy.output_dir / "interrupted") == ["a_00001_.latent"]


def test_failing_decode_leaves_no_file_and_no_process(comfy, wan21):
    decoder = wan21.first_stage_model.decoder
    forward, calls = decoder.forward, []

    def fail_second(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of luck")
        return forward(*args, **kwargs)

    decoder.forward = fail_second
    before = children()
    prompt = video_prompt(comfy, make_latent(wan21, 9), wan21, filename_prefix="failed/a")
    assert "out of luck" in comfy.run(prompt, check=False).error.message
    assert children() == before
    assert os.listdir(comfy.output_dir / "failed") == ["a_00001_.latent"]


def test_vae_of_another_kind_is_named(comfy):
    from comfy.sd import VAE
    from comfy.taesd.taesd import TAESD

    vae = VAE(sd=TAESD(latent_channels=4).state_dict())
    with pytest.raises(ValueError, match=r"^vae is TAESD, .* Wan 2\.1 or Wan 2\.2"):
        chunked_decode(comfy, vae, {"samples": torch.zeros(1, 4, 8, 8)})


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((1, 16, 8, 8), "samples has the shape (1, 16, 8, 8); connect a video latent"),
        ((1, 48, 1, 8, 8), "samples has 48 channels and vae decodes 16;"),
        ((0, 16, 1, 8, 8), "samples has the shape (0, 16, 1, 8, 8);"),
    ],
)
def test_latent_that_does_not_fit_is_refused(comfy, wan21, shape, problem):
    with pytest.raises(ValueError) as error:
        chunked_decode(comfy, wan21, {"samples": torch.zeros(shape)})
    assert str(error.value).startswith(problem)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latent_with_nan_is_refused_with_its_frame(comfy, wan21, value):
    latent = make_latent(wan21, 9)
    latent["samples"][0, 3, 5, 1, 1] = value
    with pytest.raises(ValueError, match="latent frame 5 on"):
        chunked_decode(comfy, wan21, latent)


@pytest.fixture
def broken(wan):
    """The VAE gives NaN from its third call on."""
    decoder, calls = wan.first_stage_model.decoder, []
    forward = decoder.forward

    def break_third(*args, **kwargs):
        calls.append(1)
        frames = forward(*args, **kwargs)
        if len(calls) >= 3:
            for piece in frames if isinstance(frames, list) else [frames]:
                piece[..., -1, 0, 0] = float("nan")
        return frames

    decoder.forward = break_third
    yield wan
    del decoder.forward


def test_frames_with_nan_are_refused_with_their_number(comfy, broken):
    plan = comfy.module("moga.hosts.comfyui.vae").plan_decode
    latent = make_latent(broken, 9, height=2, width=2)
    with pytest.raises(ValueError, match=r"^vae gives values .* \(NaN or infinite\) from video fr"):
        chunked_decode(comfy, broken, latent)
    prompt = video_prompt(comfy, latent, broken, filename_prefix="nan frames/a")
    message = comfy.run(prompt, check=False).error.message
    assert "let it compute in float32" in message and "The sampled latent is saved in" in message
    names = os.listdir(comfy.output_dir / "nan frames")
    assert all(name.endswith(".latent") for name in names) and names
    assert plan(broken, latent).frames == 33


def test_frame_of_a_batch_is_counted_over_all_its_videos(comfy, wan21):
    decoder, done = wan21.first_stage_model.decoder, []
    forward = decoder.forward

    def break_second_video(*args, **kwargs):
        frames = forward(*args, **kwargs)
        for piece in frames if isinstance(frames, list) else [frames]:
            if sum(done) >= 5:
                piece.fill_(float("nan"))
            done.append(piece.shape[2])
        return frames

    decoder.forward = break_second_video
    with pytest.raises(ValueError, match="from video frame 5 on, counted from 0"):
        chunked_decode(comfy, wan21, make_latent(wan21, 2, batch=2))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float64])
def test_latent_of_another_kind_of_number_is_decoded(comfy, wan, dtype):
    latent = {"samples": (2 * make_latent(wan, 2)["samples"]).to(dtype)}
    as_float = {"samples": latent["samples"].float()}
    assert torch.equal(chunked_decode(comfy, wan, latent), core_decode(wan, as_float))
    prompt = video_prompt(
        comfy, latent, wan, filename_prefix=f"numbers/{dtype}".replace("torch.", "")
    )
    prompt["save"]["inputs"]["keep_latent"] = True
    assert len(read_video(saved(comfy, comfy.run(prompt)))[0]) == 5


def test_complex_latent_is_refused(comfy, wan):
    latent = {"samples": make_latent(wan, 2)["samples"].to(torch.complex64)}
    with pytest.raises(ValueError, match=r"^samples are complex numbers \(torch\.complex64\)"):
        chunked_decode(comfy, wan, latent)


@pytest.mark.parametrize("prefix", ["../out", "a/../../b", "/elsewhere/a", "", "a/.."])
def test_prefix_that_names_nothing_in_the_output_folder_is_refused_first(comfy, prefix):
    # There is neither latent nor VAE, so reaching any node would be another error.
    prompt = video_prompt(comfy, None, None, filename_prefix=prefix)
    message = comfy.run(prompt, check=False).error.message
    assert f"filename_prefix {prefix!r}" in message
    assert "leaves ComfyUI's output folder" in message or "names no file" in message


def test_prefix_with_a_character_that_not_every_system_takes_is_refused(comfy):
    message = comfy.run(video_prompt(comfy, None, None, filename_prefix="a?"), check=False)
    assert "has a ?" in message.error.message


def test_prefix_from_another_node_is_checked_when_it_comes(comfy, wan21):
    prompt = video_prompt(comfy, make_latent(wan21, 1), wan21, filename_prefix=["prefix", 0])
    prompt["prefix"] = comfy.put("../out")
    message = comfy.run(prompt, check=False).error.message
    assert "filename_prefix '../out' leaves ComfyUI's output folder" in message


def test_every_input_has_a_tooltip_and_every_widget_a_default(comfy):
    for name in ("MoGAChunkedDecode", "MoGADecodeToVideo"):
        inputs = comfy.nodes[name].INPUT_TYPES()
        for kind, options in (inputs["required"] | inputs["optional"]).values():
            assert options["tooltip"]
            assert kind in ("LATENT", "VAE", "AUDIO", "MOGA_SHOTS") or "default" in options
