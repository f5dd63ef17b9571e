"""Shot-level text: each shot reads its own caption, in every block, and nothing else."""

import pytest
import torch
from harness import tiny
from harness.scene import Scene, close, differs, text, tokens

ONE, TWO, THREE = tokens(11), tokens(12), tokens(13)


@pytest.fixture
def scene(comfy):
    yield Scene(comfy, tiny.wan())
    comfy.forget()


def dense(scene, shots, model=None):
    return scene.apply(model or scene.load(), attention="dense", shots=shots)


def test_identical_captions_are_the_single_prompt(scene):
    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    expected = scene.sample(scene.load(), [[ONE, {}]])
    close(scene.sample(dense(scene, shots), scene.schedule(shots, ONE)), expected)


def test_without_a_schedule_text_is_stock(scene):
    expected = scene.sample(scene.load())
    assert torch.equal(scene.sample(dense(scene, None)), expected)
    close(scene.sample(dense(scene, scene.shots())), expected)


def test_a_caption_changes_only_its_own_shots_cross_attention(scene):
    """Held at the layer: inputs and outputs of the first block's cross-attention."""
    shots = scene.shots()
    model = dense(scene, shots)
    x, before = scene.cross_attention(model, scene.schedule(shots, ONE, TWO, THREE))
    again, after = scene.cross_attention(model, scene.schedule(shots, ONE, tokens(99), THREE))
    assert torch.equal(x, again)
    first, last = 2 * 15, 3 * 15  # shot 2 is latent frame 2, of 3 x 5 tokens
    differs(after[:, first:last], before[:, first:last])
    assert torch.equal(after[:, :first], before[:, :first])
    assert torch.equal(after[:, last:], before[:, last:])


def test_shots_equal_a_mask(scene):
    """The slices give what an attention mask over all captions would give."""
    shots = scene.shots()
    model = dense(scene, shots)
    found = scene.sample(model, scene.schedule(shots, ONE, TWO, THREE), cfg=1.0)

    masked = scene.load()
    frame = torch.arange(75) // 15
    shot = (frame >= 2).long() + (frame >= 3)
    sees = shot[:, None] == (torch.arange(3 * 512) // 512)[None, :]
    mask = torch.zeros(75, 3 * 512).masked_fill(~sees, -torch.inf)

    def override(func, q, k, v, heads, *args, **kwargs):
        if k.shape[1] == 3 * 512:
            kwargs["mask"] = mask
        return func(q, k, v, heads, *args, **kwargs)

    masked.model_options["transformer_options"]["optimized_attention_override"] = override
    joined = [[torch.cat([ONE, TWO, THREE], dim=1), {}]]
    close(found, scene.sample(masked, joined, cfg=1.0))


def test_a_negative_without_shots_is_read_whole_by_every_shot(scene):
    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    expected = scene.sample(scene.load(), [[ONE, {}]], text(5))
    close(scene.sample(dense(scene, shots), scene.schedule(shots, ONE), text(5)), expected)


def test_a_negative_of_another_length_too(scene):
    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    expected = scene.sample(scene.load(), [[ONE, {}]], text(5, 700))
    close(scene.sample(dense(scene, shots), scene.schedule(shots, ONE), text(5, 700)), expected)


def test_scheduled_negatives_work(scene):
    shots = scene.shots()
    model = dense(scene, shots)
    positive = scene.schedule(shots, ONE, TWO, THREE)
    one = scene.sample(model, positive, scene.schedule(shots, TWO, THREE, ONE))
    other = scene.sample(model, positive, scene.schedule(shots, TWO, tokens(99), ONE))
    differs(one, other)


def test_core_conditioning_nodes_keep_the_shots(scene, comfy):
    shots = scene.shots()
    model = dense(scene, shots)
    positive = scene.schedule(shots, ONE, TWO, THREE)
    expected = scene.sample(model, positive)
    (ranged,) = comfy.call(
        "ConditioningSetTimestepRange", conditioning=positive, start=0.0, end=1.0
    )
    close(scene.sample(model, ranged), expected)
    (zero,) = comfy.call("ConditioningZeroOut", conditioning=positive)
    differs(scene.sample(model, positive, zero), expected)
    (more,) = comfy.call("ConditioningConcat", conditioning_to=positive, conditioning_from=text(6))
    differs(scene.sample(model, more), expected)
    (both,) = comfy.call("ConditioningCombine", conditioning_1=positive, conditioning_2=positive)
    close(scene.sample(model, both), expected)


def test_text_concatenated_behind_a_schedule_is_read_by_every_shot(scene, comfy):
    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    (more,) = comfy.call(
        "ConditioningConcat", conditioning_to=scene.schedule(shots, ONE), conditioning_from=text(6)
    )
    single = [[torch.cat([ONE, text(6)[0][0]], dim=1), {}]]
    close(scene.sample(dense(scene, shots), more), scene.sample(scene.load(), single))


def test_i2v_image_tokens_are_read_by_every_shot(comfy):
    scene = Scene(comfy, tiny.wan("i2v"))
    from types import SimpleNamespace

    make = torch.Generator().manual_seed(3)
    image = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, 1280, generator=make))
    latent = torch.randn(1, 16, 5, 6, 10, generator=make)
    (mask := torch.ones(1, 1, 5, 6, 10))[:, :, 0] = 0
    extras = {"clip_vision_output": image, "concat_latent_image": latent, "concat_mask": mask}

    def with_image(conditioning):
        return [[t, {**d, **extras}] for t, d in conditioning]

    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    negative = with_image(scene.negative)
    expected = scene.sample(scene.load(), with_image([[ONE, {}]]), negative)
    model = dense(scene, shots)
    close(scene.sample(model, with_image(scene.schedule(shots, ONE)), negative), expected)
    other = scene.apply(scene.load(), scene.everything())
    close(scene.sample(other, with_image([[ONE, {}]]), negative), expected)
    comfy.forget()


