"""Procedural films of several shots, with exact labels.

A coloured shape with a texture acts in a few shots: it enters, moves, jumps or grows, every shot in
another place and at another camera scale. It stays the same throughout, so "is the character of
shot 3 the one of shot 1?" has an exact answer, see `moga.data.storyboard.evaluate`. Everything
follows from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...wan import TEMPORAL_STRIDE, latent_frames, video_frames
from .drawing import COLOURS, PLACES, SHAPES, TEXTURES, paint, place

NAMED = ("full", "shape")
_CHUNK = 16  # frames


@dataclass(frozen=True)
class Character:
    """Who acts: words out of SHAPES, COLOURS and TEXTURES."""

    shape: str
    colour: str
    texture: str

    def __str__(self) -> str:
        return f"{self.colour} {self.texture} {self.shape}"


EVERYBODY = tuple(Character(*words) for words in product(SHAPES, COLOURS, TEXTURES))


def is_held_out(character: Character) -> bool:
    """Whether a character never acts in training: every eighth, each word in several of them."""
    numbers = (list(words).index(word) for words, word in zip(
        (SHAPES, COLOURS, TEXTURES), (character.shape, character.colour, character.texture),
        strict=True,
    ))  # fmt: skip
    shape, colour, texture = numbers
    return (shape + 3 * colour + 2 * texture) % 8 == 0


@dataclass(frozen=True)
class Pose:
    """Where the character is at a moment: its centre and radius, as shares of the height."""

    x: float
    y: float
    radius: float


Motion = Callable[[float, float, float], Pose]  # (time 0 to 1, radius, width / height)


def _middle(time: float, radius: float, aspect: float) -> Pose:
    return Pose(aspect / 2, 0.52, radius)


def _enter(side: int) -> Motion:
    def motion(time: float, radius: float, aspect: float) -> Pose:
        way = min(1.0, time * 1.6)
        way = 1 - (1 - way) ** 2
        return Pose(aspect / 2 - side * (1 - way) * (aspect / 2 + radius), 0.52, radius)

    return motion


def _move(side: int) -> Motion:
    def motion(time: float, radius: float, aspect: float) -> Pose:
        room = max(0.0, aspect / 2 - 1.15 * radius)
        return Pose(aspect / 2 + side * room * (2 * time - 1), 0.52, radius)

    return motion


def _jump(time: float, radius: float, aspect: float) -> Pose:
    room = max(0.0, min(0.3, 0.6 - 1.08 * radius))
    return Pose(aspect / 2, 0.6 - room * abs(np.sin(2 * np.pi * time)), min(radius, 0.36))


def _grow(first: float, last: float) -> Motion:
    def motion(time: float, radius: float, aspect: float) -> Pose:
        return Pose(aspect / 2, 0.5, radius * (first + (last - first) * time))

    return motion


ACTIONS: dict[str, Motion] = {
    "enters from the left": _enter(1),
    "enters from the right": _enter(-1),
    "moves to the right": _move(1),
    "moves to the left": _move(-1),
    "jumps": _jump,
    "grows": _grow(0.75, 1.2),
    "shrinks": _grow(1.2, 0.75),
    "stays": _middle,
}
CAMERAS = {"Wide shot": 0.22, "Medium shot": 0.29, "Close-up": 0.37}  # radius by height


@dataclass(frozen=True)
class StoryShot:
    """One shot: words out of CAMERAS, ACTIONS and PLACES, and its length in video frames."""

    camera: str
    action: str
    place: str
    frames: int

    def caption(self, shape: str) -> str:
        return f"{self.camera}. The {shape} {self.action}, {self.place}."

    def pose(self, frame: int, aspect: float) -> Pose:
        """The pose in frame number `frame` of the shot. aspect: width / height."""
        time = frame / max(1, self.frames - 1)
        return ACTIONS[self.action](time, CAMERAS[self.camera], aspect)


@dataclass(frozen=True)
class Storyboard:
    """A film that can be drawn. named: whether texts say all of the character or its shape only."""

    character: Character
    shots: tuple[StoryShot, ...]
    width: int
    height: int
    fps: float
    named: str = "full"

    @property
    def frames(self) -> int:
        return sum(shot.frames for shot in self.shots)

    @property
    def frame_starts(self) -> tuple[int, ...]:
        """First video frame of each shot."""
        return (0, *accumulate(shot.frames for shot in self.shots[:-1]))

    @property
    def global_caption(self) -> str:
        said = self.character if self.named == "full" else self.character.shape
        return f"A {said}."

    @property
    def captions(self) -> tuple[str, ...]:
        return tuple(shot.caption(self.character.shape) for shot in self.shots)

    def render(self) -> Iterator[NDArray[np.uint8]]:
        """The frames, uint8 (T, H, W, 3), a few at a time."""
        chunk: list[NDArray[np.uint8]] = []
        for shot in self.shots:
            scene = place(shot.place, self.width, self.height)
            for frame in range(shot.frames):
                chunk.append(self._draw(scene, shot.pose(frame, self.width / self.height)))
                if len(chunk) == _CHUNK:
                    yield np.stack(chunk)
                    chunk = []
        if chunk:
            yield np.stack(chunk)

    def row(self, video: str) -> dict[str, Any]:
        """The line of the JSONL that `moga.train` reads."""
        starts = zip(self.frame_starts, self.captions, strict=True)
        shots = [{"start": start / self.fps, "caption": caption} for start, caption in starts]
        return {"video": video, "global": self.global_caption, "shots": shots}

    def script(self) -> str:
        """The shot script that `moga.generate` and the schedule node read."""
        pairs = zip(self.shots, self.captions, strict=True)
        lines = [f"[{shot.frames}f] {caption}" for shot, caption in pairs]
        return "\n".join([f"global: {self.global_caption}", *lines]) + "\n"

    def _draw(self, scene: NDArray[np.float32], pose: Pose) -> NDArray[np.uint8]:
        x, y, radius = (self.height * value for value in (pose.x, pose.y, pose.radius))
        who = self.character
        drawn = paint(scene, who.shape, who.colour, who.texture, x, y, radius)
        return np.rint(drawn).astype(np.uint8)


def storyboard(
    seed: int,
    *,
    shots: int | None = None,
    frames: int = 93,
    size: tuple[int, int] = (160, 96),
    fps: float = 16,
    even: bool = False,
    named: str = "full",
    held_out: bool = False,
) -> Storyboard:
    """The storyboard of a seed.

    shots: how many; None draws 2 to 6. frames: of the whole, 4n + 1. even: shots of equal length.
    named: "full" says colour, texture and shape in the text, "shape" the shape alone, so that the
        rest has to be kept from shot to shot by the model.
    held_out: a character that no other storyboard has.
    Raises ValueError for frames that are not 4n + 1 or too few for the shots.
    """
    if frames < 1 or frames % TEMPORAL_STRIDE != 1:
        near = 4 * max(0, round((frames - 1) / 4)) + 1
        raise ValueError(f"frames is {frames}; give 4n + 1, such as {near}.")
    if named not in NAMED:
        raise ValueError(f"named is {named!r}; choose one of {', '.join(NAMED)}.")
    random = np.random.Generator(np.random.PCG64((seed, held_out)))
    latents = latent_frames(frames)
    count = int(random.integers(2, 7)) if shots is None else shots
    if not 1 <= count <= latents:
        raise ValueError(f"shots is {count}; {frames} frames hold 1 to {latents}.")
    cast = [character for character in EVERYBODY if is_held_out(character) == held_out]
    lengths = _lengths(random, latents, count, even)
    made, before = [], None
    for length in lengths:
        where = _other(random, tuple(PLACES), before and before.place)
        camera = _other(random, tuple(CAMERAS), before and before.camera)
        action = str(random.choice(tuple(ACTIONS)))
        if length == 1 and not made:
            action = "stays"  # one video frame is too few to enter
        long = TEMPORAL_STRIDE * length if made else video_frames(length)
        before = StoryShot(camera, action, where, long)
        made.append(before)
    character = cast[int(random.integers(len(cast)))]
    return Storyboard(character, tuple(made), *size, fps, named)


def _lengths(random: np.random.Generator, latents: int, count: int, even: bool) -> list[int]:
    """Latent frames of each shot, at least a third of an even share."""
    if even:
        return [len(part) for part in np.array_split(np.arange(latents), count)]
    least = max(1, min(latents // count, 2), latents // count // 3)
    extra = random.multinomial(latents - least * count, random.dirichlet(np.full(count, 4.0)))
    return [least + int(more) for more in extra]


def _other(random: np.random.Generator, words: Sequence[str], not_this: str | None) -> str:
    return str(random.choice([word for word in words if word != not_this]))


def write(path: Path, story: Storyboard) -> None:
    """Draw a storyboard into a video file, almost without loss."""
    from ...video.formats import h264
    from ...video.writer import VideoWriter

    with VideoWriter(path, story.width, story.height, story.fps, h264(crf=8)) as video:
        for frames in story.render():
            video.write(frames)
