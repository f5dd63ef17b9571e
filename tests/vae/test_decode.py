"""Frames that aren't numbers end a decode, whatever decodes and wherever they come."""

from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moga.vae.decode import NotFiniteError, check_latent, stream_decode
from moga.video.background import Pipeline

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Vae(torch.nn.Module):
    """Decodes as a causal VAE does: the first latent frame to one frame, each later one to four.

    ``values``: {video frame: what one of its pixels is}. ``pieces``: as a list of frames, or not.
    """

    def __init__(self, values, dtype=torch.float32, pieces=False):
        super().__init__()
        self.decoder = torch.nn.Module()
        self.decoder.forward = self.chunk
        self.values, self.dtype, self.pieces, self.done = values, dtype, pieces, 0

    def chunk(self, x):
        count = 4 if self.done else 1
        frames = torch.rand(1, 3, count, 4, 6, device=x.device).to(self.dtype)
        for frame, value in self.values.items():
            if self.done <= frame < self.done + count:
                frames[0, 1, frame - self.done, 2, 3] = value
        self.done += count
        return list(frames.split(1, 2)) if self.pieces else frames

    def decode(self, latent):
        out = [self.decoder.forward(latent[:, :, at : at + 1]) for at in range(latent.shape[2])]
        return torch.cat([c for chunk in out for c in (chunk if self.pieces else [chunk])], 2)


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None)
@given(
    frame=st.integers(0, 16),
    later=st.integers(0, 16),
    value=st.sampled_from([nan, inf, -inf]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    pieces=st.booleans(),
    before=st.integers(0, 99),
)
def test_the_first_frame_that_is_no_number_is_named(
    device, frame, later, value, dtype, pieces, before
):
    vae = Vae({frame: value, max(frame, later): nan}, dtype, pieces)
    latent, seen = torch.zeros(1, 16, 5, 2, 3, device=device), []
    with pytest.raises(NotFiniteError, match=f"from video frame {before + frame} on, counted from"):
        stream_decode(vae, latent, lambda f: seen.append(f.shape[2]), first_frame=before)
    # The chunk is named when the next one is there, which nobody gets then.
    assert sum(seen) <= frame + 4 and vars(vae.decoder)["forward"] == vae.chunk


@pytest.mark.parametrize("device", DEVICES)
def test_large_and_tiny_numbers_are_numbers(device):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        limits = torch.finfo(dtype)
        values = {0: limits.max, 1: limits.min, 2: limits.tiny, 8: limits.max}
        vae, latent = Vae(values, dtype), torch.zeros(1, 16, 3, 2, 3, device=device)
        assert stream_decode(vae, latent, lambda frames: None) == 9


def test_a_bad_last_frame_is_not_finished():
    """What waits in the pipeline by then isn't declared complete."""
    done = []
    with (
        pytest.raises(NotFiniteError, match="video frame 8 on"),
        Pipeline(lambda f: done.append(len(f)), finish=lambda: done.append("end")) as pipeline,
    ):
        stream_decode(
            Vae({8: nan}),
            torch.zeros(1, 16, 3, 2, 3),
            lambda frames: pipeline.put(frames[0].movedim(0, -1)),
        )
    assert "end" not in done


@given(
    frame=st.integers(0, 4),
    value=st.sampled_from([nan, inf, -inf]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_a_latent_is_refused_by_its_frame(frame, value, dtype):
    latent = torch.zeros(1, 16, 5, 2, 3, dtype=dtype)
    check_latent(latent)
    latent[0, 3, frame:, 1, 1] = value
    with pytest.raises(NotFiniteError, match=f"^latents has values .* latent frame {frame} on, c"):
        check_latent(latent, "latents")
