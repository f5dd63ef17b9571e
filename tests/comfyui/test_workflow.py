"""The shipped workflows, as they are, through ComfyUI's own executor, to a video on disk."""

import asyncio
import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
from find_comfyui import REPOSITORY
from harness import tiny
from harness.graph import api_prompt
from harness.workflow import ENCODER, install_models, small

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
SCRIPT = "global: A fox.\n[5f] It wakes.\n[4f] It runs.\n[0.5s] It sleeps."


@pytest.fixture
def comfy_with_models(comfy):
    install_models(comfy)
    with tiny.small_models():
        yield comfy
    comfy.forget()


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def only(prompt, kind):
    (found,) = [key for key, node in prompt.items() if node["class_type"] == kind]
    return found


def test_a_workflow_makes_a_video(comfy_with_models, workflow):
    import av

    comfy = comfy_with_models
    prompt = small(api_prompt(workflow, comfy.nodes), script=SCRIPT)
    result = comfy.run(prompt)
    (saved,) = result[only(prompt, "MoGADecodeToVideo")]["images"]
    assert saved["type"] == "output"
    path = comfy.output_dir / saved["subfolder"] / saved["filename"]
    with av.open(str(path)) as video:  # a reader that shares nothing with the writer
        (stream,) = video.streams.video
        frames = sum(1 for _ in video.decode(stream))
        assert (frames, stream.width, stream.height) == (17, 64, 48)
        assert stream.average_rate == 16
    schedule = result[only(prompt, "MoGAShotSchedule")]
    assert "17 frames" in schedule["text"][0]
    (picture,) = schedule["images"]
    assert (comfy.base / "temp" / picture["filename"]).stat().st_size > 1000
    (line,) = result[only(prompt, "MoGAApply")]["text"]
    assert line.endswith("; 3 shots")  # which text they read is known when sampling begins


def test_one_fps_for_script_and_video(comfy_with_models):
    comfy = comfy_with_models
    workflow = json.loads(WORKFLOWS[-1].read_text(encoding="utf-8"))
    prompt = small(api_prompt(workflow, comfy.nodes), script=SCRIPT)
    prompt["fps"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 16.0}}
    for kind in ("MoGAShotSchedule", "MoGADecodeToVideo"):
        prompt[only(prompt, kind)]["inputs"]["fps"] = ["fps", 0]
    assert "17 frames" in comfy.run(prompt)[only(prompt, "MoGAShotSchedule")]["text"][0]


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
    (note,) = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    files = [
        value
        for node in workflow["nodes"]
        for value in node["widgets_values"]
        if isinstance(value, str) and value.endswith(".safetensors") and "moga" not in value
    ]
    assert files and all(Path(file).stem in note["widgets_values"][0] for file in files)


def test_no_node_lies_on_another(workflow):
    title = 30
    boxes = [
        (x, y - title, x + width, y + height)
        for (x, y), (width, height) in ((node["pos"], node["size"]) for node in workflow["nodes"])
    ]
    for one, other in combinations(boxes, 2):
        apart = (a >= b for a, b in zip(one[:2] + other[:2], other[2:] + one[2:], strict=True))
        assert any(apart), (one, other)


def test_a_bad_script_is_refused_before_anything_runs(comfy_with_models, workflow):
    comfy = comfy_with_models
    prompt = small(api_prompt(workflow, comfy.nodes), script="[4] A fox.")
    result = comfy.run(prompt, check=False)
    assert not result.outputs
    assert 'script line 1: "[4]" has no unit; write [4s] for seconds or [4f]' in str(result.error)


def test_a_prefix_that_leaves_the_output_folder_is_refused(comfy_with_models, workflow):
    comfy = comfy_with_models
    prompt = api_prompt(workflow, comfy.nodes)
    prompt = small(prompt, script=SCRIPT, filename_prefix="../../escaped")
    result = comfy.run(prompt, check=False)
    assert not result.outputs and "leaves ComfyUI's output folder" in str(result.error)


def test_shots_left_unconnected_are_refused_in_words(comfy_with_models, workflow):
    comfy = comfy_with_models
    prompt = small(api_prompt(workflow, comfy.nodes), script=SCRIPT)
    del prompt[only(prompt, "MoGAApply")]["inputs"]["shots"]
    before = set(comfy.output_dir.rglob("*"))
    result = comfy.run(prompt, check=False)
    assert "Apply MoGA was given no shots" in str(result.error)
    assert set(comfy.output_dir.rglob("*")) == before


def test_length_left_unconnected_is_refused_in_words(comfy_with_models, workflow):
    comfy = comfy_with_models
    prompt = small(api_prompt(workflow, comfy.nodes), script=SCRIPT)
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
    positive, shots, length = comfy.call("MoGAShotSchedule", clip=clip, script=script, fps=16.0)
    assert (length, shots.latent_starts) == (13, (0, 2, 3))
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
        "MoGAChunkedDecode",
        "MoGADecodeToVideo",
        "MoGAInspect",
        "MoGALoadDiffusionModel",
        "MoGALoadRouters",
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
