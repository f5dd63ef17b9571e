"""Which Wan variants take MoGA, and how their extra frames and tokens are treated."""

import pytest
import torch
from harness import tiny
from harness.scene import Scene, close, differs, tokens


@pytest.fixture
def scene_of(comfy):
    def make(kind, channels=16, **config):
        return Scene(comfy, tiny.wan(kind, **config), channels)

    yield make
    comfy.forget()


def with_extras(conditioning, **extras):
    return [[t, {**d, **extras}] for t, d in conditioning]


@pytest.mark.parametrize(("kind", "channels"), [("t2v", 16), ("ti2v", 48), ("i2v_2.2", 16)])
def test_plain_variants(scene_of, kind, channels):
    scene = scene_of(kind, channels)
    stock = scene.sample(scene.load())
    close(scene.sample(scene.apply(scene.load(), scene.everything())), stock)
    differs(scene.sample(scene.apply(scene.load(), scene.routers())), stock)


def test_per_frame_timesteps_of_ti2v(scene_of):
    """Wan 2.2 5B image-to-video: a noise mask gives every latent frame a time of its own."""
    scene = scene_of("ti2v", 48)
    make = torch.Generator().manual_seed(1)
    mask = torch.ones(1, 1, 5, 6, 10)
    mask[:, :, 0] = 0
    scene.latent = {"samples": torch.randn(1, 48, 5, 6, 10, generator=make), "noise_mask": mask}
    stock = scene.sample(scene.load())
    close(scene.sample(scene.apply(scene.load(), scene.everything())), stock)


def test_odd_latent_sizes(scene_of):
    scene = scene_of("t2v")
    scene.latent = {"samples": torch.zeros(1, 16, 5, 7, 9)}
    stock = scene.sample(scene.load())
    close(scene.sample(scene.apply(scene.load(), scene.everything())), stock)
    shots = scene.shots()
    model = scene.apply(scene.load(), scene.routers(), shots=shots)
    positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
    assert scene.sample(model, positive).shape == stock.shape


def test_a_batch_of_two_videos(scene_of):
    scene = scene_of("t2v")
    numbered = {"samples": torch.zeros(2, 16, 5, 6, 10), "batch_index": [0, 1]}
    shots = scene.shots()
    model = scene.apply(scene.load(), scene.routers(), shots=shots)
    positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
    both = scene.sample(model, positive, latent_image=numbered)
    differs(both[:1], both[1:])
    for index, found in enumerate(both.split(1)):
        alone = {"samples": torch.zeros(1, 16, 5, 6, 10), "batch_index": [index]}
        close(found, scene.sample(model, positive, latent_image=alone))


def reference(scene, **size):
    make = torch.Generator().manual_seed(5)
    latent = torch.randn(1, 16, 1, size.get("h", 6), size.get("w", 10), generator=make)
    extras = {"reference_latents": [latent]}
    return (
        with_extras(scene.positive, **extras),
        with_extras(scene.negative, **extras),
    )


def test_reference_latent_prefix(scene_of):
    """Wan Fun Control puts the tokens of a reference frame before those of the video."""
    scene = scene_of("fun")
    prompts = reference(scene)
    stock = scene.sample(scene.load(), *prompts)
    differs(stock, scene.sample(scene.load()))
    close(scene.sample(scene.apply(scene.load(), scene.everything()), *prompts), stock)
    differs(scene.sample(scene.apply(scene.load(), scene.routers()), *prompts), stock)


def test_reference_frame_reads_all_text_and_shots_their_own(scene_of):
    scene = scene_of("fun")
    latent = reference(scene)[0][0][1]["reference_latents"]
    same = scene.shots("[5f] same\n[4f] same\n[8f] same")
    positive = with_extras(scene.schedule(same, tokens(11)), reference_latents=latent)
    negative = with_extras(scene.negative, reference_latents=latent)
    single = with_extras([[tokens(11), {}]], reference_latents=latent)
    model = scene.apply(scene.load(), attention="dense", shots=same)
    close(scene.sample(model, positive, negative), scene.sample(scene.load(), single, negative))
    grid = scene.comfy.module("moga.hosts.comfyui.geometry").call_grid(
        model.model.diffusion_model,
        torch.zeros(1, 16, 5, 6, 10),
        {},
        same,
        reference_latent=torch.zeros(1, 16, 6, 10),
    )
    assert grid.owners == (-3, 0, 1, 2)
    assert (grid.layout.frames, grid.layout.shots) == (6, (0, 1, 3, 4))


def test_a_reference_of_another_size_forms_no_grid(scene_of):
    scene = scene_of("fun")
    call_grid = scene.comfy.module("moga.hosts.comfyui.geometry").call_grid
    dit, latent = scene.load().model.diffusion_model, torch.zeros(1, 16, 5, 6, 10)
    same, other = torch.zeros(1, 16, 6, 10), torch.zeros(1, 16, 4, 4)
    assert call_grid(dit, latent, {}, None, reference_latent=same).layout.frames == 6
    assert call_grid(dit, latent, {}, None, reference_latent=other) is None


