// Graphs saved by 0.1.0, in which Apply MoGA began with a choice: attention, moga or dense. Values are
// saved by position, so it has to go before the page reads them. dense is a node of its own now.
import { app } from '../../../scripts/app.js'

const APPLY = 'MoGAApply'
const APPLY_SHOTS = 'MoGAApplyShots'
const FFN_CHUNKS = 6 // its place among the values; graphs from before it have none

function keepInputs(node, links, keep) {
  node.inputs = (node.inputs ?? []).filter(({ name }) => keep(name))
  const slots = new Map(node.inputs.map(({ link }, slot) => [link, slot]))
  // In a graph a link is a list, in a subgraph an object.
  const target = (link) => (Array.isArray(link) ? link[3] : link.target_id)
  const kept = (links ?? []).filter((link) => target(link) !== node.id || slots.has(link[0] ?? link.id))
  for (const link of kept) {
    if (target(link) !== node.id) continue
    if (Array.isArray(link)) link[4] = slots.get(link[0])
    else link.target_slot = slots.get(link.id)
  }
  return kept
}

function mendNode(node, graph) {
  const [attention, ...values] = node.widgets_values
  if (attention === 'moga') {
    node.widgets_values = values
    graph.links = keepInputs(node, graph.links, (name) => name !== 'attention')
    return
  }
  node.type = APPLY_SHOTS
  node.widgets_values = [node.widgets_values[FFN_CHUNKS] ?? 1]
  if (node.properties?.['Node name for S&R'] === APPLY) node.properties['Node name for S&R'] = APPLY_SHOTS
  if (node.title === 'Apply MoGA') delete node.title
  graph.links = keepInputs(node, graph.links, (name) => ['model', 'shots', 'ffn_chunks'].includes(name))
}

function mend(graph) {
  for (const node of graph.nodes ?? [])
    if (node.type === APPLY && ['moga', 'dense'].includes(node.widgets_values?.[0])) mendNode(node, graph)
  dropEnds(graph)
}

// Outputs name their links too.
function dropEnds(graph) {
  const there = new Set((graph.links ?? []).map((link) => link[0] ?? link.id))
  for (const { outputs } of graph.nodes ?? [])
    for (const output of outputs ?? []) output.links = output.links?.filter((link) => there.has(link))
}

app.registerExtension({
  name: 'MoGA.oldGraphs',
  beforeConfigureGraph(workflow) {
    for (const graph of [workflow, ...(workflow.definitions?.subgraphs ?? [])]) mend(graph)
  },
})
