"""Multi-Shot Prompt Schedule: what a page is told to show of it, and what it refuses."""

import asyncio
import json

import pytest
import torch
from find_comfyui import REPOSITORY
from harness import tiny
from harness.graph import api_prompt
from harness.workflow import ENCODER, install_models, small

A = "global: A fox.\n[5f] It wakes.\n[4f] It runs.\n[0.5s] It sleeps."
B = "global: A fox.\n[9f] It wakes.\n[8f] It runs."
SUMMARIES = {
    A: "3 shots, 17 frames, 1.06 s at 16 fps, 5 latent frames",
    B: "2 shots, 17 frames, 1.06 s at 16 fps, 5 latent frames",
}


@pytest.fixture
def comfy_with_models(comfy):
    install_models(comfy)
    with tiny.small_models():
        yield comfy
    comfy.forget()


def alone(script):
    """A text encoder and the schedule, with nothing behind it."""
    clip = {"clip_name": ENCODER, "type": "wan", "device": "default"}
    schedule = {"clip": ["clip", 0], "script": script, "fps": 16.0}
    return {
        "clip": {"class_type": "CLIPLoader", "inputs": clip},
        "schedule": {"class_type": "MoGAShotSchedule", "inputs": schedule},
    }


def with_film(script):
    """And a node behind it that shows something, in place of sampler and decoder."""
    film = {"class_type": "PreviewAny", "inputs": {"source": ["schedule", 2]}}
    return {**alone(script), "film": film}


def picture(comfy, shown):
    (saved,) = shown["images"]
    assert saved["type"] == "temp"
    return (comfy.base / "temp" / saved["subfolder"] / saved["filename"]).read_bytes()


def needs(comfy, *, by_itself=False):
    """Skip what a version cannot do, see `shown_from_cache` in nodes/types.py."""
    if comfy.version < (0, 8):
        pytest.skip("this ComfyUI shows from its cache only what output nodes show")
    if by_itself and comfy.version < (0, 33):
        pytest.skip("as an output node it would hide what is wrong elsewhere in this page")


@pytest.mark.parametrize("lru", [0, 50], ids=["classic", "lru"])
@pytest.mark.parametrize("graph", [alone, with_film])
def test_the_timeline_is_that_of_the_script(comfy_with_models, graph, lru):
    """A, B and A again, also where A's second run comes from the cache."""
    comfy = comfy_with_models
    if lru or graph is alone:
        needs(comfy, by_itself=graph is alone)
    executor = comfy.executor(lru)
    pictures = []
    for script in (A, B, A):
        result = comfy.run(graph(script), executor=executor, page="one")
        for shown in (result.shown["schedule"], result["schedule"]):
            assert shown["text"][0].splitlines()[-1] == SUMMARIES[script]
            pictures.append(picture(comfy, shown))
    first, _, second, _, third, _ = pictures
    assert pictures[::2] == pictures[1::2]
    assert first == third != second


@pytest.mark.parametrize("lru", [0, 50], ids=["classic", "lru"])
def test_a_page_that_was_reloaded_gets_the_timeline(comfy_with_models, lru):
    comfy = comfy_with_models
    needs(comfy)
    executor = comfy.executor(lru)
    comfy.run(with_film(A), executor=executor, page="one")
    result = comfy.run(with_film(A), executor=executor, page="two")
    assert result.shown["schedule"]["text"][0].splitlines()[-1] == SUMMARIES[A]
    assert picture(comfy, result.shown["schedule"])


def test_a_page_that_was_reloaded_gets_the_timeline_of_a_workflow(comfy_with_models):
    comfy = comfy_with_models
    needs(comfy)
    path = REPOSITORY / "workflows" / "multishot_any_wan.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    prompt = small(api_prompt(workflow, comfy.nodes), script=A)
    (schedule,) = (key for key, node in prompt.items() if node["class_type"] == "MoGAShotSchedule")
    executor = comfy.executor()
    comfy.run(prompt, executor=executor, page="one")
    result = comfy.run(prompt, executor=executor, page="two")
    assert picture(comfy, result.shown[schedule])


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("[4] A fox.", 'script line 1: "[4]" has no unit; write [4s] for seconds'),
        ("[4s] A fox.\nnegative: blurry", "script line 2: negative: stands once, before the first"),
        ("[4s] A fox.\nNegative prompt: x", 'script line 2: "Negative prompt:" is not part of a'),
        ("[4s] A fox.\nShot 2: It runs.", 'script line 2: "Shot 2" begins no shot'),
        ('{"negatives": "blurry", "shots": []}', 'script: unknown key "negatives"; did you mean'),
        (" ", "script has no shots"),
    ],
)
@pytest.mark.parametrize("graph", [alone, with_film])
def test_a_bad_script_is_one_error(comfy_with_models, graph, script, said):
    import execution

    if graph is alone:
        needs(comfy_with_models, by_itself=True)
    valid, _, _, found = asyncio.run(execution.validate_prompt("id", graph(script), None))
    assert not valid and list(found) == ["schedule"]
    (error,) = found["schedule"]["errors"]
    assert said in error["details"]


