"""What saved graphs rely on: the names and the order of all that a node takes and gives.

Graphs keep a node's widget values, its inputs and its outputs by their places. So new ones are
added at the end, and signatures.json grows with them; nothing that is in it ever changes.
"""

import json
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SAVED = json.loads((HERE / "signatures.json").read_text(encoding="utf-8"))


def signature(cls):
    """As the page has them: required inputs come before optional ones."""
    kinds = cls.INPUT_TYPES()
    inputs = [
        [group, name, "COMBO" if isinstance(kind, list) else kind]
        for group in ("required", "optional")
        for name, (kind, *_) in kinds.get(group, {}).items()
    ]
    outputs = [list(pair) for pair in zip(cls.RETURN_NAMES, cls.RETURN_TYPES, strict=True)]
    return {"inputs": inputs, "outputs": outputs}


def ours(comfy):
    return {name: cls for name, cls in comfy.nodes.items() if name.startswith("MoGA")}


@pytest.mark.parametrize("name", SAVED)
def test_a_signature_is_as_graphs_have_saved_it(comfy, name):
    assert signature(ours(comfy)[name]) == SAVED[name]


def test_every_node_has_its_signature_saved(comfy):
    assert sorted(ours(comfy)) == sorted(SAVED)


def apply_prompt(**inputs):
    given = {"model": ["model", 0], "start_percent": 0.0, "end_percent": 1.0, "dense_blocks": ""}
    given |= {"min_tokens": 0, "backend": "auto", **inputs}
    return {"class_type": "MoGAApply", "inputs": given}


def test_dense_asked_of_apply_moga_as_it_was_is_answered_in_words(comfy):
    """A prompt of version 0.1.0, as scripts send it; core drops inputs that it does not know."""
    from harness import tiny
    from harness.scene import Scene

    scene = Scene(comfy, tiny.wan())
    for attention, said in (("dense", "put Apply Shot Prompts (MoGAApplyShots)"), ("moga", "")):
        prompt = {
            "model": comfy.put(scene.load()),
            "routers": comfy.put(scene.routers()),
            "apply": apply_prompt(attention=attention, routers=["routers", 0]),
            "end": {"class_type": "TestCapture", "inputs": {"value": ["apply", 0]}},
        }
        result = comfy.run(prompt, check=False)
        assert said in str(result.error) and bool(result.captured) == (attention == "moga")
    comfy.forget()
