"""The table of backends, the choice between them, and what surrounds the kernels, on any device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moga import kernels
from moga.attention import moga_attention
from moga.attention.packing import by_group
from moga.config import MoGAConfig
from moga.kernels import BACKENDS, Backend, Segments, Work, assign, choose, select
from moga.kernels.branch import BranchOutput
from moga.kernels.dense import dense_attention
from moga.kernels.merge import mean_of, softmax_of
from moga.kernels.segments import TILE
from moga.layout import VideoLayout
from moga.routing import Routing


def packed(sizes, width=8):
    torch.manual_seed(0)
    tensors = torch.randn(3, sum(sizes), 2, width, dtype=torch.float64)
    return *tensors, Segments.from_lengths(tuple((n, n) for n in sizes), "cpu")


def test_sdpa_gives_output_and_log_sum_exp_of_empty_and_uneven_segments():
    sizes = (0, 5, 5, 1, 0, 9)
    q, k, v, segments = packed(sizes)
    out, lse = BACKENDS["sdpa"].run(q, k, v, segments, True)
    unknown = Segments(segments.cu_q, segments.cu_k, 20, 20, 20)
    torch.testing.assert_close(BACKENDS["sdpa"].run(q, k, v, unknown, False)[0], out)
    at = 0
    for size in sizes:
        one = slice(at, at + size)
        scores = torch.einsum("qnd,knd->nqk", q[one], k[one]) / 8**0.5
        expected = torch.einsum("nqk,knd->qnd", scores.softmax(-1), v[one])
        torch.testing.assert_close(out[one], expected)
        torch.testing.assert_close(lse[one], scores.logsumexp(-1).T)
        at += size


@pytest.mark.parametrize("groups", [1, 5, 256])
def test_groups_become_segments_without_counting(groups):
    torch.manual_seed(0)
    group = torch.randint(0, groups, (3, 70)) // 2 * 2 % groups  # odd groups stay empty
    order = by_group(group, groups)
    counts = torch.stack([row.bincount(minlength=groups) for row in group]).flatten()
    assert order.segments.cu_q.dtype == torch.int32
    assert order.segments.cu_q.diff().tolist() == counts.tolist()
    assert order.queries[order.place.long()].tolist() == list(range(210))
    assert group.flatten()[order.queries[: counts[0]]].eq(0).all()


def test_tiles_cover_every_query_once():
    sizes = (0, 5, TILE, TILE + 1, 1, 0, 3 * TILE - 1)
    segments = Segments.from_lengths(tuple((n, n) for n in sizes), "cpu")
    taken = []
    for segment, first in zip(*(t.tolist() for t in vars(segments.tiles).values()), strict=True):
        if segment >= 0:
            taken += [(segment, i) for i in range(first, min(first + TILE, sizes[segment]))]
    assert taken == [(s, i) for s, size in enumerate(sizes) for i in range(size)]


def test_cudnn_meets_few_lengths_however_groups_fall():
    triton = pytest.importorskip("triton", reason="the left-over keys need Triton")
    assert triton
    from moga.kernels.rounded import SMALL, rounded

    seen = set()
    for size in range(1, 600_000, 7):
        queries, keys = rounded(size)
        if size < SMALL:
            assert (queries, keys) == (0, 0)
        else:
            assert keys <= size < queries and size - keys <= size / 32
        seen.add((queries, keys))
    assert len(seen) < 310  # of any video; one model's groups lie within an octave or two:
    within_two_octaves = {rounded(size) for size in range(9_360, 4 * 9_360)}
    assert len(within_two_octaves) <= 2 * 32 + 2


def test_a_mean_undoes_the_order_and_gates_one_branch():
    torch.manual_seed(0)
    order = torch.randperm(6)
    first, second = torch.randn(2, 6, 2, 4)
    gate = torch.rand(6)
    into = torch.empty(6, 3, 4)[:, :2]
    found = mean_of(
        [BranchOutput(first[order], place=order.argsort(), gate=gate), BranchOutput(second)], into
    )
    assert found is into
    torch.testing.assert_close(into, (first * gate[:, None, None] + second) / 2)


def test_one_softmax_of_parts_is_attention_over_all_their_keys():
    """Keys 0 to 5 and 4 to 9, less 4 and 5, which both have; 10 to 11 weighed by a gate."""
    torch.manual_seed(0)
    order = torch.randperm(5)
    q, k, v = torch.randn(5, 2, 4), torch.randn(12, 2, 4), torch.randn(12, 2, 4)
    gate = torch.rand(5) * 3
    gate[2] = 0

    def part(keys, sign=1, gate=None):
        bias = torch.full((5, 12), -torch.inf)
        bias[:, keys] = 0
        out, lse = dense_attention(*(t.transpose(0, 1)[None] for t in (q[order], k, v)), bias)
        return BranchOutput(out[0].transpose(0, 1), lse[0].T, order.argsort(), gate, sign)

    spans = (slice(0, 6), slice(4, 10), slice(10, 12), slice(4, 6))
    parts = [part(spans[0]), part(spans[1]), part(spans[2], gate=gate), part(spans[3], -1)]
    into = torch.empty(5, 3, 4)[:, :2]
    found, lse = softmax_of(parts, into, want_lse=True)
    assert found is into
    scores = torch.einsum("qnd,knd->nqk", q, k) / 2
    scores[:, :, 10:] += gate.log()[:, None]
    torch.testing.assert_close(into, torch.einsum("nqk,knd->qnd", scores.softmax(-1), v))
    torch.testing.assert_close(lse, scores.logsumexp(-1).T)


@pytest.mark.parametrize("combine", ["union", "mean"])
def test_heads_in_portions_change_nothing(combine):
    torch.manual_seed(0)
    layout, config = VideoLayout(5, 4, 3, (0, 2)), MoGAConfig(3, combine=combine)
    q, k, v = torch.randn(3, 2, layout.tokens, 5, 8)
    routing = Routing.from_scores(torch.randn(2, layout.tokens, 3))
    whole = moga_attention(q, k, v, routing, layout, config)
    for heads in (1, 2, 4):
        part = moga_attention(q, k, v, routing, layout, config, heads_at_once=heads)
        torch.testing.assert_close(part, whole)


def test_offsets_of_long_videos_fit():
    """600,000 tokens have int32 positions; their products are int64 in the kernels."""
    layout = VideoLayout(385, 30, 52)
    group = (torch.arange(layout.tokens) % 20)[None]
    order = by_group(group, 20)
    assert layout.tokens > 600_000
    assert order.segments.cu_q[-1] == layout.tokens
    assert order.queries[-1] == layout.tokens - 1


def test_auto_on_a_cpu_is_sdpa_and_says_what_it_passed_over():
    q = torch.empty(1, 1, 1, 128)
    backend, why = select("auto", q)
    assert backend.name == "sdpa"
    assert "flash3: " in why and "torch: needs an NVIDIA GPU" in why
    work = {"routed": Work(10.0, None, True), "windows": Work(9.0, 1, True)}
    assert {row.name for row in assign("auto", q, work).backends.values()} == {"sdpa"}


@pytest.mark.parametrize(
    ("packages", "triton", "training", "chosen"),
    [
        (("fa3-fwd", "flash-attn"), True, False, "flash3"),
        (("flash-attn",), True, False, "sdpa"),
        (("flash-attn",), False, False, "flash2"),
        ((), False, False, "torch"),
        (("fa3-fwd",), True, True, "torch"),
        (("fa3-fwd", "flash-attn"), True, True, "flash2"),
    ],
)
def test_the_order_of_auto_on_hopper(monkeypatch, packages, triton, training, chosen):
    there = {*packages, "torch", *(["triton"] if triton else [])}
    monkeypatch.setattr(
        sys.modules[Backend.__module__],
        "missing",
        lambda _, package, __: None if package in there else "no",
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(choose, "cudnn_fits", lambda q: True)
    q = Hopper()
    assert select("auto", q, training=training)[0].name == chosen
    work = {
        "routed": Work(1600.0, None, True),
        "windows": Work(700.0, 4, True),
        "frames": Work(1560.0, 1, False),
    }
    used = {
        branch: row.name
        for branch, row in assign("auto", q, work, training=training).backends.items()
    }
    assert used["frames"] == chosen
    assert used["windows"] == used["routed"] == ("triton" if chosen == "sdpa" else chosen)
    only = {row.name for row in assign(chosen, q, work, training=training).backends.values()}
    assert only == {chosen}  # what was asked for by name is not mixed


class Hopper:
    """Enough of a tensor on an H100."""

    dtype, shape, device, is_cuda = torch.bfloat16, (1, 1, 1, 128), torch.device("cuda", 0), True


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        ("2.5.9.post1", "flash-attn 2.6 or newer is needed, 2.5.9.post1 is installed"),
        ("2.6.0", "None"),
    ],
)
def test_flash2_needs_the_packed_log_sum_exp_of_2_6(tmp_path, version, missing):
    """2.5 gives (segments, heads, longest), which would be read as (heads, tokens)."""
    info, package = tmp_path / f"flash_attn-{version}.dist-info", tmp_path / "flash_attn"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flash-attn\nVersion: {version}\n")
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "flash_attn_interface.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", "from moga.kernels import *; print(BACKENDS['flash2'].missing())"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == missing


def test_the_readme_holds_the_table_and_the_report_names_every_backend():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"\n\n{kernels.backend_table()}\n\n" in readme
    report = kernels.report("cpu")
    for name in BACKENDS:
        assert f"\n  {name}" in report
    assert "auto, union: sdpa" in report


def test_the_module_prints_the_report():
    done = subprocess.run(
        [sys.executable, "-m", "moga.kernels"], capture_output=True, text=True, check=True
    )
    assert "auto, mean, training: " in done.stdout


def test_nothing_optional_is_imported_at_load():
    names = "[m for m in ('triton', 'flash_attn', 'sageattention') if m in sys.modules]"
    code = f"import sys, moga.attention; print({names})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
