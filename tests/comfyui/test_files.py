"""Files: merged checkpoints, router files, and every way in which a file can be wrong."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from harness import tiny
from harness.damage import damaged
from harness.scene import Scene, differs, router_weights


@pytest.fixture
def scene(comfy):
    yield Scene(comfy, tiny.wan())
    comfy.forget()


def merged(scene, routers=None):
    checkpoint = scene.comfy.module("moga.checkpoint")
    return checkpoint.merge_routers(scene.weights, routers or router_weights(5))


def metadata(scene, **config):
    return {"moga": scene.Config(**config).to_json()}


def load_merged(scene, name, weights, header):
    scene.comfy.add_model("diffusion_models", name, weights, header)
    return scene.comfy.call("MoGALoadDiffusionModel", unet_name=name, weight_dtype="default")[0]


def load_router_file(scene, name, weights, header=None):
    scene.comfy.add_model("model_patches", name, weights, header)
    return scene.comfy.call("MoGALoadRouters", file=name)[0]


def router_file(scene, name="routers.safetensors", **config):
    groups = config.get("groups", 5)
    weights = scene.comfy.module("moga.checkpoint").merge_routers({}, router_weights(groups))
    return load_router_file(scene, name, weights, metadata(scene, **config))


def apply_node(scene, model, **inputs):
    return scene.comfy.call("MoGAApply", model=model, **inputs)[0]


def test_merged_checkpoint_equals_base_and_router_file(scene):
    whole = load_merged(scene, "merged.safetensors", merged(scene), metadata(scene))
    parts = apply_node(scene, scene.load(), routers=router_file(scene))
    expected = scene.sample(parts)
    assert torch.equal(scene.sample(apply_node(scene, whole)), expected)
    prefixed = {f"model.diffusion_model.{k}": v for k, v in merged(scene).items()}
    again = load_merged(scene, "prefixed.safetensors", prefixed, metadata(scene))
    assert torch.equal(scene.sample(apply_node(scene, again)), expected)
    differs(expected, scene.sample(scene.load()))


def test_a_merged_checkpoint_is_dense_until_apply(scene):
    model = load_merged(scene, "merged.safetensors", merged(scene), metadata(scene))
    assert torch.equal(scene.sample(model), scene.sample(scene.load()))


def test_routers_input_overrides_what_the_model_carries(scene):
    model = load_merged(scene, "merged.safetensors", merged(scene), metadata(scene))
    other = router_file(scene, "two.safetensors", groups=2)
    found = scene.sample(apply_node(scene, model, routers=other))
    assert torch.equal(found, scene.sample(apply_node(scene, scene.load(), routers=other)))


def test_routers_of_a_merged_file_serve_another_base(scene):
    whole = scene.comfy.add_model(
        "model_patches", "merged_patch.safetensors", merged(scene), metadata(scene)
    )
    (routers,) = scene.comfy.call("MoGALoadRouters", file=whole)
    fp8 = scene.load(dtype=torch.float8_e4m3fn)
    assert scene.sample(apply_node(scene, fp8, routers=routers)).isfinite().all()


def test_fp8_loading_keeps_routers_in_float32(scene):
    name = scene.comfy.add_model(
        "diffusion_models", "merged.safetensors", merged(scene), metadata(scene)
    )
    (model,) = scene.comfy.call("MoGALoadDiffusionModel", unet_name=name, weight_dtype="fp8_e4m3fn")
    assert model.model.diffusion_model.blocks[0].ffn[0].weight.dtype == torch.float8_e4m3fn
    stack = scene.host.carried_routers(model).patcher.model
    assert {p.dtype for p in stack.parameters()} == {torch.float32}
    assert torch.equal(stack.blocks[1].weight, router_weights(5)[1]["weight"])
    assert scene.sample(apply_node(scene, model)).isfinite().all()


def test_a_plain_wan_loads_too(scene):
    model = load_merged(scene, "plain.safetensors", scene.weights, None)
    assert torch.equal(scene.sample(model), scene.sample(scene.load()))


def test_a_model_of_static_branches_alone_needs_no_routers(scene):
    config = {"windows": (1, 2), "branches": ("windows", "frames")}
    model = load_merged(scene, "static.safetensors", scene.weights, metadata(scene, **config))
    found = scene.sample(apply_node(scene, model))
    expected = scene.apply(scene.load(), scene.routers(scene.Config(**config)))
    assert torch.equal(found, scene.sample(expected))
    differs(found, scene.sample(scene.load()))
    said = scene.comfy.module("moga.hosts.comfyui").summary(apply_node(scene, model))
    assert said.startswith("static branches in 2 of 2 blocks; density ")


def words(action, *args, **kwargs):
    with pytest.raises(Exception) as error:
        action(*args, **kwargs)
    assert isinstance(error.value, ValueError), repr(error.value)
    return str(error.value)


def test_no_routers_under_moga_names_the_ways_out(scene):
    for model in (scene.load(), load_merged(scene, "plain.safetensors", scene.weights, None)):
        said = words(apply_node, scene, model)
        assert "model carries no MoGA routers" in said
        for way_out in ("Load MoGA Diffusion Model", "Load MoGA Routers", "Apply Shot Prompts"):
            assert way_out in said
    assert scene.comfy.call("MoGAApplyShots", model=scene.load(), shots=scene.shots())


def test_a_file_saved_by_cores_model_save_says_where_its_routers_went(scene, comfy, monkeypatch):
    """ModelSave keeps the workflow in the header, and drops the routers."""
    model = load_merged(scene, "merged.safetensors", merged(scene), metadata(scene))
    save = comfy.nodes["ModelSave"]()
    prompt = {"1": {"class_type": "MoGALoadDiffusionModel", "inputs": {}}}
    save.save(apply_node(scene, model), "diffusion_models/saved", prompt=prompt)
    (path,) = (comfy.output_dir / "diffusion_models").glob("saved*.safetensors")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        assert not [key for key in file.keys() if "router" in key]  # noqa: SIM118
        assert "MoGALoadDiffusionModel" in file.metadata()["prompt"]
    import folder_paths

    path.rename(Path(folder_paths.get_folder_paths("diffusion_models")[0]) / "saved.safetensors")
    folder_paths.filename_list_cache.clear()
    (loaded,) = comfy.call("MoGALoadDiffusionModel", unet_name="saved.safetensors")
    assert torch.equal(scene.sample(loaded), scene.sample(scene.load()))
    said = words(apply_node, scene, loaded)
    assert "Model Save drop" in said


def test_routers_for_another_model(scene):
    said = words(apply_node, scene, scene.load(), routers=scene.routers(dim=128))
    assert said == (
        "routers from test are for 2 blocks of width 128, the model has 2 of width 256; "
        "use routers that were made for this model."
    )
    said = words(apply_node, scene, scene.load(), routers=scene.routers(blocks=3))
    assert "are for 3 blocks of width 256, the model has 2" in said
    three = merged(scene, router_weights(5, blocks=3))
    said = words(load_merged, scene, "three.safetensors", three, metadata(scene))
    assert said.startswith("three.safetensors has routers for 3 blocks, the model has 2;")
    narrow = merged(scene, router_weights(5, dim=128))
    said = words(load_merged, scene, "narrow.safetensors", narrow, metadata(scene))
    assert "router weight of block 0 has shape (5, 128), the model needs (5, 256)" in said
    said = words(load_merged, scene, "six.safetensors", merged(scene), metadata(scene, groups=6))
    assert said.startswith("six.safetensors has settings for 6 groups and router weights for 5;")


def test_incomplete_routers(scene):
    weights = merged(scene)
    del weights["blocks.1.self_attn.router.bias"]
    said = words(load_merged, scene, "nobias.safetensors", weights, metadata(scene))
    assert "the router bias of block 1 is missing" in said
    said = words(load_router_file, scene, "empty.safetensors", {"a": torch.zeros(1)})
    assert said == "empty.safetensors holds no MoGA routers; choose a file that does."
    said = words(load_merged, scene, "nometa.safetensors", merged(scene), {"format": "pt"})
    assert "holds routers but no `moga` settings in its header" in said


def test_settings_of_a_newer_version(scene):
    header = {"moga": json.dumps({"version": 3, "groups": 5})}
    for load, folder in (
        (load_merged, "newer.safetensors"),
        (load_router_file, "newer_patch.safetensors"),
    ):
        said = words(load, scene, folder, merged(scene), header)
        assert "version 3 and this ComfyUI-MoGA reads up to 2; update ComfyUI-MoGA." in said


def test_settings_that_no_latent_can_use(scene):
    """Sampling would never end, and Interrupt not be heard."""
    settings = {**json.loads(scene.Config().to_json()), "windows": [10**9, 10**9]}
    for load in (load_merged, load_router_file):
        name = f"{load.__name__}.safetensors"
        said = words(load, scene, name, merged(scene), {"moga": json.dumps(settings)})
        assert said == f"{name}: windows is 1000000000; give a whole number from 1 to 1024."


@pytest.mark.parametrize(
    ("node", "folder", "field"),
    [
        ("MoGALoadDiffusionModel", "diffusion_models", "unet_name"),
        ("MoGALoadRouters", "model_patches", "file"),
    ],
)
def test_files_that_are_no_safetensors(scene, node, folder, field):
    comfy = scene.comfy
    name = comfy.add_model(folder, f"whole_{folder}.safetensors", merged(scene), metadata(scene))
    import folder_paths

    place = Path(folder_paths.get_folder_paths(folder)[0])
    whole = (place / name).read_bytes()
    cases = {
        "cut.safetensors": (whole[:-100], "is damaged or incomplete"),
        "short.safetensors": (whole[:5], "is not a safetensors file, whatever its name says"),
        "void.safetensors": (b"", "is not a safetensors file, whatever its name says"),
        "html.safetensors": (b"<!DOCTYPE html><html></html>", "is not a safetensors file"),
        "pickle.pt": (whole, "is not a .safetensors file; other formats can run code"),
    }
    for name, (content, expected) in cases.items():
        (place / name).write_bytes(content)
        folder_paths.filename_list_cache.clear()
        said = words(comfy.call, node, **{field: name})
        assert said.startswith(name) and expected in said
        (place / name).unlink()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("node", "folder", "field"),
    [
        ("MoGALoadDiffusionModel", "diffusion_models", "unet_name"),
        ("MoGALoadRouters", "model_patches", "file"),
    ],
)
def test_damaged_files_load_or_are_refused_in_one_sentence(scene, node, folder, field):
    comfy, name = scene.comfy, f"damaged_{folder}.safetensors"
    comfy.add_model(folder, name, merged(scene), metadata(scene))
    import folder_paths

    path = Path(folder_paths.get_folder_paths(folder)[0]) / name
    for content in damaged(path.read_bytes(), seed=0):
        path.write_bytes(content)
        try:
            comfy.call(node, **{field: name})
        except Exception as error:
            assert type(error) is ValueError, repr(error)
            assert str(error).startswith(name) or str(path) in str(error), error
            assert "\n" not in str(error) and len(str(error)) < 500
        comfy.forget()
    path.unlink()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_routers_that_are_no_numbers(scene, value):
    found = router_weights(5)
    found[1]["bias"][2] = value
    for load in (load_merged, load_router_file):
        name = f"{load.__name__}.safetensors"
        said = words(load, scene, name, merged(scene, found), metadata(scene))
        assert said.startswith(f"{name}: the router bias of block 1 has values that aren't numbers")


def test_a_router_that_is_missing_is_named(scene):
    found = router_weights(5, blocks=3)
    del found[1]
    for load in (load_merged, load_router_file):
        name = f"{load.__name__}.safetensors"
        said = words(load, scene, name, merged(scene, found), metadata(scene))
        assert said.startswith(f"{name} has no router for block 1, where the blocks are 0 to 2;")


def test_attention_that_a_checkpoint_prefers_lets_it_load(scene):
    """Newer cores note it as JSON in bytes; older ones pass over keys that they don't know."""
    note = torch.tensor(list(b'{"attention": "comfy_kitchen_int8"}'), dtype=torch.uint8)
    notes = {f"blocks.{i}.self_attn.comfy_attention.config": note.clone() for i in range(2)}
    model = load_merged(scene, "noted.safetensors", {**merged(scene), **notes}, metadata(scene))
    plain = load_merged(scene, "plain.safetensors", merged(scene), metadata(scene))
    expected = scene.sample(apply_node(scene, plain))
    assert torch.equal(scene.sample(apply_node(scene, model)), expected)
    routers = load_router_file(
        scene, "noted.safetensors", {**merged(scene), **notes}, metadata(scene)
    )
    found = apply_node(scene, scene.load(), routers=routers)
    assert torch.equal(scene.sample(found), expected)


