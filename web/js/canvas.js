// What is done over our element but meant for the canvas: zoom, and pan with the wheel pressed.
import { app } from "../../../scripts/app.js";

// Nodes 2.0 hands both on by itself.
const isOnNodes2 = (element) => Boolean(element.closest("[data-node-id]"));

export function handOn(element) {
  const pass = (name, isMeant, method) =>
    element.addEventListener(name, (event) => {
      if (isMeant(event) && !isOnNodes2(element)) app.canvas[method](event);
    });
  pass("wheel", () => true, "processMouseWheel");
  pass("pointerdown", ({ button }) => button === 1, "processMouseDown");
  pass("pointermove", ({ buttons }) => buttons & 4, "processMouseMove");
  pass("pointerup", ({ button }) => button === 1, "processMouseUp");
}
