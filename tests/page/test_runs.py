"""What one run after the other leaves on the page and on disk, and one that is stopped."""

import datetime

import pytest
from driver.page import APPLY_SHOTS, DECODE, SCHEDULE
from driver.server import soon, wait_until
from driver.shipped import open_small

ONE, OTHER = "[5f] A fox wakes.\n[4f] It runs.", "[9f] A cat."
LONG = "[401f] A long walk."


def run_for_timeline(page, script):
    """The picture of a new script on the schedule."""
    before = page.pictures(SCHEDULE)
    page.set_widget(SCHEDULE, "script", script)
    page.run()
    wait_until(lambda: page.pictures(SCHEDULE) not in ([], before), "another timeline")
    return page.pictures(SCHEDULE)


def test_the_timeline_is_of_the_script_that_was_run(page):
    open_small(page)
    timeline = run_for_timeline(page, ONE)
    run_for_timeline(page, OTHER)
    page.set_widget(SCHEDULE, "script", ONE)
    page.run()
    assert soon(lambda: page.pictures(SCHEDULE) == timeline)


def test_the_timeline_is_there_after_a_reload_and_a_run(page):
    open_small(page)
    timeline = run_for_timeline(page, ONE)
    widgets = page.widgets()
    page.reload()
    wait_until(lambda: page.widgets() == widgets, "the graph as it was")
    page.run()
    assert soon(lambda: page.pictures(SCHEDULE) == timeline)


def check_two_runs(page, server):
    """The same twice: decoded once, and shown after each."""
    open_small(page)
    page.run()
    wait_until(lambda: page.videos(DECODE), "the video")
    film = server.outputs("*.mp4")
    page.run()
    assert server.outputs("*.mp4") == film
    assert soon(lambda: page.videos(DECODE) == [(server.output / film[0]).read_bytes()])


def test_a_run_that_changes_nothing_decodes_nothing(page, server):
    check_two_runs(page, server)


@pytest.mark.parametrize("page", ["nodes 2.0"], indirect=True)
def test_a_run_that_changes_nothing_decodes_nothing_on_nodes_2(page, server):
    check_two_runs(page, server)


def test_an_interrupted_decode_says_where_the_latent_is(page, server):
    open_small(page, LONG)
    with page.running(ends="execution_interrupted"):
        page.wait_for_progress(DECODE)
        page.interrupt()
    (latent,) = server.outputs("*.latent")
    assert soon(lambda: latent in page.text(DECODE))


def test_two_different_fps_are_said_on_a_node(page):
    open_small(page)
    page.disconnect(DECODE, "fps")
    page.set_widget(SCHEDULE, "fps", 24)
    page.set_widget(DECODE, "fps", 16)
    page.run()
    said = "\n".join(page.text(kind) for kind in (SCHEDULE, APPLY_SHOTS, DECODE))
    assert "fps" in said and "24" in said and "16" in said


def test_a_date_in_the_prefix_is_todays(page, server):
    open_small(page)
    page.set_widget(DECODE, "filename_prefix", "video/%date:yyyy-MM-dd%")
    days = {datetime.date.today()}
    assert page.try_run() == "execution_success"
    days.add(datetime.date.today())
    (name,) = server.outputs("*.mp4")
    assert name in {f"video/{day}_00001_.mp4" for day in days}
