"""Every backend that this machine can run, against the reference, on a GPU."""

import dataclasses

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

from moga.attention import moga_attention, moga_attention_reference  # noqa: E402
from moga.config import MoGAConfig  # noqa: E402
from moga.kernels import AUTO, BACKENDS, Segments  # noqa: E402
from moga.kernels.branch import BranchOutput  # noqa: E402
from moga.kernels.merge import mean_of, softmax_of  # noqa: E402
from moga.layout import VideoLayout  # noqa: E402
from moga.routing import Routing  # noqa: E402

NAMES = [AUTO, *BACKENDS]
TOLERANCE = {torch.bfloat16: 1.2e-2, torch.float16: 2e-3}


def usable(name, q, **needs):
    if name == AUTO:
        return
    reason = BACKENDS[name].missing() or BACKENDS[name].unfit(q, **needs)
    if reason:
        pytest.skip(f"{name}: {reason}")


def layer(dtype, *, shots=(0, 3), groups=3, batch=2, scale=1.0, frames=7, **config):
    torch.manual_seed(0)
    layout = VideoLayout(frames, 10, 14, shots)
    q, k, v = torch.randn(3, batch, layout.tokens, 4, 128, device="cuda").to(dtype)
    scores = torch.randn(batch, layout.tokens, groups, device="cuda") * 2
    return (q * scale, k, v, Routing.from_scores(scores), layout), MoGAConfig(groups, **config)


def error(found, expected):
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


