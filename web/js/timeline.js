// One timeline on one node. It keeps nothing: the text box says what is drawn, and the server how.
import { Asker } from "./ask.js";
import { Bar } from "./bar.js";
import { handOn } from "./canvas.js";
import {
  aboutFps,
  chain,
  hasOtherSource,
  lastRun,
  question,
  watch,
  widgetOf,
  writeScript,
} from "./schedule.js";
import { LineMark, selectLine, textBox } from "./text_box.js";

const HEIGHT = 96; // as in timeline.css
const MARGIN = 10; // that ComfyUI leaves around an element on a node
const NOT_RUN = "The shots come from another node: they are drawn here after a run.";
const AWAY = "No timeline: the server does not answer. What is typed counts all the same.";

const onPage = new Set();
let made = 0;

export function refreshAll() {
  for (const timeline of onPage) timeline.refresh();
}

export function addTimeline(node) {
  loadStyle();
  const timeline = new Timeline(node);
  handOn(timeline.bar.element);
  // A type of its own: where a graph is put back as it was (undo, another tab), Nodes 2.0 goes on
  // to show the element of the node before, if that had a widget of the same name and type.
  const type = `moga_timeline_${++made}`;
  const widget = node.addDOMWidget("timeline", type, timeline.bar.element, {
    serialize: false, // not sent with a prompt
    margin: MARGIN,
  });
  widget.serialize = false; // nor saved
  // As high as it is, whatever room there is: the script has the rest.
  widget.computeLayoutSize = undefined;
  widget.computeSize = () => [200, HEIGHT + 2 * MARGIN];
  chain(node, "onAdded", () => onPage.add(timeline) && timeline.refresh());
  chain(node, "onRemoved", () => onPage.delete(timeline) && timeline.stop());
  watch(node, () => timeline.refresh());
}

function loadStyle() {
  const href = new URL("./timeline.css", import.meta.url).href;
  if ([...document.styleSheets].some((sheet) => sheet.href === href)) return;
  if (document.querySelector(`link[href="${href}"]`)) return;
  const link = document.createElement("link");
  Object.assign(link, { rel: "stylesheet", href });
  document.head.append(link);
}

class Timeline {
  #node;
  #asker = new Asker();
  #mark = new LineMark();
  #drawn = ""; // the question whose answer is drawn or awaited
  #picture = null;
  #error = null;

  constructor(node) {
    this.#node = node;
    this.bar = new Bar({
      jump: (shot) => shot.line && this.#select(shot.line),
      move: (cut, seconds) => this.#edit({ cut, seconds }),
      add: () => this.#edit({ add: true }),
      error: () => this.#error?.line && this.#select(this.#error.line),
    });
  }

  stop() {
    this.#asker.cancel();
    this.#mark.clear();
    this.#drawn = "";
  }

  refresh() {
    if (!this.#node.graph) return;
    if (hasOtherSource(this.#node)) return this.#drawRun();
    const asked = question(this.#node);
    const key = JSON.stringify(asked);
    if (key === this.#drawn) return;
    this.#drawn = key;
    this.bar.wait();
    this.#asker.ask(asked, (answer) => this.#show(answer));
  }

  #drawRun() {
    this.stop();
    this.#error = null;
    const picture = lastRun(this.#node);
    if (picture === this.#picture && this.bar.element.dataset.state === "linked") return;
    this.#picture = picture;
    this.bar.draw(picture, picture?.summary ?? NOT_RUN, "linked");
  }

  #show(answer) {
    this.#error = answer?.error ?? null;
    this.#mark.clear();
    if (!answer) {
      this.#drawn = ""; // the next change asks again
      this.#picture = null;
      return this.bar.draw(null, AWAY, "away");
    }
    if (answer.error) {
      this.bar.draw(this.#picture, answer.error.message, "error");
      return answer.error.line && this.#mark.show(this.#box(), answer.error.line);
    }
    this.#picture = answer.timeline;
    const words = answer.timeline.summary + aboutFps(this.#node);
    this.bar.draw(answer.timeline, words, "live");
  }

  // Has the server change the script, and puts what comes back into the text box, unless the text
  // is another by then.
  #edit(edit) {
    const asked = question(this.#node);
    this.#asker.edit(asked, edit, (answer) => {
      const stale = JSON.stringify(question(this.#node)) !== JSON.stringify(asked);
      if (stale || hasOtherSource(this.#node)) return this.refresh();
      if (!answer?.timeline) return this.#show(answer);
      writeScript(this.#node, answer.script);
      this.#drawn = ""; // draw anew, even if the text is as it was
      this.refresh();
      if (edit.add) requestAnimationFrame(() => this.#selectNew(answer.timeline.shots.at(-1)));
    });
  }

  #selectNew(shot) {
    const line = shot.line && this.#box()?.value.split("\n")[shot.line - 1];
    if (line) this.#select(shot.line, Math.max(0, line.indexOf(shot.caption)));
  }

  #select(line, offset = 0) {
    const box = this.#box();
    if (box) selectLine(box, line, offset);
  }

  #box() {
    return textBox(this.#node, widgetOf(this.#node, "script"));
  }
}
