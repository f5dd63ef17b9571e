"""`python -m moga.generate`: from a script to a film, and every request that cannot be met."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from moga.checkpoint import write
from moga.config import MoGAConfig
from moga.generate import main
from moga.generate.memory import Memory
from moga.generate.options import parse, parser
from moga.generate.plan import make_plan
from moga.hosts.diffusers import open_vae
from moga.pictures.contact_sheet import ContactSheet
from moga.shots import ShotList

ROOT = Path(__file__).resolve().parents[2]


def test_the_same_seed_gives_the_same_file(line, tmp_path, capsys):
    films = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.mp4"
        assert main(line(out=out, seed=seed)) == 0
        films.append(out.read_bytes())
    assert films[0] == films[1] != films[2]
    out, err = capsys.readouterr()
    assert "sampling: 100%" in err and "decoding: 100%" in err
    assert f"wrote {tmp_path / 'c.mp4'}" in out
    latents = load_file(tmp_path / "a.latents.safetensors")["latents"]
    assert latents.shape == (1, 16, 3, 4, 6) and latents.dtype == torch.float32


@pytest.mark.parametrize("chosen", [True, False])
def test_no_convolution_rounds_to_tf32_while_it_samples(line, monkeypatch, chosen):
    """Which cuDNN's do as PyTorch comes. What the caller chose is there again afterwards."""
    cudnn, seen = torch.backends.cudnn, set()
    monkeypatch.setattr(cudnn, "allow_tf32", chosen)

    def look(module, _):
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size == (1, 2, 2):
            seen.add(cudnn.allow_tf32)

    with torch.nn.modules.module.register_module_forward_pre_hook(look):
        assert main(line()) == 0
    assert (seen, cudnn.allow_tf32) == ({False}, chosen)


def test_latents_can_be_decoded_again(line, tmp_path):
    assert main(line()) == 0
    again = {"embeddings": None, "latents": tmp_path / "film.latents.safetensors"}
    assert main(line(out=tmp_path / "again.mp4", **again)) == 0
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()
    assert not (tmp_path / "again.latents.safetensors").exists()


