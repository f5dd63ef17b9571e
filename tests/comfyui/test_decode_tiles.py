"""Tiles: near the whole frame in space, the same in time, and exact where one tile is enough."""

from itertools import pairwise

import pytest
import torch
from harness import tiny


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def wan(request, comfy):
    from comfy.sd import VAE

    with tiny.small_models():
        return VAE(sd=tiny.vae(request.param))


def make_latent(vae, frames=4, height=8, width=12):
    generator = torch.Generator().manual_seed(0)
    shape = (1, vae.latent_channels, frames, height, width)
    return {"samples": torch.randn(shape, generator=generator)}


def decode(comfy, vae, samples, **tiles):
    (images,) = comfy.call("MoGAChunkedDecode", samples=samples, vae=vae, **tiles)
    return images


def pixels(vae, latent_pixels):
    return latent_pixels * vae.upscale_ratio[1]


def test_tiles_are_near_the_whole_frame(comfy, wan):
    samples = make_latent(wan)
    whole = decode(comfy, wan, samples)
    near, far = (
        decode(comfy, wan, samples, tile_size=pixels(wan, size), tile_overlap=pixels(wan, overlap))
        for size, overlap in ((6, 3), (4, 0))
    )
    assert near.shape == whole.shape and not torch.equal(near, whole)
    # Random weights attend to everything alike, so the middle block makes tiles differ all over.
    assert (near - whole).abs().mean() < 0.6 * whole.std()
    assert (near - whole).abs().mean() < (far - whole).abs().mean()


def test_tile_larger_than_the_frame_is_exact(comfy, wan):
    samples = make_latent(wan, 3)
    tiled = decode(comfy, wan, samples, tile_size=pixels(wan, 12), tile_overlap=pixels(wan, 4))
    assert torch.equal(tiled, decode(comfy, wan, samples))


def test_each_tile_is_the_decode_of_its_part(comfy, wan):
    # Without overlap nothing is blended, and each tile has a past of its own.
    samples = make_latent(wan, 5, height=4, width=8)
    tiled = decode(comfy, wan, samples, tile_size=pixels(wan, 4), tile_overlap=0)
    for column in (0, 4):
        part = {"samples": samples["samples"][..., column : column + 4]}
        place = slice(pixels(wan, column), pixels(wan, column + 4))
        torch.testing.assert_close(tiled[:, :, place], decode(comfy, wan, part), rtol=0, atol=1e-5)


def test_constant_latent_has_no_seams(comfy, wan):
    # Where all tiles agree, blending them must change nothing.
    tiles = comfy.module("moga.vae.tiles")
    decoder = tiles.TiledDecoder(lambda x, **_: x[:, :3].repeat(1, 1, 1, 8, 8), tiles.Tiling(4, 2))
    frames = decoder(torch.full((1, 16, 2, 9, 13), 0.25))
    torch.testing.assert_close(frames, torch.full((1, 3, 2, 72, 104), 0.25))


def test_video_says_that_it_is_approximate(comfy, wan, caplog):
    overlap = {"tile_overlap": pixels(wan, 2)}
    with caplog.at_level("INFO"):
        prompt = {
            "samples": comfy.put(make_latent(wan)),
            "vae": comfy.put(wan),
            "save": {
                "class_type": "MoGADecodeToVideo",
                "inputs": {
                    **{"samples": ["samples", 0], "vae": ["vae", 0], "fps": 16.0, "quality": 18},
                    **{"filename_prefix": "tiled/a", "tile_size": pixels(wan, 6), **overlap},
                },
            },
        }
        comfy.run(prompt)
    assert "Decoding in tiles, which is approximate" in caplog.text
    assert "13 of 13 frames" in caplog.text and "approximate (tiles)" in caplog.text


@pytest.mark.parametrize("length", range(1, 40))
def test_tiles_cover_an_edge(comfy, length):
    spans = comfy.module("moga.vae.tiles").Tiling(8, 3).spans(length)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(end - start == min(8, length) for start, end in spans)
    for (_, end), (start, _) in pairwise(spans):
        assert end - start >= 3


@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (8, 5), (8, -1)])
def test_impossible_tiles(comfy, size, overlap):
    with pytest.raises(ValueError, match=f"tiles of {size} latent pixels overlap by {overlap};"):
        comfy.module("moga.vae.tiles").Tiling(size, overlap)
