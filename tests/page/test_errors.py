"""What is wrong is shown once, as a sentence, on the node that it concerns."""

import re

import pytest
from driver.page import APPLY, DECODE, SCHEDULE
from driver.server import soon, wait_until
from driver.shipped import MOGA, open_small


def errors(page, sentence):
    """All that is said to be wrong, once the sentence is among it."""
    wait_until(lambda: sentence in page.errors(), f"the page to say {sentence!r}")
    return page.errors()


def named_with(page, sentence):
    """Before which inputs' names a refusal stands. Older pages repeat all of it in a headline."""
    return set(re.findall(rf"(\w+) - {re.escape(sentence)}", errors(page, sentence)))


@pytest.mark.every_comfyui
def test_a_bad_script_is_one_sentence_on_the_schedule(page, server):
    open_small(page, script="[4] A fox.")
    page.run("refused")
    sentence = 'script line 1: "[4]" has no unit; write [4s] for seconds or [4f] for frames.'
    assert named_with(page, sentence) == {"script"}
    assert page.marked_nodes() == [SCHEDULE]
    assert server.outputs("*") == []


@pytest.mark.every_comfyui
def test_a_model_that_is_not_there_is_said(page, server):
    """As of any graph: whatever else can run, a person is told why no video comes."""
    open_small(page)
    page.set_widget("UNETLoader", "unet_name", "none.safetensors")
    page.try_run()
    assert soon(lambda: "unet_name" in page.errors())
    assert page.marked_nodes() == ["UNETLoader"]
    assert server.outputs("*") == []


def test_a_bad_prefix_is_said_once(page, server):
    open_small(page)
    page.set_widget(DECODE, "filename_prefix", "../x")
    page.try_run()  # what can be made without it may be made
    sentence = "filename_prefix '../x' leaves ComfyUI's output folder"
    assert named_with(page, sentence) == {"filename_prefix"}
    assert page.marked_nodes() == [DECODE]
    assert server.outputs("*") == []


def test_a_refusal_inside_the_sampler_is_a_sentence(page):
    open_small(page, workflow=MOGA)
    page.disconnect(APPLY, "shots")
    page.run("execution_error")
    sentence = "the positive conditioning was made for 2 shots"
    before, _, _ = errors(page, sentence).partition(sentence)
    in_front = before.splitlines()[-1]
    assert "moga." not in in_front and "custom_nodes" not in in_front
    assert page.marked_nodes() == ["KSampler"]
