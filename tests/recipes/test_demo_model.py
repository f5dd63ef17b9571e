"""The parts of the demo's recipe that its training relies on."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

from moga.hosts.diffusers import load_text_encoder, load_vae

RECIPE = Path(__file__).parents[2] / "recipes" / "demo_model"


def script(name):
    spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def test_statistics_are_folded_in_and_the_picture_stays():
    train_vae = script("train_vae")
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=8).eval()
    videos = [torch.rand(1, 3, 9, 32, 32) * 2 - 1 for _ in range(3)]

    def latents():
        return torch.cat([vae.encode(v).latent_dist.mode() for v in videos])

    before, spread = vae.decode(latents()).sample, vae.encode(videos[0]).latent_dist.logvar
    channels = latents().transpose(0, 1).flatten(1)
    mean, std = channels.mean(1), channels.std(1)
    train_vae.fold_statistics(vae, mean, std)
    channels = latents().transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.tensor(vae.config.latents_mean), atol=1e-3,
                               rtol=1e-3)  # fmt: skip
    torch.testing.assert_close(channels.std(1), torch.tensor(vae.config.latents_std), atol=1e-3,
                               rtol=1e-3)  # fmt: skip
    torch.testing.assert_close(vae.decode(latents()).sample, before, atol=1e-4, rtol=1e-3)
    scale = (torch.tensor(vae.config.latents_std) / std).view(1, -1, 1, 1, 1)
    found = vae.encode(videos[0]).latent_dist.logvar
    torch.testing.assert_close(found, spread + 2 * scale.log(), atol=1e-3, rtol=1e-3)


def test_the_vae_is_saved_in_wans_names(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=8)
    script("train_vae").save(vae, tmp_path / "vae.safetensors")
    loaded = load_vae(tmp_path / "vae.safetensors", dtype=torch.float32)
    state = loaded.state_dict()
    assert all(torch.equal(state[n], t.bfloat16().float()) for n, t in vae.state_dict().items())


def test_the_text_encoder_tells_words_apart(tmp_path):
    module = script("text_encoder")
    save_file(module.text_encoder(), tmp_path / "umt5.safetensors")
    encoder, tokenizer = load_text_encoder(tmp_path / "umt5.safetensors", dtype=torch.float32)
    ids = {word: tokenizer.ids(word) for word in module.WORDS}
    assert all(len(found) == 2 for found in ids.values())  # the word, and the end
    assert len({tuple(found) for found in ids.values()}) == len(ids)
    one, other = (encoded(encoder, tokenizer, f"A {c} striped star.") for c in ("red", "blue"))
    apart = torch.nn.functional.cosine_similarity(one, other, dim=-1)
    assert (apart < 0.6).sum() == 1 and (apart > 0.8).sum() == len(apart) - 1
    back = tokenizer._pieces.decode(tokenizer.ids("Zürich \u2615")[:-1])
    assert back.replace("\u2581", " ").strip() == "Zürich \u2615"


def test_a_file_that_was_not_finished_is_made_again(tmp_path):
    make, out, writer = script("make").make, tmp_path / "out.bin", tmp_path / "writer.py"
    writer.write_text("import sys; open(sys.argv[1], 'w').write('half'); sys.exit('stopped')")
    with pytest.raises(SystemExit, match=r"this failed: .*writer.py"):
        make(out, writer)
    assert not out.exists()
    writer.write_text("import sys; open(sys.argv[1], 'w').write(sys.argv[2])")
    for words in ("whole", "again"):
        make(out, writer, words)
        assert out.read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"out.bin", "writer.py"}


@torch.no_grad()
def encoded(encoder, tokenizer, text):
    tokens = tokenizer([text], max_length=len(tokenizer.ids(text)))
    return encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
