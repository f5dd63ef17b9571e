"""Turns a workflow as the frontend saves it into the API prompt that the frontend would send.

Names, order and kinds of widgets come from the node classes of the running ComfyUI, so that a
workflow that no longer fits them fails here. Schema 0.4, with subgraphs, bypassed and muted nodes,
reroutes, primitives and notes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MUTED, BYPASSED = 2, 4
NOTES = ("Note", "MarkdownNote")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
SEED_CONTROL = ("fixed", "increment", "decrement", "randomize")
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = -10, -20


class WorkflowError(ValueError):
    """The workflow doesn't fit the node definitions."""


@dataclass(frozen=True)
class Literal:
    """A value where a link is expected: from a primitive, or a widget of a subgraph."""

    value: Any


@dataclass
class Graph:
    """One level of a workflow. ``links`` maps ids to (origin node, origin slot)."""

    nodes: dict[int, dict]
    links: dict[int, tuple[int, int]]
    outputs: dict[int, int]  # of a subgraph: link id by output slot
    input_names: list[str]  # of a subgraph
    path: str = ""
    parent: "Graph | None" = None
    instance: dict | None = None  # the subgraph's node in the parent
    inner: dict[int, "Graph"] = field(default_factory=dict)


def api_prompt(workflow: dict, nodes: Mapping[str, type]) -> dict[str, dict]:
    """API prompt of a workflow. Nodes of subgraphs get ids like "12:3".

    Raises WorkflowError for unknown node types and for widget values that don't fit.
    """
    definitions = workflow.get("definitions", {}).get("subgraphs", [])
    top = read_graph(workflow, {d["id"]: d for d in definitions})
    prompt = {}
    for graph in every_graph(top):
        for node in graph.nodes.values():
            if (
                is_virtual(node)
                or node["id"] in graph.inner
                or node.get("mode") in (MUTED, BYPASSED)
            ):
                continue
            prompt[f"{graph.path}{node['id']}"] = {
                "class_type": node["type"],
                "inputs": node_inputs(graph, node, nodes),
            }
    return prompt


