// What a schedule node has: its inputs as the server wants them, and its script to write.
import { app } from "../../../scripts/app.js";

export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

const inputOf = (node, name) =>
  node.inputs?.find((input) => input.name === name || input.widget?.name === name);

export const isLinked = (node, name) => inputOf(node, name)?.link != null;

// Whether the shots come from another node: from a text that is linked, or from Shot nodes.
export const hasOtherSource = (node) => isLinked(node, "script") || isLinked(node, "chain");

// What the last run drew of what reached the node; null before one.
export function lastRun(node) {
  const key = node.graph === app.rootGraph ? node.id : `${node.graph?.id}:${node.id}`;
  return app.nodeOutputs?.[key]?.timeline?.[0] ?? null;
}

export function question(node) {
  const typed = widgetOf(node, "fps")?.value ?? 16;
  return {
    script: String(widgetOf(node, "script")?.value ?? ""),
    fps: (isLinked(node, "fps") && lastRun(node)?.fps) || typed,
    latent: latent(node),
  };
}

// What to say of an fps that another node gives: the page knows it from a run alone.
export function aboutFps(node) {
  if (!isLinked(node, "fps")) return "";
  return lastRun(node)?.fps ? "; fps as in the last run" : "; fps comes from another node";
}

// The node that makes a latent of our length, with the size that it makes; null if none is wired.
function latent(node) {
  for (const id of node.outputs?.find(({ name }) => name === "length")?.links ?? []) {
    const link = node.graph?.getLink?.(id) ?? node.graph?.links?.[id];
    const target = link && node.graph.getNodeById(link.target_id);
    const [width, height] = ["width", "height"].map((name) =>
      target && !isLinked(target, name) ? widgetOf(target, name)?.value : undefined,
    );
    if (width && height) return { node: target.type, width, height };
  }
  return null;
}

// One step to undo.
export function writeScript(node, text) {
  app.canvas.emitBeforeChange();
  try {
    widgetOf(node, "script").value = text;
  } finally {
    app.canvas.emitAfterChange();
  }
  node.setDirtyCanvas?.(true, true);
}

// Calls `changed` where the node itself changes; others are ComfyUI's to notice.
export function watch(node, changed) {
  for (const name of ["script", "fps"]) {
    const widget = widgetOf(node, name);
    if (widget) chain(widget, "callback", changed);
  }
  const events = ["onConfigure", "onConnectionsChange", "onExecuted"];
  for (const name of events) chain(node, name, changed);
}

export function chain(object, name, then) {
  const before = object[name];
  object[name] = function (...values) {
    const result = before?.apply(this, values);
    then(...values);
    return result;
  };
}