@pytest.mark.parametrize("combine", ["union", "mean"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", NAMES)
def test_the_layer_equals_the_reference(name, dtype, combine):
    arguments, config = layer(dtype, combine=combine)
    usable(name, arguments[0], lse=combine == "union")
    found = moga_attention(*arguments, config, backend=name)
    expected = moga_attention_reference(*(t.float() for t in arguments[:3]), *arguments[3:], config)
    assert found.dtype == dtype
    assert error(found, expected) < (0.1 if name == "sage" else TOLERANCE[dtype])
    by_heads = moga_attention(*arguments, config, backend=name, heads_at_once=3)
    assert error(by_heads, found) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", list(BACKENDS))
def test_output_and_log_sum_exp_of_empty_and_uneven_segments(name, dtype):
    torch.manual_seed(1)
    sizes = [9000, 0, 17025, 1, 130, 5000]
    cu = torch.tensor([0, *sizes], device="cuda").cumsum(0).int()
    q, k, v = torch.randn(3, sum(sizes), 2, 128, device="cuda").to(dtype)
    usable(name, q, lse=True)
    segments = Segments(cu, cu, *[sum(sizes)] * 3)
    out, lse = BACKENDS[name].run(q, k, v, segments, True)
    at = 0
    for size in filter(None, sizes):
        one = slice(at, at + size)
        scores = torch.einsum("qnd,knd->nqk", q[one].float(), k[one].float()) / 128**0.5
        expected = torch.einsum("nqk,knd->qnd", scores.softmax(-1), v[one].float())
        assert error(out[one], expected) < TOLERANCE[dtype], size
        torch.testing.assert_close(lse[one], scores.logsumexp(-1).T, rtol=1e-3, atol=1e-3)
        at += size


@pytest.mark.parametrize("name", NAMES)
def test_large_and_equal_logits(name):
    for scale in (0.0, 300.0):
        arguments, config = layer(torch.bfloat16, scale=scale)
        usable(name, arguments[0], lse=config.combine == "union")
        found = moga_attention(*arguments, config, backend=name)
        assert found.isfinite().all()
        if name != "sage":
            precise = (*(t.float() for t in arguments[:3]), *arguments[3:])
            assert error(found, moga_attention_reference(*precise, config)) < 2e-2


@pytest.mark.parametrize("combine", ["union", "mean"])
@pytest.mark.parametrize("name", [AUTO, "flash3", "flash2", "torch", "triton"])
def test_no_synchronisation_inside_a_layer(name, combine):
    arguments, config = layer(torch.bfloat16, combine=combine)
    usable(name, arguments[0], lse=combine == "union")
    if name == AUTO and combine == "mean" and BACKENDS["flash3"].missing():
        pytest.skip("auto takes sdpa here, which copies the group sizes to the host")
    moga_attention(*arguments, config, backend=name)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        moga_attention(*arguments, config, backend=name)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("combine", "groups"), [("union", 3), ("union", 20), ("union", 200), ("mean", 3)]
)
@pytest.mark.parametrize("name", [AUTO, "flash2", "torch", "sdpa"])
def test_gradients_equal_the_reference(name, combine, groups):
    """Of 200 groups with sure routers the parts with signs round by up to 2.5e-2."""
    arguments, config = layer(torch.bfloat16, shots=(0, 2, 5), groups=groups, combine=combine)
    q, k, v, routing, layout = arguments
    usable(name, q, training=combine == "mean", lse=combine == "union")
    grads = []
    for attention, dtype in ((moga_attention, q.dtype), (moga_attention_reference, torch.float32)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (q, k, v)]
        gate = routing.gate.detach().requires_grad_()
        gated = Routing(routing.probabilities, routing.group, gate)
        out = attention(*leaves, gated, layout, config, backend=name)
        weight = torch.linspace(-1, 1, out.numel(), device="cuda").view_as(out)
        (out.float() * weight).sum().backward()
        grads.append([t.grad for t in (*leaves, gate) if t.grad is not None])
    for found, expected in zip(*grads, strict=True):
        assert error(found, expected) < 2.5e-2


@pytest.mark.parametrize("name", [AUTO, "sdpa"])
def test_heads_of_a_width_that_triton_has_no_kernel_for(name):
    """Without FlashAttention `auto` comes to the same."""
    layout, config = VideoLayout(6, 8, 10), MoGAConfig(3)
    q, k, v = torch.randn(3, 1, layout.tokens, 2, 96, device="cuda", dtype=torch.bfloat16)
    group = torch.randint(3, (1, layout.tokens), device="cuda")
    routing = Routing(None, group, torch.rand_like(group.float()), 3)
    out = moga_attention(q, k, v, routing, layout, config, backend=name)
    exact = moga_attention_reference(*(t.float() for t in (q, k, v)), routing, layout, config)
    assert error(out, exact) < 2.5e-2


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_merging_in_one_pass_equals_plain_pytorch(count, softmax):
    torch.manual_seed(2)
    tokens, heads, width = 301, 3, 40
    parts = []
    for number in range(count):
        lse = torch.randn(heads, tokens, device="cuda").T
        taken_off = softmax and number == 3
        parts.append(
            BranchOutput(
                torch.randn(tokens, heads, width, device="cuda"),
                (lse - 9 if taken_off else lse * 2) if softmax else None,
                torch.randperm(tokens, device="cuda").int() if number != 1 else None,
                torch.rand(tokens, device="cuda") if number == 2 or count == 1 else None,
                -1 if taken_off else 1,
            )
        )
    leaf = dataclasses.replace(parts[0], out=parts[0].out.clone().requires_grad_())
    if softmax:
        plain, plain_lse = softmax_of([leaf, *parts[1:]], want_lse=True)
        fast, fast_lse = softmax_of(parts, want_lse=True)  # may overwrite a part
        torch.testing.assert_close(fast_lse, plain_lse.detach(), rtol=1e-4, atol=1e-4)
    else:
        plain, fast = mean_of([leaf, *parts[1:]]), mean_of(parts)
    assert plain.requires_grad
    torch.testing.assert_close(fast, plain.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("combine", ["union", "mean"])
@pytest.mark.parametrize("name", [AUTO, "sdpa", "triton"])
def test_offsets_past_31_bits(name, combine):
    """The last tokens of a layer of 2 ** 31 elements and more agree with a layer of these alone."""
    layout = VideoLayout(361, 30, 52)
    config = MoGAConfig(20, (4, 4), branches=("routed", "frames"), combine=combine)
    if torch.cuda.mem_get_info()[0] < 45 * 2**30:
        pytest.skip("needs 45 GiB of free GPU memory")
    q = torch.randn(1, layout.tokens, 32, 128, device="cuda", dtype=torch.bfloat16)
    assert q.numel() > 2**31
    usable(name, q)
    group = torch.arange(layout.tokens, device="cuda")[None] // layout.frame_tokens % 20
    gate = torch.full_like(group, 1 / 20 if combine == "union" else 1, dtype=torch.float32)
    routing = Routing(None, group, gate, 20)
    out = moga_attention(q, q, q, routing, layout, config, backend=name)[:, -16:, -2:].clone()
    own = q[:, group[0] == group[0, -1], -2:].transpose(1, 2)
    frame = q[:, -layout.frame_tokens :, -2:].transpose(1, 2)
    dense = torch.nn.functional.scaled_dot_product_attention
    last = q[:, -16:, -2:].transpose(1, 2)
    if combine == "mean":
        expected = (dense(last, own, own) + dense(last, frame, frame)) / 2
    else:  # the group is every twentieth frame, with this one
        expected = dense(last, own, own)
    expected = expected.transpose(1, 2)
    assert error(out, expected) < 2e-2


@pytest.mark.parametrize("name", [AUTO, "flash3", "sdpa"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"windows": (5, 5)},  # too many for a bit each
        {"window_frames": 20},  # and too many frames
        {"branches": ("routed", "windows")},
        {"branches": ("routed", "windows"), "windows": (5, 5)},
        {"branches": ("routed", "frames")},
        {"branches": ("routed",)},
        {"groups": 1},
        {"groups": 200},
    ],
    ids=str,
)
def test_one_softmax_in_every_shape(name, config):
    """Of frames of 140 tokens, cuts and borrowed frames; group sizes down to none."""
    groups = config.get("groups", 3)
    arguments, config = layer(
        torch.bfloat16, shots=(0, 2, 17), frames=25, **{**config, "groups": groups}
    )
    usable(name, arguments[0], lse=True)
    precise = (*(t.float() for t in arguments[:3]), *arguments[3:])
    found = moga_attention(*arguments, config, backend=name)
    assert error(found, moga_attention_reference(*precise, config)) < 1.2e-2
