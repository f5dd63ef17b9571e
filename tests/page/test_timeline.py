"""The timeline on the schedule: it draws what the text says, and writes into the text."""

import pytest
from driver.page import SCHEDULE
from driver.server import soon, wait_until
from driver.shipped import open_small

SCRIPT = "global: A fox.\n[4s] One.\n[2.5 sec] Two.\n[97f] Three."
SHOTS = ("1 4.06 s One.", "2 2.50 s Two.", "3 6.00 s Three.")
MOVED = "global: A fox.\n[6.3s] One.\n[0.3 sec] Two.\n[97f] Three."
NEW = "Write what this shot shows."

both_designs = pytest.mark.parametrize("page", ["classic", "nodes 2.0"], indirect=True)


@pytest.fixture
def timeline(page, server):
    if server.version < (0, 8):
        pytest.skip("no timeline in this ComfyUI's page")
    open_small(page, SCRIPT)
    page.timeline().settle(*SHOTS)
    yield page.timeline()
    assert page.console_errors == []


def has(timeline, script):
    """Whether that comes to be in its text box and to be drawn."""
    return soon(lambda: timeline.script == script and timeline.state == "live")


@both_designs
@pytest.mark.every_comfyui
def test_a_cut_is_dragged_into_the_script_as_one_step(page, timeline):
    assert timeline.shares == pytest.approx([65 / 201, 40 / 201, 96 / 201], abs=0.01)
    assert timeline.words.startswith(
        "3 shots, 201 frames, 12.56 s at 16 fps, 51 latent frames, 612"
    )
    timeline.drag(1, 0.5)
    assert has(timeline, MOVED)
    assert timeline.shots == ["1 6.31 s One.", "2 0.25 s Two.", "3 6.00 s Three."]
    timeline.drag(2, 0.75)
    assert has(timeline, MOVED.replace("0.3 sec", "3 sec").replace("97f", "52f"))
    for keys, script in (("z", MOVED), ("z", SCRIPT), ("y", MOVED), ("z", SCRIPT)):
        page.press(f"Control+{keys}")
        assert has(timeline, script)
    timeline.drag(1, 0.5)  # what is seen is still what is worked
    assert has(timeline, MOVED)
    assert timeline.box.input_value() == MOVED


@both_designs
def test_what_is_typed_is_drawn_or_its_mistake_marked(page, timeline):
    timeline.type("[4s] One.\n[2] Two.")
    sentence = 'script line 2: "[2]" has no unit; write [2s] for seconds or [2f] for frames.'
    assert soon(lambda: timeline.state == "error")
    assert timeline.words == sentence and "rgba" in timeline.marked
    timeline.drag(1, 0.5)  # what is dimmed is of another text
    assert timeline.script == "[4s] One.\n[2] Two."
    timeline.type("[4s] One.\n[2s] Two.")
    timeline.settle("1 4.06 s One.", "2 2.00 s Two.")
    assert timeline.marked == ""
    timeline.double_click(2)
    assert timeline.selected == "[2s] Two."
    timeline.add()
    assert has(timeline, f"[4s] One.\n[2s] Two.\n[2s] {NEW}\n")
    assert soon(lambda: timeline.selected == NEW)
    page.set_widget(SCHEDULE, "fps", 24)
    assert soon(lambda: " at 24 fps" in timeline.words)
    page.set_widget("EmptyHunyuanLatentVideo", "width", 128)
    page.do("step")
    assert soon(lambda: "at 128 x 48" in timeline.words)


@both_designs
def test_what_a_program_writes_is_drawn(timeline):
    timeline.write('[{"caption": "One", "seconds": 3},\n {"caption": "{[", "frames": 40}]')
    timeline.settle("1 3.06 s One", "2 2.50 s {[")
    timeline.drag(1, 0.75)
    assert has(timeline, '[{"caption": "One", "seconds": 4},\n {"caption": "{[", "frames": 24}]')
    timeline.write("")
    assert soon(lambda: timeline.words.startswith("script has no shots"))


