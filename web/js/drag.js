// A cut that is dragged, or moved with the arrow keys. Frames only: lengths are the server's.

// The frame nearest to `frame` on which cut `cut` of `picture` may fall: the first shot has 4n + 1
// frames, each later one 4n, and none is empty.
export function nearest(picture, cut, frame) {
  const { shots, step } = picture;
  const before = shots[cut - 1];
  const shot = shots[cut];
  const low = cut === 1 ? 1 : before.start + step;
  const high = shot.start + shot.frames - step;
  const snapped = 1 + step * Math.round((frame - 1) / step);
  return Math.min(Math.max(snapped, low), high);
}

// Lets `handle` be dragged along `track`. `drag` has: picture(), what is drawn; show(frame), which
// is null when the drag was given up; drop(frame).
export function draggable(handle, cut, track, drag) {
  let picture = null;
  let frame = 0;
  let grip = 0; // how far from the cut it was taken hold of

  const frameAt = (x) => {
    const { left, width } = track.getBoundingClientRect();
    return width ? ((x - left) / width) * picture.frames : 0;
  };
  const end = (drop) => {
    const [from, now] = [picture, frame];
    picture = null;
    if (drop && now !== from.shots[cut].start) drag.drop(now);
    else drag.show(null);
  };

  handle.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !drag.picture()) return;
    event.stopPropagation();
    picture = drag.picture();
    frame = picture.shots[cut].start;
    grip = frameAt(event.clientX) - frame;
    handle.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    drag.show(frame);
  });
  handle.addEventListener("pointermove", (event) => {
    if (!picture) return;
    event.stopPropagation();
    if (picture !== drag.picture()) return end(false); // the script was changed meanwhile
    const found = nearest(picture, cut, frameAt(event.clientX) - grip);
    if (found !== frame) drag.show((frame = found));
  });
  handle.addEventListener("pointerup", (event) => {
    if (!picture) return;
    event.stopPropagation();
    end(picture === drag.picture());
  });
  handle.addEventListener("pointercancel", () => picture && end(false));
  handle.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && picture) {
      event.stopPropagation();
      return end(false);
    }
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const drawn = drag.picture();
    if (!way || !drawn || picture) return;
    event.preventDefault();
    event.stopPropagation();
    const { start } = drawn.shots[cut];
    const found = nearest(drawn, cut, start + way * drawn.step);
    if (found !== start) drag.drop(found);
  });
}
