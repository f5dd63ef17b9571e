"""Workflow files become prompts that the running ComfyUI takes."""

import copy
import json

import pytest
from harness import tiny
from harness.graph import WorkflowError, api_prompt


def node(node_id, kind, widgets=None, inputs=(), outputs=(), mode=0):
    """A node of a UI workflow. ``inputs``: (name, type, link), ``outputs``: types."""
    return {
        "id": node_id,
        "type": kind,
        "mode": mode,
        "inputs": [dict(zip(("name", "type", "link"), i, strict=True)) for i in inputs],
        "outputs": [{"name": t, "type": t} for t in outputs],
        "widgets_values": widgets or [],
    }


SAMPLER = ["randomize", 20, 6.5, "euler", "simple", 1]

WORKFLOW = {
    "version": 0.4,
    "nodes": [
        node(1, "UNETLoader", ["some.safetensors", "default"], outputs=["MODEL"]),
        node(2, "Reroute", inputs=[("", "*", 1)], outputs=["MODEL"]),
        # Bypassed: its output is what comes into its input of the same type.
        node(
            3,
            "LoraLoader",
            ["lora.safetensors", 1, 1],
            [("model", "MODEL", 2), ("clip", "CLIP", None)],
            ["MODEL", "CLIP"],
            mode=4,
        ),
        node(4, "PrimitiveNode", [77, "fixed"], outputs=["INT"]),
        node(
            5,
            "KSampler",
            [123, *SAMPLER],
            [
                ("model", "MODEL", 3),
                ("positive", "CONDITIONING", 5),
                ("negative", "CONDITIONING", None),
                ("latent_image", "LATENT", None),
                ("steps", "INT", 4),
            ],
            ["LATENT"],
        ),
        node(6, "CLIPTextEncode", ["muted"], [("clip", "CLIP", None)], ["CONDITIONING"], mode=2),
        node(7, "Note", ["Read me."]),
    ],
    "links": [
        [1, 1, 0, 2, 0, "*"],
        [2, 2, 0, 3, 0, "MODEL"],
        [3, 3, 0, 5, 0, "MODEL"],
        [4, 4, 0, 5, 4, "INT"],
        [5, 6, 0, 5, 1, "CONDITIONING"],
    ],
}


def test_prompt_of_a_workflow(comfy):
    assert api_prompt(WORKFLOW, comfy.nodes) == {
        "1": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": "some.safetensors", "weight_dtype": "default"},
        },
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "seed": 123,
                "steps": 77,
                "cfg": 6.5,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1,
            },
        },
    }


@pytest.mark.parametrize(
    ("widgets", "problem"),
    [
        (["a", *SAMPLER], "node 5 .KSampler.: seed is 'a', not INT"),
        ([1, *SAMPLER, "more"], "node 5 .KSampler. has 1 more widget values than widgets: .'more'"),
    ],
)
def test_widgets_that_do_not_fit_are_named(comfy, widgets, problem):
    workflow = copy.deepcopy(WORKFLOW)
    workflow["nodes"][4]["widgets_values"] = widgets
    with pytest.raises(WorkflowError, match=problem):
        api_prompt(workflow, comfy.nodes)


def test_unknown_node_is_named(comfy):
    workflow = {"nodes": [node(1, "NoSuchNode")], "links": []}
    with pytest.raises(WorkflowError, match="node 1 is a NoSuchNode"):
        api_prompt(workflow, comfy.nodes)


def test_new_widgets_have_their_defaults(comfy):
    workflow = {"nodes": [node(1, "KSampler", [1, "fixed", 9])], "links": []}
    inputs = api_prompt(workflow, comfy.nodes)["1"]["inputs"]
    assert (inputs["steps"], inputs["cfg"], inputs["sampler_name"]) == (9, 8.0, "euler")


def test_cores_wan_blueprint_runs_whole(comfy):
    """A subgraph with loaders, LoRAs, two experts and a VAE, as core ships it, to a video file."""
    path = comfy.root / "blueprints" / "Text to Video (Wan 2.2).json"
    if not path.exists():
        pytest.skip(f"ComfyUI {comfy.version} ships no blueprints")
    workflow = json.loads(path.read_text(encoding="utf-8"))
    (instance,) = workflow["nodes"]
    values = {"text": "A woman walks.", "length": 5, "width": 64, "height": 48}
    instance["widgets_values"] = [values[socket["name"]] for socket in instance["inputs"]]
    video = [("video", "VIDEO", 1)]
    workflow["nodes"].append(node(900, "SaveVideo", ["video/core", "auto", "auto"], video))
    workflow["links"] = [[1, instance["id"], 0, 900, 0, "VIDEO"]]
    prompt = api_prompt(workflow, comfy.nodes)
    add_models(comfy, prompt)
    with tiny.small_models():
        result = comfy.run(prompt)
    (video,) = result["900"]["images"]
    assert (comfy.output_dir / video["subfolder"] / video["filename"]).stat().st_size > 500


def add_models(comfy, prompt):
    """A tiny model under each file name that a prompt asks for."""
    weights = tiny.wan()
    for each in prompt.values():
        inputs = each["inputs"]
        if each["class_type"] == "UNETLoader":
            comfy.add_model("diffusion_models", inputs["unet_name"], weights)
        elif each["class_type"] == "LoraLoaderModelOnly":
            comfy.add_model("loras", inputs["lora_name"], tiny.lora(weights))
        elif each["class_type"] == "VAELoader":
            comfy.add_model("vae", inputs["vae_name"], tiny.vae())
        elif each["class_type"] == "CLIPLoader":
            comfy.add_model("text_encoders", inputs["clip_name"], tiny.text_encoder())