def test_captions_are_text(page, timeline):
    markup = "<img src=/none onerror=document.title='ran'>"
    timeline.write(f"[4s] {markup}\n[4s] &amp;")
    timeline.settle(f"1 4.06 s {markup}", "2 4.00 s &amp;")
    timeline.write(f"[4s] One.\nseed: {markup}")
    assert soon(lambda: timeline.state == "error")
    assert page.do("title") != "ran"


@both_designs
def test_the_node_keeps_its_size(page, timeline):
    size = timeline.size
    for number in range(20):
        timeline.click(1 + number % 3)
    assert timeline.script == SCRIPT
    timeline.write("\n".join(f"[{1 + number % 3}s] Take {number}." for number in range(60)))
    assert soon(lambda: len(timeline.shots) == 60 and timeline.state == "live")
    assert timeline.size == size
    timeline.double_click(45)
    assert timeline.selected == "[3s] Take 44."
    timeline.drag(30, 0.51)
    assert soon(lambda: timeline.script.splitlines()[29] != "[3s] Take 29.")
    assert timeline.size == size


@both_designs
def test_the_wheel_over_it_zooms_the_canvas(page, timeline):
    scale = page.do("scale")
    timeline.wheel(-300)
    assert soon(lambda: page.do("scale") > scale)


@both_designs
def test_a_cut_is_dragged_at_every_zoom_and_width(page, timeline):
    for scale, size in ((2, (640, 900)), (0.4, (640, 900)), (1, (320, 500))):
        page.do("resize", *size)
        page.do("zoom", scale)
        timeline.settle(*SHOTS)
        wait_until(lambda: timeline.shares == pytest.approx([0.32, 0.2, 0.48], abs=0.02), "the bar")
        timeline.drag(1, 0.5)
        assert has(timeline, MOVED)
        timeline.write(SCRIPT)


@both_designs
def test_each_copy_has_its_own_through_tabs_and_reload(page, timeline):
    page.do("copySchedule")
    copy = page.timeline(1)
    copy.settle(*SHOTS)
    page.do("zoom", 0.5)
    copy.drag(1, 0.5)
    assert has(copy, MOVED) and has(timeline, SCRIPT)
    (first, second) = (n for n in page.graph()["nodes"] if n["type"] == SCHEDULE)
    assert [first["widgets_values"], second["widgets_values"]] == [[SCRIPT, 16], [MOVED, 16]]
    page.command("Comfy.NewBlankWorkflow")
    wait_until(lambda: not timeline.exists, "an empty graph")
    page.command("Workspace.PreviousOpenedWorkflow")
    assert soon(lambda: timeline.exists) and has(timeline, SCRIPT) and has(copy, MOVED)
    page.reload()
    assert soon(lambda: timeline.exists) and has(timeline, SCRIPT) and has(copy, MOVED)
    page.do("zoom", 0.5)
    copy.settle()
    copy.drag(2, 0.75)
    assert soon(lambda: copy.script.endswith("[52f] Three.")) and timeline.script == SCRIPT


@both_designs
def test_a_linked_script_is_drawn_from_what_the_run_got_and_never_written(page, timeline):
    fed = "[5f] Fed.\n[4f] Again."
    page.do("copySchedule")
    page.do("feed", fed)
    both = [timeline, page.timeline(1)]
    assert soon(lambda: [one.state for one in both] == ["linked", "linked"])
    assert all(one.words.startswith("The shots come from another node") for one in both)
    page.run()
    drawn = ["1 0.31 s Fed.", "2 0.25 s Again."]
    wait_until(lambda: [one.shots for one in both] == [drawn, drawn], "both timelines")
    assert timeline.words.startswith("2 shots, 9 frames, 0.56 s at 16 fps")
    page.do("zoom", 0.5)
    timeline.drag(1, 0.2)
    page.run()  # nothing has changed: all comes from the cache
    assert soon(lambda: [one.shots for one in both] == [drawn, drawn])
    page.command("Comfy.NewBlankWorkflow")
    wait_until(lambda: not timeline.exists, "an empty graph")
    page.command("Workspace.PreviousOpenedWorkflow")
    assert soon(lambda: timeline.exists and [one.shots for one in both] == [drawn, drawn])
    assert [one.script for one in both] == [SCRIPT, SCRIPT]


