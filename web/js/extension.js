// Puts a timeline on every Multi-Shot Prompt Schedule.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { addTimeline, refreshAll } from "./timeline.js";

// Before it, Nodes 2.0 could not show what we draw; there the picture of a run is all there is.
const OLDEST = [1, 43];

function isNewEnough(version) {
  const [major, minor] = version.split(".").map(Number);
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

if (isNewEnough(window.__COMFYUI_FRONTEND_VERSION__ ?? "0.0")) {
  app.registerExtension({
    name: "MoGA.Timeline",
    nodeCreated(node) {
      if (node.comfyClass === "MoGAShotSchedule") addTimeline(node);
    },
    setup() {
      // Whatever wrote into a script, a size or a link: ComfyUI has noticed it by then.
      api.addEventListener("graphChanged", refreshAll);
      api.addEventListener("reconnected", refreshAll);
    },
    afterConfigureGraph: refreshAll,
    onNodeOutputsUpdated: refreshAll, // what runs have shown is put back after the graph
  });
}
