// The drawing: a coloured bar per shot, the cuts between them, a line of words. Keeps its elements
// from one picture to the next, so that a focused cut stays so. Captions are text, never markup.
import { draggable } from "./drag.js";

function element(name, kind, ...children) {
  const made = document.createElement(name);
  made.className = `moga-${kind}`;
  made.append(...children);
  return made;
}

export class Bar {
  #shots = [];
  #cuts = [];
  #row = element("div", "row");
  #tip = element("div", "tip");
  #track = element("div", "track", this.#row, this.#tip);
  #plus = element("button", "plus", "+");
  #words = element("div", "words");
  #picture = null;
  #on;

  // `on` has: jump(shot), move(cut, seconds), add(), error().
  constructor(on) {
    this.#on = on;
    this.#plus.type = "button";
    this.#plus.title = "Add a shot at the end of the script";
    this.#plus.addEventListener("click", () => on.add());
    this.#plus.addEventListener("dblclick", (event) => event.stopPropagation());
    this.#plus.addEventListener("pointerdown", (event) => event.stopPropagation());
    this.#words.addEventListener("click", () => on.error());
    this.#track.addEventListener("dblclick", (event) => {
      event.stopPropagation();
      const shot = this.#shotAt(event.clientX);
      if (shot) on.jump(shot);
    });
    this.element = element("div", "timeline", this.#track, this.#plus, this.#words);
  }

  // `state`: "live", "linked" (nothing can be moved), "error" (the picture is of the text before),
  // "away" (there is no server).
  draw(picture, words, state) {
    if (picture !== this.#picture) this.#drawShots(picture?.shots ?? []);
    this.#picture = picture;
    this.element.dataset.state = state;
    this.#words.textContent = words;
    this.#words.title = words;
    this.#plus.disabled = state !== "live";
    for (const cut of this.#cuts) cut.tabIndex = state === "live" ? 0 : -1;
    this.#showCut(null);
  }

  // The box has another text than what is drawn: nothing can be moved until it is drawn anew.
  wait() {
    if (this.element.dataset.state === "live") this.element.dataset.state = "waiting";
  }

  #movable() {
    return this.element.dataset.state === "live" ? this.#picture : null;
  }

  // Not the element under the pointer: cuts lie over short shots.
  #shotAt(x) {
    const { left, width } = this.#track.getBoundingClientRect();
    const { shots = [], frames } = this.#picture ?? {};
    const frame = ((x - left) / width) * frames;
    return shots.findLast(({ start }) => start <= frame);
  }

  #drawShots(shots) {
    while (this.#shots.length > shots.length) this.#shots.pop().remove();
    while (this.#cuts.length > Math.max(0, shots.length - 1)) this.#cuts.pop().remove();
    shots.forEach((shot, index) => this.#drawShot(shot, index));
  }

  #drawShot(shot, index) {
    const made = (this.#shots[index] ??= this.#addShot());
    const [number, , caption] = made.querySelectorAll("span");
    number.textContent = index + 1;
    caption.textContent = shot.caption;
    made.title =
      `Shot ${index + 1} from ${shot.at} s: ${shot.frames} frames, ${shot.seconds} s ` +
      `(asked: ${shot.asked})\n${shot.caption}`;
    if (!index) return;
    const cut = (this.#cuts[index - 1] ??= this.#addCut(index));
    cut.setAttribute("aria-valuenow", shot.at);
  }

  #addShot() {
    const words = ["number", "length", "caption"].map((kind) => element("span", kind));
    const made = element("div", "shot", element("div", "time"), element("div", "block", ...words));
    this.#row.append(made);
    return made;
  }

  #addCut(index) {
    const cut = element("div", "cut");
    cut.title = "Drag to move the cut";
    cut.setAttribute("role", "slider");
    cut.setAttribute("aria-label", `Cut before shot ${index + 1}`);
    draggable(cut, index, this.#track, {
      picture: () => this.#movable(),
      show: (frame) => this.#showCut(frame === null ? null : index, frame),
      drop: (frame) => this.#on.move(index, frame / this.#picture.fps),
    });
    this.#track.append(cut);
    return cut;
  }

  // Draws cut `index` on `frame`, with its time; null: every cut where the picture has it.
  #showCut(index, frame) {
    const { shots = [], frames, fps } = this.#picture ?? {};
    const starts = shots.map(({ start }) => start);
    if (index !== null) starts[index] = frame;
    const end = shots.length ? shots.at(-1).start + shots.at(-1).frames : 0;
    const lengths = starts.map((start, i) => (starts[i + 1] ?? end) - start);
    const share = (count) => `${(100 * count) / frames}%`;
    this.#row.style.width = share(end); // of very many shots only the first are drawn
    lengths.forEach((length, i) => {
      this.#shots[i].style.flexGrow = length;
      this.#shots[i].querySelector(".moga-length").textContent = `${(length / fps).toFixed(2)} s`;
      if (!i) return;
      this.#shots[i].querySelector(".moga-time").textContent = (starts[i] / fps).toFixed(2);
      const { style } = this.#cuts[i - 1];
      style.left = share(starts[i]);
      // Short shots keep a middle that is no cut's.
      style.width = `clamp(3px, ${share(0.6 * Math.min(length, lengths[i - 1]))}, 9px)`;
    });
    this.#tip.hidden = index === null;
    if (index === null) return;
    this.#tip.textContent = `${(frame / fps).toFixed(2)} s`;
    this.#tip.style.left = share(frame);
  }
}
