"""The shipped workflows, as they are, through ComfyUI's own executor, to a video on disk."""

import asyncio
import importlib.util
import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
from find_comfyui import REPOSITORY, find_pack
from harness import tiny
from harness.graph import api_prompt
from harness.workflow import ENCODER, install_models, small, write_gguf

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
GGUF = REPOSITORY / "workflows" / "multishot_gguf.json"  # which needs another pack
BASIC = [
    REPOSITORY / "workflows" / f"{name}.json"
    for name in ("multishot_any_wan", "moga_t2v_multishot")
]
SCRIPT = "global: A fox.\nnegative: A dog.\n[5f] It wakes.\n[4f] It runs.\n[0.5s] It sleeps."
APPLY = ("MoGAApply", "MoGAApplyShots")


@pytest.fixture
def comfy_with_models(comfy):
    install_models(comfy)
    with tiny.small_models():
        yield comfy
    comfy.forget()


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return read(request.param)


@pytest.fixture(params=BASIC, ids=lambda path: path.stem)
def basic(request):
    return read(request.param)


def only(prompt, *kinds):
    (found,) = every(prompt, *kinds)
    return found


def every(prompt, *kinds):
    return [key for key, node in prompt.items() if node["class_type"] in kinds]


def check_a_video(comfy, workflow):
    """Run it small, and look at all that a person gets to see."""
    import av

    prompt = small(api_prompt(workflow, comfy.nodes), script=SCRIPT)
    fps = prompt[only(prompt, "MoGAShotSchedule")]["inputs"]["fps"]
    shots = comfy.module("moga.shots").ShotList.parse(SCRIPT, fps)
    result = comfy.run(prompt)
    (saved,) = result[only(prompt, "MoGADecodeToVideo")]["images"]
    assert saved["type"] == "output"
    path = comfy.output_dir / saved["subfolder"] / saved["filename"]
    with av.open(str(path)) as video:  # a reader that shares nothing with the writer
        (stream,) = video.streams.video
        frames = sum(1 for _ in video.decode(stream))
        assert (frames, stream.width, stream.height) == (shots.frames, 64, 48)
        assert stream.average_rate == fps
    schedule = result[only(prompt, "MoGAShotSchedule")]
    assert f"{shots.frames} frames" in schedule["text"][0]
    (picture,) = schedule["images"]
    assert (comfy.base / "temp" / picture["filename"]).stat().st_size > 1000
    for applied in every(prompt, *APPLY):
        (line,) = result[applied]["text"]
        assert line.endswith("; 3 shots")  # which text they read is known when sampling begins
    for inspected in every(prompt, "MoGAInspect"):
        assert "random routers" in result[inspected]["text"][0] and result[inspected]["images"]


@pytest.mark.parametrize(
    "path", [path for path in WORKFLOWS if path != GGUF], ids=lambda path: path.stem
)
def test_a_workflow_makes_a_video(comfy_with_models, path):
    check_a_video(comfy_with_models, read(path))


def test_the_gguf_workflow_makes_a_video(comfy_with_models):
    pack = find_pack("ComfyUI-GGUF")
    if pack is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("no ComfyUI-GGUF in custom_nodes or ~/comfy/packs, or no gguf package for it")
    comfy, workflow = comfy_with_models, read(GGUF)
    comfy.add_pack(pack)
    (name,) = (n["widgets_values"][0] for n in workflow["nodes"] if n["type"] == "UnetLoaderGGUF")
    import folder_paths

    write_gguf(Path(folder_paths.get_folder_paths("diffusion_models")[0]) / name, tiny.wan())
    check_a_video(comfy, workflow)


def test_one_fps_for_script_and_video(comfy_with_models):
    comfy = comfy_with_models
    prompt = small(api_prompt(read(BASIC[0]), comfy.nodes), script=SCRIPT)
    prompt["fps"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 16.0}}
    for kind in ("MoGAShotSchedule", "MoGADecodeToVideo"):
        prompt[only(prompt, kind)]["inputs"]["fps"] = ["fps", 0]
    assert "17 frames" in comfy.run(prompt)[only(prompt, "MoGAShotSchedule")]["text"][0]