def scene_of_scail(scene_of, kind):
    if not tiny.there(kind):
        pytest.skip("this ComfyUI has no such model")
    return scene_of(kind)


@pytest.mark.parametrize(("kind", "references"), [("scail", 1), ("scail2", 2)])
def test_reference_frames_of_scail_come_before_the_shots(scene_of, kind, references):
    """SCAIL puts one reference frame into the token grid, SCAIL-2 one or more."""
    scene = scene_of_scail(scene_of, kind)
    make = torch.Generator().manual_seed(5)
    latents = [torch.randn(1, 16, 1, 6, 10, generator=make) for _ in range(references)]

    def with_references(conditioning):
        return with_extras(conditioning, reference_latents=latents)

    prompts = [with_references(c) for c in (scene.positive, scene.negative)]
    stock = scene.sample(scene.load(), *prompts)
    differs(stock, scene.sample(scene.load()))
    close(scene.sample(scene.apply(scene.load(), scene.everything()), *prompts), stock)
    differs(scene.sample(scene.apply(scene.load(), scene.routers()), *prompts), stock)

    shots = scene.shots()
    model = scene.apply(scene.load(), attention="dense", shots=shots)

    def run(*captions):
        return scene.cross_attention(model, with_references(scene.schedule(shots, *captions)))

    x, before = run(tokens(11), tokens(12), tokens(13))
    again, after = run(tokens(11), tokens(99), tokens(13))
    assert torch.equal(x, again) and x.shape[1] == (references + 5) * 15
    changed = (after != before).any(dim=-1)[0].unflatten(0, (-1, 15)).all(dim=1)
    # A reference frame reads every shot's text, latent frame 2 that of shot 2.
    assert changed.tolist() == [True] * references + [False, False, True, False, False]


def dense_and_said(scene, caplog, count, **extra):
    """With such conditioning MoGA is stock, and the log says that `count` tokens form no grid."""
    prompts = [with_extras(c, **extra) for c in (scene.positive, scene.negative)]
    stock = scene.sample(scene.load(), *prompts)
    differs(stock, scene.sample(scene.load()))
    with caplog.at_level("INFO"):
        found = scene.sample(scene.apply(scene.load(), scene.routers()), *prompts)
    assert torch.equal(found, stock)
    said = f"dense attention, because {count} tokens do not match the grid's 75"
    assert said in caplog.text


def test_poses_of_scail_are_dense_and_said(scene_of, caplog):
    """Their tokens stand behind the video's, at half its size."""
    scene = scene_of_scail(scene_of, "scail")
    pose = torch.randn(1, 16, 5, 4, 6, generator=torch.Generator().manual_seed(5))
    dense_and_said(scene, caplog, 105, pose_video_latent=pose)


def test_in_context_references_are_dense_and_said(scene_of, caplog):
    """Their tokens stand behind the video's in another grid, so the call has no single one."""
    scene = scene_of("t2v")
    if scene.comfy.version < (0, 33):
        pytest.skip("this ComfyUI has no in-context references in Wan")
    make = torch.Generator().manual_seed(5)
    extra = {"context_latents": [torch.randn(1, 16, 1, 4, 8, generator=make)]}
    dense_and_said(scene, caplog, 83, **extra)
    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    positive = with_extras(scene.schedule(shots, tokens(11)), **extra)
    single = with_extras([[tokens(11), {}]], **extra)
    model = scene.apply(scene.load(), attention="dense", shots=shots)
    negative = with_extras(scene.negative, **extra)
    close(scene.sample(model, positive, negative), scene.sample(scene.load(), single, negative))


def test_frames_appended_in_time(scene_of):
    """Wan Phantom appends subject frames after the video."""
    scene = scene_of("t2v")
    make = torch.Generator().manual_seed(5)
    extra = torch.randn(1, 16, 2, 6, 10, generator=make)
    prompts = [with_extras(c, time_dim_concat=extra) for c in (scene.positive, scene.negative)]
    stock = scene.sample(scene.load(), *prompts)
    differs(stock, scene.sample(scene.load()))
    close(scene.sample(scene.apply(scene.load(), scene.everything()), *prompts), stock)
    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    positive = with_extras(scene.schedule(shots, tokens(11)), time_dim_concat=extra)
    single = with_extras([[tokens(11), {}]], time_dim_concat=extra)
    model = scene.apply(scene.load(), attention="dense", shots=shots)
    negative = with_extras(scene.negative, time_dim_concat=extra)
    close(scene.sample(model, positive, negative), scene.sample(scene.load(), single, negative))
    differs(scene.sample(scene.apply(scene.load(), scene.routers()), *prompts), stock)
    grid = scene.comfy.module("moga.hosts.comfyui.geometry").call_grid(
        model.model.diffusion_model, torch.zeros(1, 16, 5, 6, 10), {}, shots, time_dim_concat=extra
    )
    assert grid.owners == (0, 1, 2, -2)
    assert (grid.layout.frames, grid.layout.shots) == (7, (0, 2, 3, 5))