def test_windows_follow_the_cuts_of_both_prompts(scene):
    """Shots move the windows, for negative alike: with equal text the cuts still matter."""
    config = scene.Config(branches=("windows",), boundary_frames=0)
    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    model, routers = scene.load(), scene.routers(config)
    cut = scene.sample(scene.apply(model, routers, shots=shots), [[ONE, {}]])
    differs(cut, scene.sample(scene.apply(model, routers), [[ONE, {}]]))


def refusal(scene, model, *conditioning):
    with pytest.raises(ValueError) as error:
        scene.sample(model, *conditioning)
    return str(error.value)


def test_shots_that_do_not_belong_together_are_refused_before_the_first_step(scene, monkeypatch):
    shots, others = scene.shots(), scene.shots("[9f] one\n[4f] two\n[4f] three")
    positive = scene.schedule(shots, ONE, TWO, THREE)
    model = scene.load()

    from comfy.ldm.wan.model import WanModel

    monkeypatch.setattr(WanModel, "forward_orig", None)  # a step would fail otherwise
    words = refusal(scene, scene.apply(model, scene.routers()), positive)
    assert "positive conditioning was made for 3 shots over 5 latent frames" in words
    assert "Apply MoGA was given no shots; connect the shots output" in words
    words = refusal(scene, dense(scene, others, model), positive)
    assert "with cuts at (0, 2, 3)" in words and "with cuts at (0, 3, 4)" in words
    negative = scene.schedule(others, ONE, TWO, THREE)
    words = refusal(scene, dense(scene, shots, model), scene.positive, negative)
    assert words.startswith("the negative conditioning was made for")
    short = scene.shots("[5f] one\n[4f] two")
    words = refusal(scene, dense(scene, short, model))
    assert "the latent has 5 latent frames (17 video frames)" in words
    assert "the shots fill 3 (9 video frames); connect the schedule's length output" in words