def test_shots_length_fps_and_negative_come_from_the_schedule(comfy, workflow):
    """Into every node that has a place for them: what is set twice can differ."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    (schedule,) = (node for node in nodes.values() if node["type"] == "MoGAShotSchedule")
    names = [output["name"] for output in schedule["outputs"]]
    assert names == [*comfy.nodes["MoGAShotSchedule"].RETURN_NAMES]
    origins = {link: (origin, slot) for link, origin, slot, *_ in workflow["links"]}
    fed = set()
    for node in nodes.values():
        for socket in node["inputs"]:
            name = socket["name"]
            if name in ("shots", "length", "fps") and node is not schedule:
                assert origins[socket["link"]] == (schedule["id"], names.index(name)), node["type"]
                fed.add(name)
    assert fed == {"shots", "length", "fps"}
    assert all(output["links"] for output in schedule["outputs"])
    assert "negative: " in schedule["widgets_values"][0]


def test_templates_are_served_as_core_does(comfy):
    """From the one folder of the pack that core takes for templates: a second would hide it."""
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer
    from app.custom_node_manager import CustomNodeManager

    async def served(names):
        app = web.Application()
        CustomNodeManager().add_routes(web.RouteTableDef(), app, [("moga", str(REPOSITORY))])
        async with TestClient(TestServer(app)) as client:
            replies = [await client.get(f"/api/workflow_templates/moga/{name}") for name in names]
            return [(reply.status, await reply.read()) for reply in replies]

    files = list((REPOSITORY / "workflows").iterdir())
    found = asyncio.run(served([path.name for path in files]))
    assert found == [(200, path.read_bytes()) for path in files] != []


def test_every_workflow_shows_a_picture_and_says_what_it_needs(workflow, request):
    path = next(p for p in WORKFLOWS if p.stem in request.node.name)
    assert path.with_suffix(".jpg").stat().st_size > 10_000
    notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    (note,) = (node["widgets_values"][0] for node in notes if node["title"] == "How to use this")
    files = [
        value
        for node in workflow["nodes"]
        for value in node["widgets_values"]
        if isinstance(value, str) and value.endswith((".safetensors", ".gguf"))
    ]
    lines = [line for line in note.splitlines() if line.startswith("- ")]
    assert files
    for file in files:
        (line,) = (line for line in lines if file in line)
        folder = line.removeprefix("- ").partition(":")[0]
        assert folder in ("diffusion_models", "text_encoders", "vae", "model_patches")
    assert any("negative prompt" in node["title"] for node in notes)


def test_a_workflow_fits_a_page(workflow):
    """At a size at which the page still draws text: see LiteGraph.Canvas.MinFontSizeForLOD."""
    view = workflow["extra"]["ds"]
    left, top = (-offset for offset in view["offset"])
    width, height = 1600 / view["scale"], 1000 / view["scale"]
    assert 14 * view["scale"] > 9
    for group in workflow["groups"]:
        x, y, w, h = group["bounding"]
        assert left < x and x + w < left + width and top < y and y + h < top + height
    boxes = [group["bounding"] for group in workflow["groups"]]
    loose = [
        node["title"] for node in workflow["nodes"] if not any(inside(node, box) for box in boxes)
    ]
    assert loose == ["How to use this"]


def inside(node, box):
    (x, y), (left, top, width, height) = node["pos"], box
    return left <= x <= left + width and top <= y <= top + height


def test_no_node_lies_on_another(workflow):
    title = 30
    boxes = [
        (x, y - title, x + width, y + height)
        for (x, y), (width, height) in ((node["pos"], node["size"]) for node in workflow["nodes"])
    ]
    for one, other in combinations(boxes, 2):
        apart = (a >= b for a, b in zip(one[:2] + other[:2], other[2:] + one[2:], strict=True))
        assert any(apart), (one, other)


def test_a_bad_script_is_refused_before_anything_runs(comfy_with_models, basic):
    comfy = comfy_with_models
    prompt = small(api_prompt(basic, comfy.nodes), script="[4] A fox.")
    result = comfy.run(prompt, check=False)
    assert not result.outputs
    assert 'script line 1: "[4]" has no unit; write [4s] for seconds or [4f]' in str(result.error)


def test_a_prefix_that_leaves_the_output_folder_is_refused(comfy_with_models, basic):
    comfy = comfy_with_models
    prompt = api_prompt(basic, comfy.nodes)
    prompt = small(prompt, script=SCRIPT, filename_prefix="../../escaped")
    result = comfy.run(prompt, check=False)
    assert not result.outputs and "leaves ComfyUI's output folder" in str(result.error)


def test_shots_left_unconnected_are_refused_in_words(comfy_with_models, basic):
    comfy = comfy_with_models
    prompt = small(api_prompt(basic, comfy.nodes), script=SCRIPT)
    applied = prompt[only(prompt, *APPLY)]
    del applied["inputs"]["shots"]
    before = set(comfy.output_dir.rglob("*"))
    result = comfy.run(prompt, check=False)
    name = comfy.nodes[applied["class_type"]].GET_SCHEMA().display_name
    assert f"{name} was given no shots; connect the shots output" in str(result.error)
    assert set(comfy.output_dir.rglob("*")) == before


def test_length_left_unconnected_is_refused_in_words(comfy_with_models, basic):
    comfy = comfy_with_models
    prompt = small(api_prompt(basic, comfy.nodes), script=SCRIPT)
    prompt[only(prompt, "EmptyHunyuanLatentVideo")]["inputs"]["length"] = 33
    result = comfy.run(prompt, check=False)
    assert "the latent has 9 latent frames (33 video frames)" in str(result.error)


def test_real_text_encoding_of_the_schedule(comfy_with_models):
    """Through ComfyUI's own CLIP: global first, each shot by itself, weights understood."""
    comfy = comfy_with_models
    (clip,) = comfy.call("CLIPLoader", clip_name=ENCODER, type="wan", device="default")

    def encode(words):
        return comfy.call("CLIPTextEncode", clip=clip, text=words)[0][0][0]

    script = "global: Rain.\n[5f] (a woman:1.3) walks\n[4f] a cup\n[4f] a cup"
    positive, shots, length, negative, fps = comfy.call(
        "MoGAShotSchedule", clip=clip, script=script, fps=16.0
    )
    assert (length, shots.latent_starts, fps) == (13, (0, 2, 3), 16.0)
    assert torch.equal(negative[0][0], encode(""))
    ((tokens, extras),) = positive
    expected = [encode("Rain. (a woman:1.3) walks"), encode("Rain. a cup"), encode("Rain. a cup")]
    assert torch.equal(tokens, torch.cat(expected, dim=1))
    text = extras["model_conds"]["moga_shots"].cond
    assert text.spans == ((0, 512), (512, 1024), (1024, 1536))
    weighted, plain = expected[0], encode("Rain. a woman walks")
    assert not torch.equal(weighted, plain)


def test_nodes_have_tooltips_defaults_and_help(comfy):
    ours = [name for name in comfy.nodes if name.startswith("MoGA")]
    assert sorted(ours) == [
        "MoGAApply",
        "MoGAApplyShots",
        "MoGAChunkedDecode",
        "MoGADecodeToVideo",
        "MoGAInspect",
        "MoGALoadDiffusionModel",
        "MoGALoadRouters",
        "MoGAShot",
        "MoGAShotSchedule",
    ]
    for name in ours:
        cls = comfy.nodes[name]
        assert cls.CATEGORY.startswith("MoGA/")
        page = (REPOSITORY / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        kinds = cls.INPUT_TYPES()
        for group in ("required", "optional"):
            for field, (kind, *options) in kinds.get(group, {}).items():
                assert options and options[0].get("tooltip"), f"{name}.{field} has no tooltip"
                assert f"`{field}`" in page, f"the help page of {name} does not explain {field}"
                if kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
                    assert "default" in options[0], f"{name}.{field} has no default"
