"""Every graph that was ever shipped opens with what was set in it, and makes what it made."""

import json
from pathlib import Path

import pytest
from driver.page import APPLY, APPLY_SHOTS, DECODE, SCHEDULE
from driver.server import soon
from driver.shipped import set_small

# One a line, each with the first commit that had it; without words that change nothing.
FILE = Path(__file__).with_name("old_graphs.jsonl")
GRAPHS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
# The widgets of then, in order; a graph may be older than the last of them.
WIDGETS = {
    SCHEDULE: ["script", "fps"],
    APPLY: [
        *("attention", "start_percent", "end_percent", "dense_blocks", "min_tokens", "backend"),
        "ffn_chunks",
    ],
    DECODE: [
        *("fps", "filename_prefix", "quality", "format", "save_workflow", "keep_latent"),
        *("file_per_shot", "tile_size", "tile_overlap"),
    ],
    "MoGALoadDiffusionModel": ["unet_name", "weight_dtype"],
}
OTHER_VALUES = {"start_percent": 0.25, "dense_blocks": "1", "ffn_chunks": 3}


def name_of(graph):
    return f"{graph['workflow']}-{graph['commit']}"


def one(graph, kind):
    (node,) = (node for node in graph["nodes"] if node["type"] == kind)
    return node


def saved(graph, kind):
    """What a node of the file has set, by name."""
    return dict(zip(WIDGETS[kind], one(graph, kind)["widgets_values"], strict=False))


def open_graph(page, graph, folder):
    """Open it, and check that all that was set and wired is there."""
    attention = saved(graph, APPLY)["attention"]
    becomes = {APPLY: APPLY_SHOTS} if attention == "dense" else {}
    path = folder / "old.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    page.open_workflow(path, becomes)
    assert page.unknown_nodes() == [] and page.errors() == "" and page.console_errors == []
    found = page.widgets()
    for kind in (node["type"] for node in graph["nodes"] if node["type"] in WIDGETS):
        wanted = saved(graph, kind)
        wanted.pop("attention", None)
        new = found[becomes.get(kind, kind)]
        assert {name: value for name, value in wanted.items() if name in new} == {
            name: new[name] for name in wanted if name in new
        }
        assert kind in becomes or set(wanted) <= set(new)
    return becomes.get(APPLY, APPLY)


@pytest.mark.every_comfyui
@pytest.mark.parametrize("graph", GRAPHS, ids=name_of)
def test_an_old_graph_makes_its_film(page, server, tmp_path, graph):
    applied = open_graph(page, graph, tmp_path)
    set_small(page)
    page.run()
    assert len(server.outputs("*.mp4")) == 1
    attention = "dense attention in 2 blocks" if applied == APPLY_SHOTS else "5 groups in 2 of 2"
    assert soon(lambda: page.text(applied).startswith(attention))
    assert soon(lambda: page.text(applied).endswith("; 2 shots read their own text"))


@pytest.mark.every_comfyui
@pytest.mark.parametrize("attention", ["moga", "dense"])
def test_what_was_set_in_an_old_graph_stays_set(page, tmp_path, attention):
    """In the newest of them, with other values than at first, and links into its widgets."""
    graph = json.loads(json.dumps(GRAPHS[0]))
    apply = one(graph, APPLY)
    values = {**saved(graph, APPLY), **OTHER_VALUES, "attention": attention}
    apply["widgets_values"] = [values[name] for name in WIDGETS[APPLY]]
    for name in ("attention", "end_percent", "ffn_chunks"):  # as newer pages save widgets
        kind = {"attention": "COMBO", "end_percent": "FLOAT", "ffn_chunks": "INT"}[name]
        socket = {"name": name, "type": kind, "widget": {"name": name}, "link": None}
        apply["inputs"].insert(0, socket)
    for link in graph["links"]:
        if link[3] == apply["id"]:
            link[4] += 3
    applied = open_graph(page, graph, tmp_path)
    assert page.sources(applied) == {
        "model": "MoGALoadDiffusionModel",
        "shots": SCHEDULE,
    }
    assert page.widget(applied, "ffn_chunks") == 3
    if attention == "moga":
        assert page.widget(APPLY, "start_percent") == 0.25