@pytest.mark.parametrize("suffix", [".sft", ".SAFETENSORS"])
def test_names_that_comfyui_takes_for_safetensors(scene, suffix):
    name = scene.comfy.add_model(
        "model_patches", f"routers{suffix}", merged(scene), metadata(scene)
    )
    (routers,) = scene.comfy.call("MoGALoadRouters", file=name)
    assert (routers.blocks, routers.dim, routers.source) == (2, 256, name)


def test_a_pickle_is_never_opened(scene):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    import folder_paths

    path = Path(folder_paths.get_folder_paths("model_patches")[0]) / "bomb.pt"
    torch.save(Bomb(), path)
    folder_paths.filename_list_cache.clear()
    assert "is not a .safetensors file" in words(
        scene.comfy.call, "MoGALoadRouters", file="bomb.pt"
    )
    path.unlink()


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"start_percent": 0.6, "end_percent": 0.4}, "start_percent is 0.6 and end_percent 0.4"),
        ({"ffn_chunks": 0}, "ffn_chunks is 0; give 1 or more"),
        ({"dense_blocks": "0, two"}, "dense_blocks has 'two'; give block numbers from 0 to 1"),
        ({"dense_blocks": "1-0"}, "dense_blocks has '1-0'"),
        ({"dense_blocks": "2"}, "dense_blocks has '2'"),
        ({"dense_blocks": "-1"}, "dense_blocks has '-1'"),
    ],
)
def test_inputs_of_apply(scene, inputs, expected):
    said = words(apply_node, scene, scene.load(), routers=scene.routers(), **inputs)
    assert expected in said


