// The box that a script is typed in: where a line of it is drawn, and what is marked or selected.

const MARK = "rgb(220 60 60 / 30%)";
const COPIED = [
  "font", "letterSpacing", "lineHeight", "padding", "tabSize", "textIndent", "wordBreak",
  "overflowWrap",
];

// The box that can be seen: the widget's own, or the one that Nodes 2.0 made; null when collapsed.
export function textBox(node, widget) {
  if (!widget) return null;
  if (widget.element?.clientWidth) return widget.element;
  const boxes = document.querySelectorAll(`[data-node-id="${CSS.escape(node.id)}"] textarea`);
  return [...boxes].find((box) => box.value === widget.value) ?? null;
}

// Offsets of a line, from 1, without its end.
function lineSpan(text, line) {
  let start = 0;
  for (let number = 1; number < line; number++) {
    const end = text.indexOf("\n", start);
    if (end < 0) break;
    start = end + 1;
  }
  const end = text.indexOf("\n", start);
  return [start, end < 0 ? text.length : end];
}

// Top and height of a line in the box's text, wrapped as it is, in pixels from where the text is
// when it is not scrolled.
function linePlace(box, [start, end]) {
  const copy = document.createElement("div");
  const style = getComputedStyle(box);
  for (const name of COPIED) copy.style[name] = style[name];
  Object.assign(copy.style, {
    position: "fixed",
    visibility: "hidden",
    whiteSpace: "pre-wrap",
    boxSizing: "border-box",
    width: `${box.clientWidth}px`,
  });
  const line = document.createElement("span");
  line.textContent = box.value.slice(start, end) || " ";
  copy.append(box.value.slice(0, start), line);
  document.body.append(copy);
  const place = [line.offsetTop, line.offsetHeight];
  copy.remove();
  return place;
}

// Selects a line, or its text from `offset` on, and scrolls to it.
export function selectLine(box, line, offset = 0) {
  const [start, end] = lineSpan(box.value, line);
  const [top, height] = linePlace(box, [start, end]);
  box.focus({ preventScroll: true });
  box.setSelectionRange(Math.min(start + offset, end), end);
  box.scrollTop = top - (box.clientHeight - height) / 2;
}

// One line at a time has a red ground, which scrolls with the text.
export class LineMark {
  #box = null;
  #line = 0;
  #resized = new ResizeObserver(() => this.#draw());

  show(box, line) {
    if (this.#box !== box) this.clear();
    if (!box) return;
    if (this.#box !== box) this.#resized.observe(box);
    [this.#box, this.#line] = [box, line];
    this.#draw();
  }

  clear() {
    this.#resized.disconnect();
    const plain = { backgroundImage: "", backgroundAttachment: "" };
    if (this.#box) Object.assign(this.#box.style, plain);
    this.#box = null;
  }

  #draw() {
    if (!this.#box?.isConnected || !this.#box.clientWidth) return;
    const [top, height] = linePlace(this.#box, lineSpan(this.#box.value, this.#line));
    const [from, to] = [`${top}px`, `${top + height}px`];
    const edges = `transparent ${from}, ${MARK} ${from}, ${MARK} ${to}, transparent ${to}`;
    Object.assign(this.#box.style, {
      // The second layer keeps the box's own colour under its scroll bar.
      backgroundImage: `linear-gradient(${edges}), linear-gradient(#0000, #0000)`,
      backgroundAttachment: "local, scroll",
    });
  }
}
