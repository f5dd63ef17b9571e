"""What is wrong is shown once, as a sentence, on the node that it concerns."""

import pytest
from driver.page import APPLY, DECODE, SCHEDULE
from driver.shipped import open_small


@pytest.mark.every_comfyui
def test_a_bad_script_is_one_sentence_on_the_schedule(page, server):
    open_small(page, script="[4] A fox.")
    page.run("refused")
    sentence = 'script line 1: "[4]" has no unit; write [4s] for seconds or [4f] for frames.'
    assert page.errors().count(sentence) == 1
    assert page.marked_nodes() == [SCHEDULE]
    assert server.outputs("*") == []


@pytest.mark.xfail(raises=AssertionError, strict=True, reason="item 20: shown for each argument")
def test_a_bad_prefix_is_said_once(page, server):
    open_small(page)
    page.set_widget(DECODE, "filename_prefix", "../x")
    page.run("refused")
    assert page.errors().count("filename_prefix '../x' leaves ComfyUI's output folder") == 1
    assert page.marked_nodes() == [DECODE]
    assert server.outputs("*") == []


@pytest.mark.xfail(raises=AssertionError, strict=True, reason="item 20: begins with a module path")
def test_a_refusal_inside_the_sampler_is_a_sentence(page):
    open_small(page)
    page.disconnect(APPLY, "shots")
    page.run("execution_error")
    before, found, _ = page.errors().partition("the positive conditioning was made for 2 shots")
    line = before.splitlines()[-1] + found
    assert found and "moga." not in line and "custom_nodes" not in line
    assert page.marked_nodes() == ["KSampler"]
