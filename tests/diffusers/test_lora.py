"""LoRAs of all kinds of names, added to the weights of a transformer; or refused in a sentence."""

import json

import pytest
import torch
from diffusers import WanPipeline
from diffusers.training_utils import _collate_lora_metadata
from harness.damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from moga.checkpoint import CheckpointError, write
from moga.config import MoGAConfig
from moga.hosts.diffusers import (
    LoraFile,
    load_wan,
    moga_config,
    moga_routers,
    open_wan,
    wan_state_dict,
)
from moga.hosts.diffusers.names import to_diffusers

MODULES = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q",
           "cross_attn.k", "cross_attn.v", "cross_attn.o", "ffn.0", "ffn.2")  # fmt: skip
PLACES = (
    *(f"blocks.{index}.{module}" for index in (0, 1) for module in MODULES),
    *("patch_embedding", "text_embedding.0", "text_embedding.2", "time_embedding.0"),
    *("time_embedding.2", "time_projection.1", "head.head"),
)
KEY = "diffusion_model.blocks.0.self_attn.q"


def underscored(prefix):
    return lambda place: prefix + place.replace(".", "_")


def of_diffusers(place):
    return to_diffusers(f"{place}.weight").removesuffix(".weight")


# How trainers write the name of a module, and of the two halves of its change.
STYLES = {
    "comfyui": (lambda place: f"diffusion_model.{place}", "lora_A.weight", "lora_B.weight"),
    "lightx2v": (lambda place: f"diffusion_model.{place}", "lora_down.weight", "lora_up.weight"),
    "peft": (lambda place: f"diffusion_model.{place}", "lora_A.default.weight",
             "lora_B.default.weight"),
    "bare": (lambda place: place, "lora_A.weight", "lora_B.weight"),
    "diffsynth": (lambda place: f"pipe.dit.{place}", "lora_A.default.weight",
                  "lora_B.default.weight"),
    "diffusers": (lambda place: f"transformer.{of_diffusers(place)}", "lora_A.weight",
                  "lora_B.weight"),
    "diffusers' own": (of_diffusers, "lora.down.weight", "lora.up.weight"),
    "kohya": (underscored("lora_unet_"), "lora_down.weight", "lora_up.weight"),
    "kohya of diffusers": (lambda place: underscored("lora_unet_")(of_diffusers(place)),
                           "lora_down.weight", "lora_up.weight"),
    "wan fun": (underscored("lora_unet__"), "lora_down.weight", "lora_up.weight"),
    "simpletuner": (underscored("lycoris_"), "lora_down.weight", "lora_up.weight"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loras")


@pytest.fixture
def base(model_files):
    """The weights of the plain model, in Wan's names."""
    return load_file(model_files("plain"))


def pair(weight, rank, make):
    down = torch.randn(rank, *weight.shape[1:], generator=make) / 8
    return down, torch.randn(weight.shape[0], rank, *(1,) * (weight.ndim - 2), generator=make) / 8


def refusal(path, *loras, **options):
    with pytest.raises(CheckpointError) as caught:
        load_wan(path, loras=[LoraFile(*lora) for lora in loras], **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(STYLES)),
    st.lists(st.sampled_from(PLACES), min_size=1, unique=True),
    st.integers(1, 9),
    st.none() | st.sampled_from([0.5, 4.0, 32.0]),
    st.sampled_from([1.0, 0.7, -2.5, 0.0]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_every_way_to_name_them(
    model_files, base, folder, style, places, rank, alpha, weight, kind
):
    """The weights are those that arithmetic gives, bit for bit, and no other weight is touched."""
    name, first, second = STYLES[style]
    make, lora, expected = torch.Generator().manual_seed(rank), {}, dict(base)
    for place in places:
        key = f"{place}.weight"
        down, up = (half.to(kind) for half in pair(base[key], rank, make))
        lora |= {f"{name(place)}.{first}": down, f"{name(place)}.{second}": up}
        if alpha is not None:
            lora[f"{name(place)}.alpha"] = torch.tensor(alpha)
        scale = 1.0 if alpha is None else alpha / rank
        change = (up.float().flatten(1) @ down.float().flatten(1)).view(base[key].shape)
        expected[key] = base[key] + (weight * scale) * change
    save_file(lora, folder / "a.safetensors")
    dit = load_wan(model_files("plain"), loras=[LoraFile(folder / "a.safetensors", weight)])
    found = wan_state_dict(dit)
    assert found.keys() == base.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def test_changes_of_whole_tensors(model_files, base, tmp_path):
    """As step-distilled LoRAs have them: norms, biases, a modulation that ComfyUI passes over."""
    changed = {
        f"{KEY}.diff_b": "blocks.0.self_attn.q.bias",
        "diffusion_model.blocks.1.self_attn.norm_k.diff": "blocks.1.self_attn.norm_k.weight",
        "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm3.weight",
        "diffusion_model.blocks.0.norm3.diff_b": "blocks.0.norm3.bias",
        "diffusion_model.blocks.1.diff_m": "blocks.1.modulation",
        "diffusion_model.blocks.0.modulation.diff": "blocks.0.modulation",
        "diffusion_model.head.diff_m": "head.modulation",
        "diffusion_model.head.head.diff": "head.head.weight",
        "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
        "diffusion_model.patch_embedding.diff_b": "patch_embedding.bias",
        "diffusion_model.time_projection.1.diff_b": "time_projection.1.bias",
        "lora_unet_blocks_1_norm3.w_norm": "blocks.1.norm3.weight",
        "lora_unet_blocks_1_norm3.b_norm": "blocks.1.norm3.bias",
        "transformer.blocks.1.attn2.norm_q.diff": "blocks.1.cross_attn.norm_q.weight",
    }
    lora = {key: torch.randn(base[name].shape) for key, name in changed.items()}
    flat = "diffusion_model.head.diff_m"
    lora[flat] = lora[flat].squeeze(0)
    save_file(lora, tmp_path / "a.safetensors")
    dit = load_wan(model_files("plain"), loras=[LoraFile(tmp_path / "a.safetensors", 0.5)])
    found = wan_state_dict(dit)
    expected = base | {name: base[name] + 0.5 * lora[key] for key, name in changed.items()}
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def test_a_weight_is_rounded_once(model_files, base, tmp_path):
    """Two LoRAs are added in float32 to what the file has, whatever type the model is loaded in."""
    make, key = torch.Generator().manual_seed(0), "blocks.0.self_attn.q.weight"
    total, loras = base[key].to(torch.float8_e4m3fn).float(), []
    for name, weight in (("a", 0.3), ("b", 1.0)):
        down, up = pair(base[key], 4, make)
        path = tmp_path / f"{name}.safetensors"
        save_file({f"{KEY}.lora_A.weight": down, f"{KEY}.lora_B.weight": up}, path)
        total = total + weight * (up @ down)
        loras.append(LoraFile(path, weight))
    eight = {k: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for k, t in base.items()}
    save_file(eight, tmp_path / "eight.safetensors")
    dit = load_wan(tmp_path / "eight.safetensors", loras=loras, dtype=torch.bfloat16)
    assert torch.equal(dit.blocks[0].attn1.to_q.weight, total.to(torch.bfloat16))
    assert dit.blocks[0].scale_shift_table.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:Adapter .default.")  # peft, of its own biases
@pytest.mark.parametrize("config", [
    {"lora_alpha": 8},
    {"lora_alpha": 8, "use_rslora": True},
    {"lora_alpha": 2, "alpha_pattern": {"blocks.1.attn1.to_q": 12}, "rank_pattern": {"to_v": 2}},
    {"lora_alpha": 8, "lora_bias": True},
], ids=str)  # fmt: skip
def test_what_diffusers_saves(tiny, model_files, tmp_path, config):
    """Its LoRAs have their alpha in the header alone, or none."""
    dit = load_wan(model_files("plain"))
    dit.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v", "net.2"], **config))
    make = torch.Generator().manual_seed(0)
    for name, parameter in dit.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=make) / 8
    WanPipeline.save_lora_weights(
        tmp_path, get_peft_model_state_dict(dit), **_collate_lora_metadata({"transformer": dit})
    )
    (path,) = tmp_path.glob("*.safetensors")
    found, call = load_wan(model_files("plain"), loras=[LoraFile(path)]), tiny.call()
    with torch.no_grad():
        expected = dit(**call).sample
        assert (found(**call).sample - expected).abs().max() < 1e-5
        assert (load_wan(model_files("plain"))(**call).sample - expected).abs().max() > 1e-3


def test_routers_come_along(model_files, base, tmp_path):
    routers, make = load_file(model_files("routers")), torch.Generator().manual_seed(0)
    down, up = pair(base["blocks.0.self_attn.q.weight"], 4, make)
    lora = {f"{KEY}.lora_A.weight": down, f"{KEY}.lora_B.weight": up}
    write(tmp_path / "adapter.safetensors", {**routers, **lora}, MoGAConfig(windows=(1, 2)))
    save_file(lora, tmp_path / "style.safetensors")
    adapter, style = (LoraFile(tmp_path / f"{x}.safetensors") for x in ("adapter", "style"))
    for model in ("plain", "low"):
        dit = load_wan(model_files(model), loras=[style, adapter])
        assert moga_config(dit) == MoGAConfig(windows=(1, 2))
        weight = moga_routers(dit)[1]["weight"]
        assert torch.equal(weight, routers["blocks.1.self_attn.router.weight"])
    assert moga_config(load_wan(model_files("low"), loras=[adapter._replace(weight=0)])) == (
        MoGAConfig()
    )
    given = load_wan(model_files("plain"), routers=model_files("routers"), loras=[adapter])
    assert moga_config(given) == MoGAConfig()
    write(tmp_path / "again.safetensors", {**routers, **lora}, MoGAConfig())
    words = refusal(model_files("plain"), adapter, (tmp_path / "again.safetensors",))
    assert words.startswith("both adapter.safetensors and again.safetensors hold MoGA routers")


def test_the_image_branch_of_wan_21_on_wan_22(tiny, model_files, tmp_path):
    """LoRAs of the older image models are used with the newer ones, which have no such branch."""
    image = {
        "diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": torch.ones(2, 256),
        "diffusion_model.blocks.0.cross_attn.k_img.lora_up.weight": torch.ones(256, 2),
        "diffusion_model.blocks.0.cross_attn.norm_k_img.diff": torch.ones(256),
        "diffusion_model.img_emb.proj.1.diff_b": torch.ones(80),
    }
    save_file({**image, f"{KEY}.diff_b": torch.ones(256)}, tmp_path / "a.safetensors")
    for kind, left_out in (("i2v", 0), ("i2v_2.2", 4)):
        part = open_wan(model_files(kind), loras=[LoraFile(tmp_path / "a.safetensors")])
        assert part.loras[0].left_out == left_out
        without = load_wan(model_files(kind)).blocks[0].attn1.to_q.bias
        assert torch.equal(part.load().blocks[0].attn1.to_q.bias, without + 1)
        assert ("without 4 tensors for an image branch" in part.loras[0].text()) == bool(left_out)
    words = refusal(model_files("t2v"), (tmp_path / "a.safetensors",))
    assert "and no image branch (k_img, v_img, img_emb)" in words
    save_file(image, tmp_path / "a.safetensors")
    words = refusal(model_files("i2v_2.2"), (tmp_path / "a.safetensors",))
    assert "has 4 tensors that fit nothing in i2v_2.2.safetensors" in words


HALVES = {f"{KEY}.lora_A.weight": (4, 256), f"{KEY}.lora_B.weight": (256, 4)}


@pytest.mark.parametrize(("shapes", "words"), [
    ({f"{KEY}.lora_A.weight": (4, 5120), f"{KEY}.lora_B.weight": (5120, 4)},
     "it changes blocks.0.self_attn.q.weight as if that had the size 5120x5120, and the model's "
     "has 256x256; use a LoRA that was made for this model."),
    ({"diffusion_model.patch_embedding.diff": (256, 36, 1, 2, 2)},
     "as if that had the size 256x36x1x2x2, and the model's has 256x16x1x2x2;"),
    ({f"{KEY}.diff_b": (5120,)}, "had the size 5120, and the model's has 256;"),
    ({f"{KEY}.diff_b": ()}, "had the size one number, and the model's has 256;"),
    ({**HALVES, "diffusion_model.blocks.2.self_attn.q.lora_A.weight": (4, 256)},
     "a tensor that fits nothing in plain.safetensors, such as "
     "'diffusion_model.blocks.2.self_attn.q.lora_A.weight'; the model has blocks 0 to 1, each"),
    ({**HALVES, **{f"double_blocks.{i}.q.lora_A.weight": (4, 4) for i in range(5)}},
     "has 5 tensors that fit nothing in plain.safetensors, such as 'double_blocks.0.q.lora_A.weight"
     "', 'double_blocks.1.q.lora_A.weight', 'double_blocks.2.q.lora_A.weight'; the model has"),
    ({**HALVES, "lora_te_text_model.lora_down.weight": (4, 4)}, "a tensor that fits nothing"),
    ({**HALVES, "blocks.0.self_attn.router.lora_A.weight": (4, 4)}, "a tensor that fits nothing"),
    ({**HALVES, "blocks.0.self_attn.q.bias": (256,)}, "a tensor that fits nothing"),
    ({f"{KEY}.lora_A.weight": (4, 256)}, "without the rest of that change of blocks.0.self_attn.q"),
    ({f"{KEY}.alpha": ()}, f"has '{KEY}.alpha' without the rest of that change"),
    ({f"{KEY}.lora_B.bias": (256,)}, "without the rest of that change"),
    ({**HALVES, f"{KEY}.alpha": (3,)}, ".alpha' of size 3, where one number belongs"),
    ({**HALVES, f"{KEY}.lora_B.weight": (256, 5)}, "by 4x256 and 256x5, which do not belong"),
    ({**HALVES, f"{KEY}.lora_A.weight": (4,)}, "by 4 and 256x4, which do not belong together"),
    ({f"{KEY}.lora_A.weight": (0, 256), f"{KEY}.lora_B.weight": (256, 0)}, "do not belong"),
    ({**HALVES, f"{KEY}.lora_down.weight": (4, 256)}, "changes blocks.0.self_attn.q.weight twice"),
    ({**HALVES, "lora_unet_blocks_0_self_attn_q.lora_up.weight": (256, 4)}, "twice, by"),
    ({**HALVES, f"{KEY}.dora_scale": (256,)}, f"is a DoRA (it has '{KEY}.dora_scale')"),
    ({f"{KEY}.lokr_w1": (4, 4)}, "is a LoKr"),
    ({f"{KEY}.hada_w1_a": (4, 4)}, "is a LoHa"),
    ({f"{KEY}.set_weight": (4, 4)}, "is a LoRA that replaces whole weights"),
    ({"a": (3,)}, "holds no LoRA, it looks like nothing known"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(model_files, tmp_path, shapes, words):
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, tmp_path / "a.safetensors")
    found = refusal(model_files("plain"), (tmp_path / "a.safetensors",))
    assert words in found and found.startswith("a.safetensors ")


def test_what_is_no_lora(model_files, tmp_path):
    assert "holds no LoRA, it looks like a Wan transformer" in refusal(
        model_files("plain"), (model_files("plain"),)
    )
    assert "holds no LoRA, it looks like MoGA routers" in refusal(
        model_files("plain"), (model_files("routers"),)
    )


@pytest.mark.parametrize("name", ["lora_A.weight", "lora_B.weight", "alpha", "diff_b"])
def test_values_that_are_no_numbers(model_files, tmp_path, name):
    lora = {key: torch.ones(shape) for key, shape in HALVES.items()}
    lora |= {f"{KEY}.alpha": torch.ones(()), f"{KEY}.diff_b": torch.ones(256)}
    lora[f"{KEY}.{name}"] = lora[f"{KEY}.{name}"] * torch.inf
    save_file(lora, tmp_path / "a.safetensors")
    words = refusal(model_files("plain"), (tmp_path / "a.safetensors",))
    assert words.startswith(f"a.safetensors has values in '{KEY}.{name}' that aren't numbers")


def test_types_that_are_no_weights(model_files, tmp_path):
    lora = {key: torch.ones(shape) for key, shape in HALVES.items()}
    save_file(lora | {f"{KEY}.lora_A.weight": torch.ones(4, 256, dtype=torch.int8)},
              tmp_path / "a.safetensors")  # fmt: skip
    words = refusal(model_files("plain"), (tmp_path / "a.safetensors",))
    assert f"stores '{KEY}.lora_A.weight' as I8, which is no type of weights" in words


@pytest.mark.parametrize("noted", [
    "{", "[]", '{"transformer.lora_alpha": "x"}', '{"lora_alpha": NaN}', '{"lora_alpha": [1]}',
    '{"alpha_pattern": 3}', '{"alpha_pattern": {"(": 1}}', '{"alpha_pattern": {"a": "b"}}',
])  # fmt: skip
def test_headers_that_cannot_be_read(model_files, tmp_path, noted):
    lora = {key: torch.ones(shape) for key, shape in HALVES.items()}
    save_file(lora, tmp_path / "a.safetensors", {"lora_adapter_metadata": noted})
    words = refusal(model_files("plain"), (tmp_path / "a.safetensors",))
    assert words.startswith("a.safetensors has lora_adapter_metadata in its header that cannot")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_damaged_loras(tiny, tmp_path, seed):
    small = {"num_attention_heads": 1, "text_dim": 8, "freq_dim": 8, "ffn_dim": 8}
    save_file(wan_state_dict(tiny.wan(**small)), tmp_path / "plain.safetensors")
    shapes = {"lora_down.weight": (2, 128), "lora_up.weight": (128, 2), "alpha": (), "diff_b": 128}
    lora = {f"{KEY}.{name}": torch.ones(shape) for name, shape in shapes.items()}
    path = tmp_path / "a.safetensors"
    save_file(lora, path, {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4})})
    load_wan(tmp_path / "plain.safetensors", loras=[LoraFile(path)])
    for content in damaged(path.read_bytes(), seed):
        path.write_bytes(content)
        try:
            load_wan(tmp_path / "plain.safetensors", loras=[LoraFile(path)])
        except CheckpointError as error:
            said = str(error)
            assert "\n" not in said and len(said) < 700 and path.name in said, said
