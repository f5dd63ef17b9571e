"""The shipped workflows in ComfyUI's page: they open, keep what is typed, and run."""

import pytest
from driver.page import APPLY, APPLY_SHOTS, DECODE, SCHEDULE
from driver.server import soon
from driver.shipped import MOGA, WORKFLOWS, open_small

# A value of each widget that no default, no limit and no rounding would give.
TYPED = {
    SCHEDULE: {"script": '[5f] "One" {x} (y:1.2)\n\n# no\n[4f] zwei \u2615', "fps": 23.98},
    APPLY: {
        "start_percent": 0.13,
        "end_percent": 0.87,
        "dense_blocks": "0, 28-29",
        "min_tokens": 12345,
        "backend": "sdpa",
        "ffn_chunks": 7,
    },
    DECODE: {
        "fps": 29.97,
        "filename_prefix": "film/%year%-%month%/take",
        "quality": 33,
        "format": "ffv1",
        "save_workflow": False,
        "keep_latent": True,
        "file_per_shot": True,
        "tile_size": 288,
        "tile_overlap": 80,
    },
}


@pytest.mark.every_comfyui
def test_the_shipped_workflows_open(page):
    assert WORKFLOWS
    for workflow in WORKFLOWS:
        page.open_workflow(workflow)
        assert page.unknown_nodes() == []
        assert page.errors() == ""
        assert page.console_errors == []


def check_a_run(page, server):
    open_small(page)
    page.run()
    (name,) = server.outputs("*.mp4")
    video = (server.output / name).read_bytes()
    assert soon(lambda: page.videos(DECODE) == [video])
    assert soon(lambda: page.pictures(SCHEDULE))
    assert soon(lambda: page.text(APPLY_SHOTS).endswith("2 shots read their own text"))
    assert page.errors() == "" and page.marked_nodes() == []
    assert page.console_errors == []


@pytest.mark.every_comfyui
def test_a_run_shows_the_timeline_and_the_video(page, server):
    check_a_run(page, server)


@pytest.mark.parametrize("page", ["nodes 2.0"], indirect=True)
def test_a_run_shows_them_on_nodes_2(page, server):
    check_a_run(page, server)


def test_what_is_typed_survives_save_and_reload(page, server):
    page.open_workflow(MOGA)
    before = page.widgets()
    ours = {kind: [*values] for kind, values in before.items() if kind in TYPED}
    assert ours == {kind: [*values] for kind, values in TYPED.items()}, "TYPED is not complete"
    for kind, values in TYPED.items():
        for name, value in values.items():
            page.set_widget(kind, name, value)
    page.save("typed")
    page.reload()
    assert page.widgets() == before | TYPED
    page.open_workflow(server.saved_workflow("typed"))
    assert page.widgets() == before | TYPED
    assert page.console_errors == []