def test_the_negative_is_one_text_that_every_shot_reads(comfy_with_models):
    comfy = comfy_with_models
    (clip,) = comfy.call("CLIPLoader", clip_name=ENCODER, type="wan", device="default")

    def outputs(script):
        return comfy.call("MoGAShotSchedule", clip=clip, script=script, fps=24.0)

    def encode(words):
        return comfy.call("CLIPTextEncode", clip=clip, text=words)[0]

    positive, shots, length, negative, fps = outputs(f"negative: blurry,\ndark\n{A}")
    assert same(negative, encode("blurry, dark"))
    plain, plain_shots, plain_length, empty, _ = outputs(A)
    assert same(empty, encode(""))
    assert same(positive, plain) and (length, fps) == (plain_length, 24.0)
    assert shots.latent_starts == plain_shots.latent_starts


def same(conditioning, other):
    """The same text, whatever else ComfyUI has put beside it."""
    (((a, _),), ((b, _),)) = conditioning, other
    return torch.equal(a, b)


# --- shots that are wired ------------------------------------------------------------------------


def shot(caption, seconds, previous=None, **more):
    given = {"caption": caption, "seconds": seconds, **more}
    if previous:
        given["previous"] = [previous, 0]
    return {"class_type": "MoGAShot", "inputs": given}


def chained(script=A, **shots):
    """A schedule fed by the last of these Shot nodes."""
    prompt = {**with_film(script), **shots}
    prompt["schedule"]["inputs"]["chain"] = [list(shots)[-1], 0]
    for name, kind in (("positive", 0), ("shots", 1), ("length", 2), ("negative", 3)):
        prompt[name] = {"class_type": "TestCapture", "inputs": {"value": ["schedule", kind]}}
    return prompt


@pytest.mark.parametrize("script", [A, "", "[4] not a script"])
def test_a_chain_is_used_instead_of_the_script(comfy_with_models, script):
    """Also where the script would be refused, as nobody reads it."""
    comfy = comfy_with_models
    first = {"class_type": "PrimitiveString", "inputs": {"value": "It wakes."}}
    prompt = chained(
        script,
        words=first,
        one=shot(["words", 0], 0.3, **{"global": "A fox,\n red."}),
        two=shot("Shot 2: it runs.", 0.25, "one"),
        three=shot("It sleeps.", 0.5, "two"),
    )
    found = comfy.run(prompt).captured
    shots = comfy.module("moga.shots").ShotList.parse(
        "global: A fox, red.\n[0.3s] It wakes.\n[0.25s] Shot 2: it runs.\n[0.5s] It sleeps.", 16
    )
    assert (found["shots"], found["length"]) == (shots, shots.frames)
    script = comfy.run({**chained(one=shot("x", 1)), "schedule": scheduled(shots.to_text())})
    assert same(found["positive"], script.captured["positive"])
    assert same(found["negative"], script.captured["negative"])


def scheduled(script):
    return with_film(script)["schedule"]


@pytest.mark.parametrize(
    ("shots", "node", "said"),
    [
        ({"one": shot("", 1)}, "one", "caption is empty; write what the shot shows."),
        ({"one": shot("a [4s] b", 1)}, "one", 'caption: "[4s]" opens a shot only where'),
        ({"one": shot("a", 0)}, "one", "smaller than min"),
        (
            {
                "one": shot("a", 1, **{"global": "x"}),
                "two": shot("b", 1, "one"),
                "three": shot("c", 1, "two", **{"global": "y"}),
            },
            "three",
            'global is "y" here and "x" at a shot before',
        ),
    ],
)
def test_a_bad_shot_is_said_on_its_node(comfy_with_models, shots, node, said):
    result = comfy_with_models.run(chained(**shots), check=False)
    assert result.error.node == node and said in result.error.message
    assert not result.captured
