"""Small videos in real files."""

import subprocess
from pathlib import Path

import numpy as np

from moga.video import VideoWriter
from moga.video.ffmpeg import find_ffmpeg
from moga.video.formats import Encoder, ffv1

FPS, SIZE = 8, 32


def moving_square(frames: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """uint8 (frames, size, size, 3): a bright square that moves over a dark ground."""
    random = np.random.default_rng(seed)
    video = np.full((frames, size, size, 3), random.integers(0, 60, 3), np.uint8)
    colour = random.integers(150, 255, 3)
    for i, frame in enumerate(video):
        left = (i * 2 + seed) % (size - 8)
        frame[8:16, left : left + 8] = colour
    return video


def write_video(
    path: Path, frames: np.ndarray, fps: float = FPS, encoder: Encoder | None = None
) -> Path:
    with VideoWriter(path, frames.shape[2], frames.shape[1], fps, encoder) as video:
        video.write(frames)
    return path


def ffmpeg(*arguments: object) -> None:
    command = [find_ffmpeg(), "-loglevel", "error", "-nostdin", *map(str, arguments)]
    subprocess.run(command, check=True)


def lossless(path: Path, frames: np.ndarray, fps: float = FPS) -> Path:
    return write_video(path, frames, fps, ffv1())