def test_latents_are_decoded_with_the_vae_alone(line, model_files, tmp_path):
    """Whatever else is named is not even opened: decoding has the memory to itself."""
    assert main(line()) == 0
    alone = {"embeddings": None, "latents": tmp_path / "film.latents.safetensors", "model": None}
    memory = make_plan(parse(line(**alone, out=tmp_path / "again.mp4"))).memory
    vae = open_vae(model_files("vae")).bytes_as(torch.float32)
    assert (memory.weights, memory.sampling) == (vae, 0)
    assert main(line(**alone, out=tmp_path / "again.mp4")) == 0
    alone |= {"model": tmp_path / "gone.safetensors", "routers": tmp_path / "gone.safetensors"}
    assert main(line(**alone, out=tmp_path / "named.mp4")) == 0
    for name in ("again", "named"):
        assert (tmp_path / f"{name}.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()


def test_latents_outlive_a_decode_that_fails(line, tmp_path, monkeypatch):
    import moga.generate.run as run

    def fail(*args, **options):
        raise RuntimeError("the decoder broke")

    monkeypatch.setattr(run, "decode_frames", fail)
    with pytest.raises(RuntimeError, match="broke"):
        main(line())
    assert (tmp_path / "film.latents.safetensors").exists()
    assert not (tmp_path / "film.mp4").exists()


def test_a_plan_says_what_and_stops(line, tmp_path, capsys):
    assert main(line(plan=True)) == 0
    out = capsys.readouterr().out
    assert "2 shots, 9 frames, 0.56 s at 16 fps, 3 latent frames" in out
    assert "tokens    18 (3 x 2 x 3)" in out
    assert "% of dense (5 groups): t2v.safetensors" in out
    assert "memory    about" in out and "disk      " in out
    assert list(tmp_path.glob("film*")) == []


def test_the_whole_way_from_captions(line, model_files, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    more = {"embeddings": None, "text_encoder": model_files("umt5"), "negative": "blurry"}
    assert main(line(contact_sheet=sheet, **more)) == 0
    assert Image.open(sheet).width == 960
    assert (tmp_path / "film.mp4").exists()


def test_the_scripts_negative_is_used_unless_another_is_given(line, model_files, tmp_path, capsys):
    story = (tmp_path / "story.txt").read_text()
    (tmp_path / "with.txt").write_text(f"negative: blurry\n{story}")
    text = {"embeddings": None, "text_encoder": model_files("umt5")}

    def film(name, said, **changes):
        assert main(line(out=tmp_path / f"{name}.mp4", **text, **changes)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [row for row in lines if row.startswith("negative")] == said
        return load_file(tmp_path / f"{name}.latents.safetensors")["latents"]

    script = {"script": tmp_path / "with.txt"}
    plain = film("plain", [])
    given = film("given", [], negative="blurry")
    own = film("own", ["negative  from the script"], **script)
    assert torch.equal(own, given) and not torch.equal(own, plain)
    both = ["negative  from --negative; the script's is not used"]
    assert torch.equal(film("none", both, **script, negative=""), plain)
    assert main(line(plan=True, **script, out=tmp_path / "encoded.mp4")) == 0
    assert "negative  as encoded in text.safetensors, not the script's" in capsys.readouterr().out


def test_dense_attention_on_a_plain_model(line, model_files, tmp_path):
    plain = {"model": model_files("plain"), "attention": "dense"}
    assert main(line(**plain)) == 0
    assert main(line(attention="dense", out=tmp_path / "same.mp4")) == 0
    assert (tmp_path / "same.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()


def test_routers_from_another_file(line, model_files, tmp_path):
    assert main(line()) == 0
    beside = {"model": model_files("plain"), "routers": model_files("routers")}
    assert main(line(out=tmp_path / "beside.mp4", **beside)) == 0
    assert (tmp_path / "beside.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()


def test_two_experts(line, model_files, tmp_path):
    both = {"model": None, "model_high": model_files("t2v"), "model_low": model_files("low")}
    assert main(line(**both, cfg_low=3)) == 0
    assert main(line(**both, boundary=0.01, out=tmp_path / "high.mp4")) == 0
    assert main(line(out=tmp_path / "one.mp4")) == 0
    assert (tmp_path / "high.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()
    assert (tmp_path / "film.mp4").read_bytes() != (tmp_path / "one.mp4").read_bytes()


@pytest.mark.parametrize(("model", "vae", "size", "more"), [
    ("i2v", "vae", "48x32", ("clip", "umt5")),
    ("i2v_2.2", "vae", "48x32", (None, None)),
    ("ti2v", "vae22", "96x64", (None, None)),
])  # fmt: skip
def test_image_to_video(line, model_files, tmp_path, model, vae, size, more):
    image = tmp_path / "first.png"
    Image.effect_noise((60, 40), 80).save(image)
    clip, umt5 = more
    options = {"image_encoder": clip and model_files(clip)}
    if umt5:  # diffusers' 2.1 image model takes 512 tokens of text and no others
        options |= {"embeddings": None, "text_encoder": model_files(umt5)}
    found = {"model": model_files(model), "vae": model_files(vae), "image": image, "size": size}
    assert main(line(**found, **options)) == 0
    assert (tmp_path / "film.mp4").exists()


def test_a_diffusers_folder(line, tiny, model_files, tmp_path):
    folder = tmp_path / "folder"
    tiny.wan().save_pretrained(folder / "transformer")
    tiny.vae().save_pretrained(folder / "vae")
    found = {"model": folder, "vae": folder, "routers": model_files("routers")}
    assert main(line(**found)) == 0
    assert main(line(out=tmp_path / "files.mp4")) == 0
    assert (tmp_path / "files.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()


def bad(words, **changes):
    return pytest.param(changes, words, id=words[:40])


@pytest.mark.parametrize(("changes", "words"), [
    bad("--size is '48'; give width and height", size="48"),
    bad("a width of 44; t2v.safetensors needs a multiple of 16, such as 48", size="44x32"),
    bad("a height of 8; t2v.safetensors needs a multiple of 16, such as 16", size="48x8"),
    bad("has a width of 48; ti2v.safetensors needs a multiple of 32", model="ti2v", vae="vae22"),
    bad("latent columns, and Wan's positions end at 1024", size="16400x16"),
    bad("latent frames, and Wan's positions end at 1024", script="[300s] a long one"),
    bad("script line 1", script="[5x] what"),
    bad("script has no shots", script="  "),
    bad("is not text in UTF-8", script=b"[5f] \xff"),
    bad("--script is", script=None),
    bad("fps is", fps="0"),
    bad("lead.mov'; give a name that ends in .mp4", out="lead.mov"),
    bad("give a name that ends in .png", contact_sheet="sheet.webp"),
    bad("--contact-sheet names a folder", contact_sheet="nowhere/sheet.png"),
    bad("names a folder that is not there", out="nowhere/film.mp4"),
    bad("exists already; choose another name", out="there.mp4"),
    bad("--steps is 0; give a number from 1", steps=0),
    bad("--cfg is nan", cfg="nan"),
    bad("--cfg-low is nan; give a number", cfg_low="nan"),
    bad("--cfg-low is 5 and --cfg 1, which turns guidance off", cfg=1, cfg_low=5),
    bad("--cfg-low is for the low-noise expert", cfg_low=4),
    bad("--boundary is for the low-noise expert", boundary=0.5),
    bad("--seed is -1", seed=-1),
    bad("--boundary is 2.0", boundary=2),
    bad("give either --model, or --model-high", model=None),
    bad("belong together", model_low="low"),
    bad("--routers-low is for --model-low", routers_low="routers"),
    bad("--attention dense uses no routers", attention="dense", routers="routers"),
    bad("--negative is not encoded", negative="blurry"),
    bad("is not a Wan text-to-video or image-to-video transformer, it looks", model="vae"),
    bad("plain.safetensors holds no MoGA routers; give --routers FILE, or", model="plain"),
    bad("vae.safetensors holds no MoGA routers", routers="vae"),
    bad("is not a VAE of Wan", vae="t2v"),
    bad("the VAE has 48 latent channels, the model 16; use wan_2.1_vae", vae="vae22"),
    bad("--vae is missing; give wan_2.1_vae.safetensors", vae=None),
    bad("--text-encoder is missing; give umt5_xxl_fp16.safetensors, or", embeddings=None),
    bad("is not a UMT5 text encoder", embeddings=None, text_encoder="vae"),
    bad("begins with an image; give --image FILE", model="i2v_2.2"),
    bad("is a text-to-video model; leave --image out", image="first.png"),
    bad("which is no picture; give a PNG or JPEG", image="story.txt", model="i2v_2.2"),
    bad("--image is none.png, which is not there", image="none.png"),
    bad("give --image-encoder clip_vision_h.safetensors", model="i2v", image="first.png"),
    bad("but the script has 1 shots", script="[5f] one"),
    bad("has no tensor prompt_embeds", embeddings="vae"),
    bad("has no negative_prompt_embeds, which --cfg 5 needs", embeddings="alone.safetensors"),
    bad("and the film takes about", script="[60s] one\n[60s] two", size="16384x16384"),
    bad("has no tensor latents", latents="vae"),
    bad("--vae is missing", latents="vae", model=None, vae=None),
    bad("give either --model, or --model-high", latents="vae", model_high="t2v", model_low="low"),
    bad("a width of 44; Wan needs a multiple of 16", latents="small.safetensors", size="44x32"),
    bad("script, size and VAE make (1, 16, 3, 4, 6)", latents="small.safetensors"),
    bad("which this PyTorch cannot use", device="gpu"),
    bad("but --device is cpu", offload="model"),
    bad("the model reads text of width 64", embeddings="wide.safetensors"),
])  # fmt: skip
def test_bad_requests(line, save_text, model_files, tmp_path, monkeypatch, capsys, changes, words):
    """One sentence, status 2, and nothing written; paths given here are files of the test."""
    monkeypatch.chdir(tmp_path)
    Path("there.mp4").touch()
    Image.new("RGB", (48, 32)).save("first.png")
    save_text(Path("alone.safetensors"), torch.zeros(2, 9, 64))
    save_text(Path("wide.safetensors"), torch.zeros(2, 9, 32), torch.zeros(1, 9, 32))
    save_file({"latents": torch.zeros(1, 16, 2, 4, 6)}, "small.safetensors")
    named = {"model", "model_high", "model_low", "vae", "routers", "routers_low", "embeddings",
             "text_encoder", "latents"}  # fmt: skip
    given = {}
    for name, value in changes.items():
        if name in named and value and not Path(value).exists():
            value = model_files(value)
        if name == "script":
            Path("story.txt").unlink() if value is None else write_any(Path("story.txt"), value)
            continue
        given[name] = value
    before = sorted(tmp_path.iterdir())
    assert main(line(**given)) == 2
    message = capsys.readouterr().err.strip()
    assert words in message
    assert message.startswith("moga.generate: ") and "\n" not in message
    assert sorted(tmp_path.iterdir()) == before


def write_any(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_too_long_a_caption_is_refused_before_loading(line, model_files, capsys, tmp_path):
    (tmp_path / "story.txt").write_text("[5f] " + "woman " * 600)
    options = line(embeddings=None, text_encoder=model_files("umt5"))
    assert main([*options, "--plan"]) == 2
    assert "512 are read" in capsys.readouterr().err


def test_settings_of_a_newer_version(line, tmp_path, model_files, capsys):
    path = tmp_path / "new.safetensors"
    metadata = {"moga": json.dumps({**json.loads(MoGAConfig().to_json()), "version": 99})}
    save_file(load_file(model_files("t2v")), path, metadata)
    assert main(line(model=path)) == 2
    assert "version 99" in capsys.readouterr().err


def test_routers_for_another_model(line, model_files, tmp_path, capsys):
    tensors = {
        k: t[:, :128] if t.ndim == 2 else t for k, t in load_file(model_files("routers")).items()
    }
    write(tmp_path / "narrow.safetensors", tensors, MoGAConfig())
    assert main(line(routers=tmp_path / "narrow.safetensors")) == 2
    assert "has shape (5, 128), the model needs (5, 256)" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["diffusers", "accelerate"])
def test_a_missing_extra_is_named(line, missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from moga.generate import main; "
        f"sys.exit(main({line()!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert f'needs {missing}; run `pip install -e ".[train]"`' in done.stderr


def test_the_library_itself_imports_nothing_optional():
    code = (
        "import sys, moga.attention, moga.shots, moga.generate\n"
        "print([m for m in ('diffusers', 'transformers', 'accelerate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_every_option_has_help():
    assert all(action.help for action in parser()._actions)


def test_options_are_read(line, tmp_path):
    options = parse(line(size="64x48", cfg_low="2", seed=7))
    assert (options.width, options.height, options.cfg_low, options.seed) == (64, 48, 2.0, 7)
    assert options.latents_out == tmp_path / "film.latents.safetensors"


def test_memory_counts_what_is_there_at_once():
    def peak(offload):
        return Memory(weights=30, sampling_weights=16, largest=20, sampling=5, decoding=3,
                      offload=offload).peak  # fmt: skip

    assert (peak("none"), peak("model"), peak("group")) == (35, 21, 6)


def test_a_contact_sheet_shows_each_shot():
    shots = ShotList.parse("[5f] a\n[4f] b", 16)
    sheet = ContactSheet(shots, columns=2)
    frames = np.zeros((9, 32, 48, 3), np.uint8)
    frames[:5, ..., 0] = 255
    frames[5:, ..., 2] = 255
    for part in np.split(frames, [1, 5]):
        sheet.add(part)
    picture = np.asarray(sheet.draw())
    height = (960 - 24) // 2 * 32 // 48
    red, blue = picture[-height * 2 + 20 : -height - 20, 300], picture[-height + 20 : -20, 300]
    assert (red == (255, 0, 0)).all() and (blue == (0, 0, 255)).all()