def read_graph(data: dict, definitions: dict[str, dict], **place: Any) -> Graph:
    links = [
        (link["id"], link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"])
        if isinstance(link, dict)
        else link[:5]
        for link in data["links"]
    ]
    graph = Graph(
        nodes={node["id"]: node for node in data["nodes"]},
        links={link: (origin, slot) for link, origin, slot, _, _ in links},
        outputs={slot: link for link, _, _, target, slot in links if target == SUBGRAPH_OUTPUT},
        input_names=[each["name"] for each in data.get("inputs", [])],
        **place,
    )
    for node in graph.nodes.values():
        if node["type"] in definitions and node.get("mode") not in (MUTED, BYPASSED):
            path = f"{graph.path}{node['id']}:"
            graph.inner[node["id"]] = read_graph(
                definitions[node["type"]], definitions, path=path, parent=graph, instance=node
            )
    return graph


def every_graph(graph: Graph) -> Iterator[Graph]:
    yield graph
    for inner in graph.inner.values():
        yield from every_graph(inner)


def is_virtual(node: dict) -> bool:
    """Known to the frontend only."""
    return node["type"] in (*NOTES, "Reroute", "PrimitiveNode")


def node_inputs(graph: Graph, node: dict, nodes: Mapping[str, type]) -> dict[str, Any]:
    if node["type"] not in nodes:
        raise WorkflowError(
            f"node {node['id']} is a {node['type']}, which this ComfyUI doesn't have"
        )
    inputs = widget_values(node, nodes[node["type"]].INPUT_TYPES())
    for socket in node.get("inputs", ()):
        source = find_source(graph, socket.get("link"))
        if isinstance(source, Literal):
            inputs[socket["name"]] = source.value
        elif source:
            inputs[socket["name"]] = source
    return inputs


def find_source(graph: Graph, link: int | None) -> list | Literal | None:
    """``[node id, slot]`` at the other end of a link; None when there is none to run."""
    if link is None:
        return None
    origin, slot = graph.links[link]
    if origin == SUBGRAPH_INPUT:
        return subgraph_input(graph, graph.input_names[slot])
    node = graph.nodes[origin]
    if node.get("mode") == MUTED:
        return None
    if node["type"] == "Reroute":
        return find_source(graph, node["inputs"][0].get("link"))
    if node.get("mode") == BYPASSED:
        return find_source(graph, bypass_link(node, slot))
    if node["type"] == "PrimitiveNode":
        return Literal(node["widgets_values"][0])
    if origin in graph.inner:
        inner = graph.inner[origin]
        return find_source(inner, inner.outputs.get(slot))
    return [f"{graph.path}{origin}", slot]


def bypass_link(node: dict, slot: int) -> int | None:
    """Link into the input that takes the place of an output: of its type, at best the same slot."""
    inputs, wanted = node.get("inputs", []), node["outputs"][slot]["type"]
    same_slot = inputs[slot : slot + 1]
    return next((i.get("link") for i in same_slot + inputs if i["type"] == wanted), None)


def subgraph_input(graph: Graph, name: str) -> list | Literal | None:
    socket = next((i for i in graph.instance["inputs"] if i["name"] == name), {})
    if socket.get("link") is not None:
        return find_source(graph.parent, socket["link"])
    # An unlinked input is a widget; the node inside keeps its own value when this has none.
    shown = [i["name"] for i in graph.instance["inputs"] if i.get("widget")]
    values = graph.instance.get("widgets_values") or []
    position = shown.index(name) if name in shown else len(values)
    return Literal(values[position]) if position < len(values) else None


def widget_values(node: dict, definition: dict) -> dict[str, Any]:
    """Values of a node's widgets by name. The file has them by position, or by name for some."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        names = [name for name, *_ in widgets(definition, [])]
        return {name: saved[name] for name in names if name in saved}
    rest, values = list(saved), {}
    for name, kind, options, required in widgets(definition, rest):
        if not rest:
            if required and (missing := default(kind, options)) is not None:
                values[name] = missing
            continue
        check(node, name, kind, options, rest[0])
        values[name] = rest.pop(0)
        if has_seed_control(name, kind, options) and rest and rest[0] in SEED_CONTROL:
            rest.pop(0)
    if rest and not any(has_upload(options) for _, _, options, _ in widgets(definition, [])):
        named = f"node {node['id']} ({node['type']})"
        raise WorkflowError(f"{named} has {len(rest)} more widget values than widgets: {rest}")
    return values


def widgets(definition: dict, rest: list) -> Iterator[tuple[str, Any, dict, bool]]:
    """(name, kind, options, required) of each widget. ``rest``: values from this widget on.

    A dynamic combo has more widgets after it, by its value.
    """
    for group in ("required", "optional"):
        for name, (kind, *more) in definition.get(group, {}).items():
            options = more[0] if more else {}
            if options.get("forceInput") or not (isinstance(kind, list) or kind in WIDGETS):
                continue
            chosen = rest[0] if rest else default(kind, options)
            yield name, kind, options, group == "required"
            if kind == "COMFY_DYNAMICCOMBO_V3":
                inner = {o["key"]: o["inputs"] for o in options["options"]}.get(chosen, {})
                for inner_name, *described in widgets(inner, rest):
                    yield f"{name}.{inner_name}", *described


def check(node: dict, name: str, kind: Any, options: dict, value: Any) -> None:
    """Refuse a value of another type: the sign that values are in the wrong places.

    Not a combo's: what it lists, as in files, differs between machines, and ComfyUI checks it.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "INT":
            fits = number and value == int(value)
        case "FLOAT":
            fits = number
        case "STRING":
            fits = isinstance(value, str)
        case "BOOLEAN":
            fits = isinstance(value, bool)
        case "COMFY_DYNAMICCOMBO_V3":
            fits = value in [option["key"] for option in options["options"]]
        case _:
            fits = True
    if not fits:
        raise WorkflowError(f"node {node['id']} ({node['type']}): {name} is {value!r}, not {kind}")


def default(kind: Any, options: dict) -> Any:
    choices = kind if isinstance(kind, list) else options.get("options", ())
    first = choices[0] if choices else None
    return options.get("default", first["key"] if isinstance(first, dict) else first)


def has_seed_control(name: str, kind: Any, options: dict) -> bool:
    return bool(options.get("control_after_generate")) or (
        kind == "INT" and name in ("seed", "noise_seed")
    )


def has_upload(options: dict) -> bool:
    """Upload buttons add a value of no meaning."""
    return any(key.endswith("_upload") for key in options)