def test_a_backend_that_is_not_installed(scene):
    import importlib.util

    absent = "sage" if importlib.util.find_spec("sageattention") is None else "flash2"
    with pytest.raises(ValueError) as error:
        apply_node(scene, scene.load(), routers=scene.routers(), backend=absent)
    assert f"backend '{absent}' cannot run: " in str(error.value)
    assert "is not installed; choose 'auto' or 'sdpa'." in str(error.value)


def test_shot_prompts_on_a_model_with_moga_are_refused(scene):
    """They would take MoGA off it."""
    for shots in (None, scene.shots()):
        model = apply_node(scene, scene.load(), routers=scene.routers(), shots=shots)
        said = words(scene.comfy.call, "MoGAApplyShots", model=model, shots=scene.shots())
        assert said.startswith("model comes from Apply MoGA") and "connect shots there" in said
    again = scene.comfy.call("MoGAApplyShots", model=scene.load(), shots=scene.shots())[0]
    assert scene.comfy.call("MoGAApplyShots", model=again, shots=scene.shots())


def test_a_backend_that_does_not_fit_is_refused_before_sampling(scene):
    with pytest.raises(ValueError) as error:
        apply_node(scene, scene.load(), routers=scene.routers(), backend="torch")
    assert "needs an NVIDIA GPU, the tensors are on cpu; choose 'auto' or 'sdpa'" in str(
        error.value
    )


def test_the_backend_is_checked_for_the_dtype_of_model_compute_dtype(scene, monkeypatch):
    backends = scene.comfy.module("moga.kernels").BACKENDS
    half = dataclasses.replace(backends["sdpa"], name="half", dtypes=(torch.bfloat16,))
    monkeypatch.setitem(backends, "half", half)

    def check(dtype):
        (model,) = scene.comfy.call("ModelComputeDtype", model=scene.load(), dtype=dtype)
        apply_node(scene, model, routers=scene.routers(), backend="half")

    check("bf16")
    for dtype in ("fp32", "default"):
        with pytest.raises(ValueError, match="bfloat16, the tensors are float32; choose 'auto'"):
            check(dtype)


def test_an_empty_clip_is_named(scene):
    said = words(scene.comfy.call, "MoGAShotSchedule", clip=None)
    assert said.startswith("clip is empty: the checkpoint it comes from holds no text encoder")
