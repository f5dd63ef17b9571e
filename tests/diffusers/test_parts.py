"""Models of a pipeline are opened once and judged once, and travel as that."""

import json
import pickle
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from moga import tensor_file
from moga.checkpoint import CheckpointError, in_router, router_key
from moga.generate import main
from moga.hosts.diffusers import (
    Part,
    check_together,
    load_pipeline,
    open_image_encoder,
    open_text_encoder,
    open_vae,
    open_wan,
)
from moga.hosts.diffusers.pipeline import make_scheduler
from moga.hosts.diffusers.recognise import looks_like
from moga.train import main as train
from moga.video import VideoWriter

_watching: list[Counter] = []


def _note_open(event, arguments):
    if event == "open" and _watching and str(arguments[0]).endswith(".safetensors"):
        _watching[-1][str(arguments[0]).rpartition("/")[2]] += 1


sys.addaudithook(_note_open)


@pytest.fixture
def judged():
    """How often each file was looked at to be judged: what opens it, but to read tensors."""
    _watching.append(Counter())
    yield _watching[-1]
    _watching.pop()


@pytest.fixture
def parsed(monkeypatch):
    """How often each file was opened by safetensors, which reads the header then."""
    count = Counter()
    real = tensor_file.safe_open

    def counting(path, **options):
        count[path.name] += 1
        return real(path, **options)

    monkeypatch.setattr(tensor_file, "safe_open", counting)
    return count


def of(count, *names):
    return [count[f"{name}.safetensors"] for name in names]


def test_a_film_opens_each_model_once(line, model_files, judged, parsed):
    files = {"vae": "vae", "text_encoder": "umt5", "model": "plain", "routers": "routers"}
    given = {name: model_files(file) for name, file in files.items()}
    judged.clear()  # the files were just written
    assert main(line(embeddings=None, **given)) == 0
    assert of(judged, *files.values()) == [1, 1, 1, 1]
    # Once more for the weights; the text encoder's file holds a tokenizer, too.
    assert of(parsed, *files.values()) == [2, 3, 2, 2]


def test_a_film_of_experts_opens_each_once(line, model_files, judged):
    files = {"model_high": "t2v", "model_low": "low", "vae": "vae"}
    given = {name: model_files(file) for name, file in files.items()}
    judged.clear()
    assert main(line(model=None, **given)) == 0
    assert of(judged, *files.values()) == [1, 1, 1]


def test_a_film_from_an_image_opens_each_once(line, model_files, judged, tmp_path):
    Image.new("RGB", (48, 32)).save(tmp_path / "first.png")
    files = {"model": "i2v", "image_encoder": "clip", "text_encoder": "umt5"}
    given = {name: model_files(file) for name, file in files.items()}
    judged.clear()
    assert main(line(embeddings=None, image=tmp_path / "first.png", **given)) == 0
    assert of(judged, *files.values()) == [1, 1, 1]