@both_designs
def test_a_schedule_in_a_subgraph_has_it(page, timeline):
    page.do("intoSubgraph")
    wait_until(lambda: timeline.exists, "the subgraph")
    page.do("zoom", 1)
    timeline.settle(*SHOTS)
    wait_until(lambda: sum(timeline.shares) == pytest.approx(1), "the bar")
    timeline.drag(1, 0.5)
    assert has(timeline, MOVED)
    page.do("outOfSubgraph")
    wait_until(lambda: not timeline.exists, "the graph around it")
    (inner,) = page.graph()["definitions"]["subgraphs"][0]["nodes"]
    assert inner["widgets_values"] == [MOVED, 16]


@both_designs
def test_a_collapsed_or_bypassed_schedule_is_left_in_peace(page, timeline):
    size = timeline.size
    page.do("collapse")
    timeline.write(MOVED)
    timeline.settle()
    page.do("collapse")
    wait_until(lambda: sum(timeline.shares) == pytest.approx(1), "the bar")
    page.do("bypass", True)
    timeline.drag(1, 65 / 201)
    about = (SCRIPT, SCRIPT.replace("2.5 sec", "2.6 sec"))  # as its pixels come out
    assert soon(lambda: timeline.script in about and timeline.state == "live")
    page.do("bypass", False)
    assert timeline.size == size


def test_without_the_server_it_is_a_text_box(page, timeline):
    with page.without("**/moga/timeline"):
        timeline.type("[2s] Typed.")
        assert soon(lambda: timeline.state == "away")
        assert timeline.words.startswith("No timeline: the server does not answer.")
        assert timeline.script == "[2s] Typed."
    page.console_errors.clear()  # the browser's own, of the requests
    timeline.type("[2s] Typed again.")
    timeline.settle("1 2.06 s Typed again.")


def test_what_is_not_drawn_yet_is_not_dragged(page, timeline):
    other = "[2s] Other.\n[2s] Text."
    with page.held("**/moga/timeline"):
        timeline.write(other)
        timeline.drag(1, 0.5)
        assert timeline.shares == pytest.approx([65 / 201, 40 / 201, 96 / 201], abs=0.01)
    timeline.settle("1 2.06 s Other.", "2 2.00 s Text.")
    assert timeline.script == other


def test_a_drag_is_given_up_where_the_text_changes_meanwhile(page, timeline):
    timeline.drag(1, 0.5, drop=False)
    assert timeline.shares[0] == pytest.approx(0.5, abs=0.02)
    timeline.write("[2s] Other.\n[2s] Text.")
    timeline.settle("1 2.06 s Other.", "2 2.00 s Text.")
    page.mouse_up()
    timeline.write(SCRIPT)
    timeline.settle(*SHOTS)
    timeline.drag(1, 0.5, drop=False)
    page.press("Escape")
    page.mouse_up()
    assert timeline.shares == pytest.approx([65 / 201, 40 / 201, 96 / 201], abs=0.01)
    assert timeline.script == SCRIPT
    timeline.cuts[0].focus()
    page.press("ArrowRight")
    assert has(timeline, SCRIPT.replace("[4s]", "[4.3s]").replace("[2.5 sec]", "[2.3 sec]"))


def test_nothing_is_done_while_nothing_changes(page, timeline):
    timeline.write("\n".join(f"[1s] Take {number}." for number in range(60)))
    assert soon(lambda: len(timeline.shots) == 60 and timeline.state == "live")
    assert page.do("work") == 0


@pytest.mark.every_comfyui
def test_the_oldest_page_has_the_picture_alone(page, server):
    if server.version >= (0, 8):
        pytest.skip("this ComfyUI's page has the timeline")
    open_small(page)
    page.run()
    assert soon(lambda: page.pictures(SCHEDULE))
    assert not page.timeline().exists and page.console_errors == []
