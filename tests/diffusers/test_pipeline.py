"""diffusers' Wan pipelines from single files, called with shots."""

import pytest
import torch
from accelerate import cpu_offload
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image

from moga.checkpoint import CheckpointError
from moga.config import MoGAConfig
from moga.hosts.diffusers import (
    ShotMismatchError,
    disable_moga,
    enable_moga,
    load_pipeline,
    moga_config,
    save_video,
    shot_inputs,
)
from moga.hosts.diffusers.pipeline import make_scheduler
from moga.shots import ShotList
from moga.video import VideoError

SHOTS = ShotList.parse("global: rain.\n[5f] a woman walks\n[4f] coffee\n[4f] a woman walks", 16)
SMALL = {"height": 32, "width": 48, "num_inference_steps": 2, "output_type": "latent"}


@pytest.fixture
def load(model_files):
    def load(model="t2v", vae="vae", **options):
        files = ("text_encoder", "image_encoder", "model_low", "routers")
        options = {k: model_files(v) if k in files else v for k, v in options.items()}
        pipe = load_pipeline(model_files(model), vae=model_files(vae), **options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


def run(pipe, seed=0, **inputs):
    return pipe(**inputs, generator=torch.manual_seed(seed), **SMALL).frames


def test_text_to_video(load, tmp_path):
    pipe = load(text_encoder="umt5")
    assert type(pipe) is WanPipeline and moga_config(pipe.transformer) == MoGAConfig()
    latents = run(pipe, **shot_inputs(pipe, SHOTS, "blurry"))
    assert latents.shape == (1, 16, 4, 4, 6) and latents.isfinite().all()
    assert torch.equal(latents, run(pipe, **shot_inputs(pipe, SHOTS, "blurry")))
    assert not torch.equal(latents, run(pipe, **shot_inputs(pipe, SHOTS, "dark")))
    assert save_video(pipe, latents, tmp_path / "film.mp4", SHOTS.fps) == 13
    assert (tmp_path / "film.mp4").stat().st_size > 500


def test_an_offloaded_pipeline(load, tmp_path):
    pipe = load(text_encoder="umt5")
    expected = run(pipe, **shot_inputs(pipe, SHOTS))
    for model in (pipe.text_encoder, pipe.transformer, pipe.vae):
        cpu_offload(model, torch.device("cpu"))  # what the pipeline does, which wants a GPU
    assert pipe.transformer.blocks[0].attn1.router.weight.device.type == "meta"
    latents = run(pipe, **shot_inputs(pipe, SHOTS))
    assert torch.equal(latents, expected)
    assert save_video(pipe, latents, tmp_path / "film.mp4", 16) == 13


def test_one_shot_without_groups_is_what_the_pipeline_makes_of_a_prompt(load):
    pipe = load(text_encoder="umt5")
    one = ShotList.parse("[13f] a woman walks", 16)
    enable_moga(pipe.transformer, None)
    ours = run(pipe, **shot_inputs(pipe, one, "blurry"))
    disable_moga(pipe.transformer)
    theirs = run(pipe, prompt="a woman walks", negative_prompt="blurry", num_frames=13)
    assert torch.equal(ours, theirs)


@torch.no_grad()
def test_the_inputs_of_the_pipeline(load):
    pipe = load(text_encoder="umt5")
    inputs = shot_inputs(pipe, SHOTS, "blurry")
    text, negative = inputs["prompt_embeds"], inputs["negative_prompt_embeds"]
    assert text.shape == negative.shape == (1, 3 * 512, 64)
    one, two, three = text.chunk(3, dim=1)
    assert torch.equal(one, three) and not torch.equal(one, two)
    alone = pipe.encode_prompt("rain. coffee", do_classifier_free_guidance=False,
                               max_sequence_length=512)[0]  # fmt: skip
    assert torch.equal(two, alone)
    first, *rest = negative.chunk(3, dim=1)
    assert all(torch.equal(first, other) for other in rest)
    moga = inputs["attention_kwargs"]["moga"]
    assert (moga.starts, moga.frames, moga.spans[2]) == ((0, 2, 3), 4, (1024, 1536))
    assert inputs["num_frames"] == 13


def test_embeddings_in_place_of_a_text_encoder(load):
    pipe, whole = load(), load(text_encoder="umt5")
    expected = shot_inputs(whole, SHOTS, "blurry")
    text = expected["prompt_embeds"].unflatten(1, (3, 512))[0]
    negative = expected["negative_prompt_embeds"][:, :512]
    inputs = shot_inputs(pipe, SHOTS, embeddings=text, negative_embeddings=negative)
    assert torch.equal(run(pipe, **inputs), run(whole, **expected))
    with pytest.raises(ShotMismatchError, match="has no text encoder"):
        shot_inputs(pipe, SHOTS)
    with pytest.raises(ShotMismatchError, match="but the script has 3 shots"):
        shot_inputs(pipe, SHOTS, embeddings=text[:2])
    with pytest.raises(ShotMismatchError, match="encode both to the same length"):
        shot_inputs(pipe, SHOTS, embeddings=text, negative_embeddings=negative[:, :9])


def test_shots_without_moga_would_be_dropped_silently(load):
    pipe = load(text_encoder="umt5")
    disable_moga(pipe.transformer)
    with pytest.raises(ShotMismatchError, match="drop the shots silently"):
        shot_inputs(pipe, SHOTS)


def test_captions_that_would_be_cut_are_refused(load):
    pipe = load(text_encoder="umt5")
    long = ShotList.parse("[5f] " + "woman " * 600, 16)
    with pytest.raises(ShotMismatchError, match="512 are read"):
        shot_inputs(pipe, long)


@pytest.mark.parametrize(("model", "vae", "more"), [
    ("i2v", "vae", {"image_encoder": "clip"}),
    ("i2v_2.2", "vae", {}),
    ("ti2v", "vae22", {"from_image": True}),
])  # fmt: skip
def test_image_to_video(load, model, vae, more):
    pipe = load(model, vae, text_encoder="umt5", **more)
    assert type(pipe) is WanImageToVideoPipeline
    image = Image.effect_noise((48, 32), 80).convert("RGB")
    size = {"height": 64, "width": 96} if model == "ti2v" else {}
    inputs = shot_inputs(pipe, SHOTS)
    generator = torch.manual_seed(0)
    latents = pipe(image, **inputs, **{**SMALL, **size}, generator=generator).frames
    assert latents.shape[2:] == (4, 4, 6) and latents.isfinite().all()


def test_the_wide_model_takes_a_timestep_per_token(load):
    pipe = load("ti2v", "vae22", text_encoder="umt5")
    assert type(pipe) is WanPipeline and pipe.config.expand_timesteps
    latents = pipe(**shot_inputs(pipe, SHOTS), **{**SMALL, "height": 64, "width": 96}).frames
    assert latents.shape == (1, 48, 4, 4, 6)


def test_two_experts(load):
    pipe = load(text_encoder="umt5", model_low="low", boundary=0.7, shift=1.0)
    assert pipe.config.boundary_ratio == 0.7
    called = []
    for name in ("transformer", "transformer_2"):
        getattr(pipe, name).register_forward_hook(lambda *_, name=name: called.append(name))
    both = run(pipe, **shot_inputs(pipe, SHOTS), guidance_scale_2=3.0)
    assert called == ["transformer"] * 2 + ["transformer_2"] * 2
    assert not torch.equal(
        both, run(load(text_encoder="umt5", shift=1.0), **shot_inputs(pipe, SHOTS))
    )


def test_a_folder_brings_what_is_not_given(load, model_files, tmp_path):
    pipe = load(text_encoder="umt5")
    expected = run(pipe, **shot_inputs(pipe, SHOTS))
    disable_moga(pipe.transformer)
    pipe.tokenizer = None
    pipe.text_encoder.save_pretrained(tmp_path / "text_encoder")
    pipe.text_encoder = None
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "model_index.json").is_file()
    folder = load_pipeline(
        tmp_path, routers=model_files("routers"), text_encoder=model_files("umt5")
    )
    folder.set_progress_bar_config(disable=True)
    assert torch.equal(run(folder, **shot_inputs(folder, SHOTS)), expected)


