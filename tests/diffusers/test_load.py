"""Wan's transformer from single files and folders, and back into files."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from moga.checkpoint import CheckpointError, split_routers, write
from moga.config import MoGAConfig
from moga.hosts.diffusers import (
    enable_moga,
    load_routers,
    load_wan,
    moga_config,
    moga_routers,
    wan_state_dict,
)
from moga.hosts.diffusers.names import infer_config, to_diffusers, to_wan
from moga.hosts.diffusers.recognise import looks_like

KINDS = ("t2v", "i2v", "i2v_2.2", "ti2v")


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def merged(tiny):
    def make(kind="t2v", **config):
        dit = tiny.wan(kind, **config)
        enable_moga(dit, MoGAConfig(windows=(1, 2)), "random")
        return dit

    return make


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_file_gives_the_model_back(merged, tmp_path, kind, prefix):
    dit = merged(kind)
    path = tmp_path / "merged.safetensors"
    tensors = {prefix + key: tensor for key, tensor in wan_state_dict(dit).items()}
    write(path, tensors, moga_config(dit))
    loaded = load_wan(path)
    assert same(loaded, dit)
    assert moga_config(loaded) == MoGAConfig(windows=(1, 2))
    for name, value in dit.config.items():
        assert name.startswith("_") or loaded.config[name] == value
    assert not loaded.training


def test_a_model_of_static_branches_alone_stays_one(tiny, tmp_path):
    dit = tiny.wan()
    config = MoGAConfig(windows=(1, 2), branches=("windows", "frames"))
    enable_moga(dit, config)
    write(tmp_path / "static.safetensors", wan_state_dict(dit), config)
    loaded = load_wan(tmp_path / "static.safetensors")
    assert moga_config(loaded) == config
    with torch.no_grad():
        sparse, same_again = (model(**tiny.call())[0] for model in (dit, loaded))
        enable_moga(dit, None)
        dense = dit(**tiny.call())[0]
    assert torch.equal(sparse, same_again) and not torch.allclose(sparse, dense, atol=1e-3)


def test_a_file_that_lost_its_routers_is_not_run_dense(merged, tmp_path):
    dit = merged()
    kept = {k: t for k, t in wan_state_dict(dit).items() if ".router." not in k}
    write(tmp_path / "lost.safetensors", kept, moga_config(dit))
    with pytest.raises(CheckpointError, match=r"lost\.safetensors holds no MoGA routers"):
        load_wan(tmp_path / "lost.safetensors")


def test_first_and_last_frame_models(merged, tmp_path):
    dit = merged("i2v", pos_embed_seq_len=10)
    write(tmp_path / "flf.safetensors", wan_state_dict(dit), MoGAConfig())
    assert same(load_wan(tmp_path / "flf.safetensors"), dit)


def test_files_in_diffusers_names(merged, tmp_path):
    dit = merged()
    save_file(dit.state_dict(), tmp_path / "d.safetensors", {"moga": moga_config(dit).to_json()})
    assert same(load_wan(tmp_path / "d.safetensors"), dit)


def test_a_plain_file_and_routers_beside_it(model_files):
    plain = load_wan(model_files("plain"))
    assert moga_config(plain) is None
    both = load_wan(model_files("plain"), routers=model_files("routers"))
    assert same(both, load_wan(model_files("t2v")))


def test_folders(tiny, model_files, tmp_path):
    tiny.wan().save_pretrained(tmp_path / "transformer")
    for folder in (tmp_path, tmp_path / "transformer"):
        assert same(load_wan(folder), load_wan(model_files("plain")))
    loaded = load_wan(tmp_path, routers=model_files("routers"), dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16 and len(moga_routers(loaded)) == 2


def test_a_folder_with_routers_lacks_their_settings(merged, model_files, tmp_path):
    merged().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no place for their settings"):
        load_wan(tmp_path)
    assert len(moga_routers(load_wan(tmp_path, routers=model_files("routers")))) == 2


def test_types(model_files, tmp_path):
    stored = load_file(model_files("t2v"))
    half = {key: tensor.to(torch.bfloat16) for key, tensor in stored.items()}
    write(tmp_path / "half.safetensors", half, MoGAConfig())
    dit = load_wan(tmp_path / "half.safetensors")
    types = {name: p.dtype for name, p in dit.named_parameters()}
    assert dit.dtype == types["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert types["blocks.0.norm2.weight"] == types["scale_shift_table"] == torch.float32
    assert types["blocks.0.attn1.router.weight"] == torch.float32
    assert dit.rope.freqs_cos.dtype == torch.float64 or dit.rope.freqs_cos.dtype == torch.float32
    assert load_wan(tmp_path / "half.safetensors", dtype=torch.float32).dtype == torch.float32


def test_eight_bits(model_files, tmp_path):
    stored = load_file(model_files("t2v"))
    eight = {k: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for k, t in stored.items()}
    path = tmp_path / "eight.safetensors"
    write(path, eight, MoGAConfig())
    with pytest.raises(CheckpointError, match=r"F8_E4M3; ask for dtype=torch\.bfloat16"):
        load_wan(path)
    weight = load_wan(path, dtype=torch.bfloat16).blocks[0].attn1.to_q.weight
    assert torch.equal(weight, eight["blocks.0.self_attn.q.weight"].to(torch.bfloat16))
    for key in ("scaled_fp8", "blocks.0.self_attn.q.scale_weight"):
        write(path, {**eight, key: torch.ones(1)}, MoGAConfig())
        with pytest.raises(CheckpointError, match=r"is fp8 with scales.*use the fp16 or bf16"):
            load_wan(path, dtype=torch.bfloat16)
    write(path, {**eight, "blocks.0.self_attn.q.comfy_quant": torch.ones(1)}, MoGAConfig())
    with pytest.raises(CheckpointError, match="quantised"):
        load_wan(path, dtype=torch.bfloat16)


def test_lora_in_a_router_file(tiny, model_files, tmp_path):
    tensors, pairs = load_file(model_files("routers")), {}
    for index in range(2):
        pairs[f"blocks.{index}.self_attn.q"] = torch.randn(256, 4), torch.randn(4, 256)
    for name, (up, down) in pairs.items():
        tensors[f"diffusion_model.{name}.lora_A.weight"] = down
        tensors[f"diffusion_model.{name}.lora_B.weight"] = up
    write(tmp_path / "adapter.safetensors", tensors, MoGAConfig())
    dit = load_wan(model_files("plain"), routers=tmp_path / "adapter.safetensors")
    expected = load_wan(model_files("t2v"))
    for index, (up, down) in enumerate(pairs.values()):
        expected.blocks[index].attn1.to_q.weight.data += up @ down
    call = tiny.call()
    with torch.no_grad():
        assert (dit(**call).sample - expected(**call).sample).abs().max() < 1e-4
    merged = wan_state_dict(dit)["blocks.1.self_attn.q.weight"]
    assert torch.equal(merged, dit.blocks[1].attn1.to_q.weight)
    dit.add_adapter(LoraConfig(r=4, target_modules=["to_q"]))
    with pytest.raises(CheckpointError, match="unload the LoRA"):
        wan_state_dict(dit)


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: {k: v for k, v in t.items() if "blocks.1.ffn.2" not in k}, "lacks 2 weights"),
    (lambda t: {**t, "blocks.1.ffn.2.bias": torch.zeros(3)}, "with shape (3,) where (256,)"),
    (lambda t: {**t, "vace_blocks.0.before_proj.weight": torch.zeros(3)}, "like Wan VACE"),
    (lambda t: {**t, "ref_conv.weight": torch.zeros(3)}, "like Wan Fun Control"),
    (lambda t: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(3)}, "like Flux"),
    (lambda t: {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(3)}, "like a T5"),
    (lambda t: {"decoder.middle.0.residual.0.gamma": torch.zeros(3)}, "like the VAE of Wan 2.1"),
    (lambda t: {k: v for k, v in t.items() if "router" in k}, "like MoGA routers without a model"),
    (lambda t: {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(3)}, "a LoRA"),
    (lambda t: {}, "like an empty file"),
    (lambda t: {"weights": torch.zeros(3)}, "nothing known (its first tensor is 'weights')"),
])  # fmt: skip
def test_other_files_are_named(model_files, tmp_path, change, words):
    path = tmp_path / "other.safetensors"
    write(path, change(load_file(model_files("t2v"))), MoGAConfig())
    with pytest.raises(CheckpointError) as caught:
        load_wan(path)
    assert words in str(caught.value) and str(caught.value).startswith("other.safetensors")


def test_what_is_no_file(model_files, tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(model_files("t2v").read_bytes()[:-5])
    (tmp_path / "model.pt").write_bytes(b"")
    for name, words in (
        ("torn.safetensors", "damaged or incomplete"),
        ("model.pt", "not a .safetensors file"),
        ("none.safetensors", "is not there"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load_wan(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_wan(tmp_path)


def test_routers_that_do_not_fit(model_files, merged, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no MoGA routers.*like a Wan transformer"):
        load_wan(model_files("plain"), routers=model_files("plain"))
    with pytest.raises(CheckpointError, match="for 2 blocks, the model has 3"):
        write(tmp_path / "three.safetensors", wan_state_dict(merged(num_layers=3)), MoGAConfig())
        load_wan(tmp_path / "three.safetensors", routers=model_files("routers"))
    save_file(load_file(model_files("routers")), tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="no `moga` settings"):
        load_wan(model_files("plain"), routers=tmp_path / "bare.safetensors")


def test_load_routers_reads_both_kinds_of_file(model_files):
    alone, config = load_routers(model_files("routers"))
    within, same_config = load_routers(model_files("t2v"))
    assert config == same_config == MoGAConfig()
    assert all(torch.equal(alone[i][n], within[i][n]) for i in alone for n in alone[i])


def test_the_state_dict_is_what_split_routers_takes_apart(merged, model_files):
    dit = merged()
    base, routers, _ = split_routers(wan_state_dict(dit))
    assert base.keys() == load_file(model_files("plain")).keys()
    assert routers.keys() == moga_routers(dit).keys()


@given(st.sampled_from(KINDS), st.integers(1, 3), st.integers(1, 3), st.integers(1, 64))
def test_settings_come_out_of_the_shapes(kind, heads, layers, size):
    """Shapes of a model that is never allocated."""
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel

    settings = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": heads,
        "attention_head_dim": 128,
        "in_channels": {"t2v": 16, "ti2v": 48}.get(kind, 36),
        "out_channels": 48 if kind == "ti2v" else 16,
        "text_dim": 2 * size,
        "freq_dim": 4 * size,
        "ffn_dim": 3 * size,
        "num_layers": layers,
        "cross_attn_norm": True,
        "image_dim": 5 * size if kind == "i2v" else None,
        "added_kv_proj_dim": 128 * heads if kind == "i2v" else None,
        "pos_embed_seq_len": None,
    }
    with init_empty_weights():
        model = WanTransformer3DModel(**settings)
    names = {name: to_wan(name) for name in model.state_dict()}
    assert all(to_diffusers(wan) == name for name, wan in names.items())
    shapes = {names[name]: tuple(t.shape) for name, t in model.state_dict().items()}
    assert infer_config(shapes) == settings


@given(st.dictionaries(st.text(), st.lists(st.integers(0, 9), max_size=5).map(tuple), max_size=9))
def test_no_names_and_shapes_are_too_strange(shapes):
    assert infer_config(shapes) is None
    assert looks_like(shapes)


@given(st.text(alphabet="ablocks.0123_qkvonrmhed", max_size=40))
def test_renaming_is_one_to_one(key):
    for there, back in ((to_diffusers, to_wan), (to_wan, to_diffusers)):
        renamed = there(key)
        assert renamed is None or back(renamed) == key