def test_vace(scene_of):
    scene = scene_of("vace")
    stock = scene.sample(scene.load())
    close(scene.sample(scene.apply(scene.load(), scene.everything())), stock)
    differs(scene.sample(scene.apply(scene.load(), scene.routers())), stock)
    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    model = scene.apply(scene.load(), attention="dense", shots=shots)
    single = scene.sample(scene.load(), [[tokens(11), {}]])
    close(scene.sample(model, scene.schedule(shots, tokens(11))), single)


def test_vace_blocks_read_shot_text_too(scene_of):
    scene = scene_of("vace")
    shots = scene.shots()
    model = scene.apply(scene.load(), attention="dense", shots=shots)
    texts = []
    block = model.model.diffusion_model.vace_blocks[0].cross_attn
    handle = block.k.register_forward_hook(lambda m, args, out: texts.append(args[0].shape[1]))
    scene.sample(model, scene.schedule(shots, tokens(11), tokens(12), tokens(13)))
    handle.remove()
    assert set(texts) == {512} and len(texts) == 3 * 2


def test_vace_reference_frames_before_the_video_belong_to_no_shot(scene_of):
    """WanVaceToVideo makes the latent longer by one reference frame; the shots stay in place."""
    scene = scene_of("vace")
    shots = scene.shots("[5f] one\n[8f] two")  # 4 latent frames of the 5
    model = scene.apply(scene.load(), attention="dense", shots=shots)
    positive = scene.schedule(shots, tokens(11), tokens(12))
    assert scene.sample(model, positive).isfinite().all()
    grid = scene.comfy.module("moga.hosts.comfyui.geometry").call_grid(
        model.model.diffusion_model, torch.zeros(1, 16, 5, 6, 10), {}, shots
    )
    assert grid.owners == (-1, 0, 1) and grid.layout.shots == (0, 1, 3)
    scene.latent = {"samples": torch.zeros(1, 16, 6, 6, 10)}
    with pytest.raises(ValueError, match=r"the latent has 6 latent frames .* the shots fill 4 "):
        scene.sample(model, positive)


def test_any_frames_of_animate_before_the_video_are_reference_frames_and_said(scene_of, caplog):
    scene = scene_of("animate")
    shots = scene.shots("[5f] one\n[4f] two")  # 3 latent frames of the 5
    model = scene.apply(scene.load(), attention="dense", shots=shots)
    with caplog.at_level("INFO"):
        scene.sample(model, scene.schedule(shots, tokens(11), tokens(12)))
    assert "latent frames taken for reference frames, before the shots: 2." in caplog.text
    scene.latent = {"samples": torch.zeros(1, 16, 2, 6, 10)}
    with pytest.raises(ValueError, match=r"the latent has 2 latent frames .* the shots fill 3 "):
        scene.sample(model)


def test_animate_with_one_group_is_stock(scene_of):
    scene = scene_of("animate")
    stock = scene.sample(scene.load())
    config = scene.everything().config
    close(scene.sample(scene.apply(scene.load(), scene.routers(config, blocks=5))), stock)
    differs(scene.sample(scene.apply(scene.load(), scene.routers(blocks=5))), stock)


def test_other_variants_are_refused_by_name(comfy, scene_of):
    scene = scene_of("t2v")
    import comfy.ldm.wan.model as wan

    model = scene.load()
    dit = model.model.diffusion_model
    for name, known in (
        ("WanModel_S2V", "Wan 2.2 S2V"),
        ("WanAnimate2Model", "Wan Animate 2"),
        ("CausalWanModel", "a causal (autoregressive) Wan"),
        ("WanSomethingNew", "the Wan variant WanSomethingNew"),
    ):
        # The class of the variant, with as much of it as the check looks at.
        cls = getattr(wan, name, None) or type(name, (wan.WanModel,), {})
        other = cls.__new__(cls)
        other.__dict__.update(dit.__dict__)
        if name == "WanSomethingNew":
            attention = type("OtherAttention", (wan.WanSelfAttention,), {})
            block = torch.nn.Module()
            block.self_attn = attention.__new__(attention)
            other.__dict__ = {**other.__dict__, "_modules": {"blocks": [block]}}
        changed = model.clone()
        changed.model = type(model.model).__new__(type(model.model))
        changed.model.__dict__.update(model.model.__dict__)
        changed.model._modules = {**model.model._modules, "diffusion_model": other}
        with pytest.raises(ValueError) as error:
            scene.apply(changed, attention="dense")
        assert str(error.value).startswith(f"model is {known}, whose attention MoGA does not")


def test_a_model_that_is_not_wan(comfy, scene_of):
    scene = scene_of("t2v")
    from comfy.model_patcher import ModelPatcher
    from comfy.supported_models import SD15

    sizes = {
        **{"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32},
        **{"num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [0]},
        **{"transformer_depth_middle": -1, "transformer_depth_output": [0, 0], "num_heads": 1},
        **{"use_spatial_transformer": True, "context_dim": 8, "dtype": torch.float32},
    }
    config = SD15(sizes)
    config.set_inference_dtype(torch.float32, None)
    model = ModelPatcher(config.get_model({}, ""), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError) as error:
        scene.apply(model, attention="dense")
    assert str(error.value) == "model is BaseModel, not Wan; connect a Wan 2.1 or 2.2 model."
