// Graphs saved by 0.1.0, in which Apply MoGA began with a choice: attention, moga or dense. Values
// are saved by position, so it has to go before the page reads them. dense is a node of its own now.
import { app } from "../../../scripts/app.js";

const APPLY = "MoGAApply";
const APPLY_SHOTS = "MoGAApplyShots";
const FFN_CHUNKS = 6; // its place among the values; graphs from before it have none
const NAME = "Node name for S&R";

// A link is a list in a graph, and an object in a subgraph.
const idOf = (link) => link[0] ?? link.id;
const targetOf = (link) => (Array.isArray(link) ? link[3] : link.target_id);

// Leaves a node the inputs that `keep` names, and the graph the links that still have an end.
function keepInputs(node, graph, keep) {
  node.inputs = (node.inputs ?? []).filter(({ name }) => keep(name));
  const slots = new Map(node.inputs.map(({ link }, slot) => [link, slot]));
  const ends = (link) => targetOf(link) === node.id;
  graph.links = (graph.links ?? []).filter((link) => !ends(link) || slots.has(idOf(link)));
  for (const link of graph.links.filter(ends)) {
    if (Array.isArray(link)) link[4] = slots.get(idOf(link));
    else link.target_slot = slots.get(idOf(link));
  }
  const there = new Set(graph.links.map(idOf));
  for (const { outputs } of graph.nodes)
    for (const output of outputs ?? []) output.links = output.links?.filter((id) => there.has(id));
}

function mend(node, graph) {
  const [attention, ...values] = node.widgets_values;
  if (attention === "moga") {
    node.widgets_values = values;
    keepInputs(node, graph, (name) => name !== "attention");
    return;
  }
  node.type = APPLY_SHOTS;
  node.widgets_values = [node.widgets_values[FFN_CHUNKS] ?? 1];
  if (node.properties?.[NAME] === APPLY) node.properties[NAME] = APPLY_SHOTS;
  if (node.title === "Apply MoGA") delete node.title;
  keepInputs(node, graph, (name) => ["model", "shots", "ffn_chunks"].includes(name));
}

const isOld = ({ type, widgets_values: values }) =>
  type === APPLY && ["moga", "dense"].includes(values?.[0]);

app.registerExtension({
  name: "MoGA.OldGraphs",
  beforeConfigureGraph(workflow) {
    for (const graph of [workflow, ...(workflow.definitions?.subgraphs ?? [])])
      for (const node of (graph.nodes ?? []).filter(isOld)) mend(node, graph);
  },
});