@pytest.mark.parametrize("name", ["unipc", "euler"])
def test_schedulers_start_from_noise_and_end_at_zero(name):
    scheduler = make_scheduler(name, 5.0)
    scheduler.set_timesteps(4)
    assert scheduler.sigmas[0] > 0.99 and scheduler.sigmas[-1] == 0
    with pytest.raises(ValueError, match="choose one of unipc, euler"):
        make_scheduler("ddim", 1.0)


def test_parts_that_do_not_fit(load, model_files, tmp_path):
    for words, options in (
        ("the VAE has 48 latent channels, the model 16", {"vae": "vae22"}),
        ("the VAE has 16 latent channels, the model 48; use wan2.2_vae", {"model": "ti2v"}),
        ("differ in in_channels", {"model_low": "i2v_2.2"}),
        ("is not a UMT5 text encoder", {"text_encoder": "vae"}),
        ("the image encoder is missing", {"model": "i2v"}),
    ):
        with pytest.raises(CheckpointError, match=words):
            load(**options)
    with pytest.raises(CheckpointError, match="the vae is missing"):
        load_pipeline(model_files("t2v"))
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(CheckpointError, match="holds a FluxPipeline"):
        load_pipeline(tmp_path)


def test_a_video_is_not_overwritten(load, tmp_path):
    (tmp_path / "film.mp4").touch()
    with pytest.raises((FileExistsError, VideoError)):
        save_video(load(), torch.zeros(1, 16, 2, 2, 2), tmp_path / "film.mp4", 16)