@pytest.fixture
def project(model_files, tmp_path):
    """What a training needs, as the words of its command line."""
    pytest.importorskip("pydantic")
    with VideoWriter(tmp_path / "a.mp4", 32, 32, 8) as video:
        video.write(np.zeros((9, 32, 32, 3), np.uint8))
    row = {"video": "a.mp4", "global": "rain", "shots": [{"start": 0, "caption": "coffee"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (tmp_path / "config.toml").write_text(f"""
workers = 0
[data]
rows = "{tmp_path}/rows.jsonl"
cache = "{tmp_path}/cache"
vae = "{model_files("vae")}"
text_encoder = "{model_files("umt5")}"
width = 32
height = 32
fps = 8
dtype = "fp32"
[model]
file = "{model_files("plain")}"
routers = "{model_files("routers")}"
[optimizer]
precision = "no"
[save]
folder = "{tmp_path}/training"
[[stages]]
steps = 1
seconds = 1
""")
    return str(tmp_path / "config.toml")


def test_a_check_of_a_training_opens_each_model_once(project, judged, parsed):
    judged.clear()
    assert train([project, "--check"]) == 0
    files = ("plain", "routers", "vae", "umt5")
    assert of(judged, *files) == [1, 1, 1, 1]
    assert of(parsed, *files) == [1, 1, 1, 2]  # once more for the tokenizer


def test_a_training_opens_its_model_once(project, parsed):
    assert train([project]) == 0
    assert of(parsed, "plain", "routers") == [2, 2]


def test_routers_of_a_training_that_differ(project, tmp_path, capsys):
    bias = {f"blocks.{i}.self_attn.router.bias": torch.zeros(i + 2) for i in range(2)}
    save_file(bias, tmp_path / "odd.safetensors")
    assert train([project, "--check", "--model.routers", str(tmp_path / "odd.safetensors")]) == 2
    said = capsys.readouterr().err
    assert (
        "model.routers is odd.safetensors, whose routers differ in their number of groups" in said
    )
    assert "(2, 3); use a whole file of routers." in said


def test_nothing_is_read_of_models_that_do_not_belong_together(model_files, parsed):
    with pytest.raises(CheckpointError, match="48 latent channels, the model 16"):
        load_pipeline(model_files("plain"), vae=model_files("vae22"))
    assert of(parsed, "plain", "vae22") == [1, 1]


def test_a_file_that_changes_after_it_was_opened(model_files, tmp_path):
    tensors = load_file(model_files("vae"))
    path = tmp_path / "vae.safetensors"
    name = next(iter(tensors))
    for other in (
        {key: tensor for key, tensor in tensors.items() if key != name},
        {**tensors, name: torch.zeros(7)},
    ):
        save_file(tensors, path)
        part = open_vae(path)
        save_file(other, path)
        with pytest.raises(CheckpointError, match="changed after it was opened; start again"):
            part.load()
    path.unlink()
    with pytest.raises(CheckpointError, match="is not there"):
        part.load()


def test_parts_travel_to_other_processes(model_files):
    for opener, name in ((open_wan, "t2v"), (open_vae, "vae"), (open_text_encoder, "umt5")):
        part = opener(model_files(name))
        again = pickle.loads(pickle.dumps(part))
        assert (again.source, again.config) == (part.source, part.config)
        assert again.bytes_as(torch.float32) == part.bytes_as(torch.float32) > 0
        assert again.load() is not None


def part(**config):
    return Part(None, config, None)


@given(st.fixed_dictionaries({
    "out_channels": st.sampled_from((16, 48)), "z_dim": st.sampled_from((16, 48)),
    "text_dim": st.sampled_from((64, 4096)), "d_model": st.sampled_from((64, 4096)),
    "image_dim": st.sampled_from((80, 1280)), "hidden_size": st.sampled_from((80, 1280)),
    "low": st.sampled_from((64, 4096)),
}))  # fmt: skip
def test_what_belongs_together(d):
    high = part(in_channels=16, **{k: d[k] for k in ("out_channels", "text_dim", "image_dim")})
    low = part(**{**high.config, "text_dim": d["low"]})
    others = {"vae": part(z_dim=d["z_dim"]), "text_encoder": part(d_model=d["d_model"]),
              "image_encoder": part(hidden_size=d["hidden_size"]), "low": low}  # fmt: skip
    fits = {"vae": d["z_dim"] == d["out_channels"], "text_encoder": d["d_model"] == d["text_dim"],
            "image_encoder": d["hidden_size"] == d["image_dim"],
            "low": d["low"] == d["text_dim"]}  # fmt: skip
    for name, other in others.items():
        if fits[name]:
            check_together(high, **{name: other})
        else:
            with pytest.raises(CheckpointError, match=r"^the [^\n]*; (use|give) "):
                check_together(high, **{name: other})
    check_together(high, **{name: other for name, other in others.items() if fits[name]})


def test_the_folder_of_a_pipeline_that_begins_with_an_image(tiny, model_files, tmp_path):
    WanImageToVideoPipeline(
        transformer=tiny.wan("i2v"),
        vae=tiny.vae(),
        scheduler=make_scheduler("unipc", 5.0),
        tokenizer=None,
        text_encoder=None,
        image_encoder=tiny.image_encoder(),
        image_processor=CLIPImageProcessor(),
    ).save_pretrained(tmp_path)
    pipe = load_pipeline(tmp_path, with_text=False)
    assert type(pipe) is WanImageToVideoPipeline and pipe.image_processor is not None
    loaded, expected = pipe.image_encoder.state_dict(), tiny.image_encoder().state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    size = open_image_encoder(model_files("clip")).bytes_as(torch.float32)
    assert open_image_encoder(tmp_path).bytes_as(torch.float32) == size
    with pytest.raises(CheckpointError, match=r"has no image_encoder; use clip_vision_h"):
        open_image_encoder(tmp_path / "vae")


@given(st.sampled_from(("", "model.diffusion_model.")), st.integers(0, 9999),
       st.sampled_from(("self_attn", "attn1")), st.sampled_from(("weight", "bias")))  # fmt: skip
def test_a_router_is_one_under_all_its_names(prefix, block, attention, name):
    router = f"{prefix}blocks.{block}.{attention}.router"
    assert router_key(f"{router}.{name}") == (block, name)
    assert in_router(f"{router}.{name}") and in_router(f"{router}.original_module.{name}")
    assert router_key(f"{router}.original_module.{name}") is None
    assert looks_like([f"{router}.{name}"]) == "MoGA routers without a model"
