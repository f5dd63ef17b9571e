"""Films whose pictures bear their own number, in black and white blocks that survive a codec."""

import numpy as np

BITS = 12  # in two rows
WIDTH, HEIGHT = 96, 32
_BLOCK = 16


def numbered(frames, first=0, width=WIDTH, height=HEIGHT, at=(0, 0)) -> np.ndarray:
    """uint8 (frames, height, width, 3): the numbers from `first` on, the blocks' corner at x, y."""
    video = np.full((frames, height, width, 3), 90, np.uint8)
    x, y = at
    for i, frame in enumerate(video):
        bits = [(first + i) >> bit & 1 for bit in range(BITS)]
        blocks = np.kron(np.array(bits).reshape(2, -1), np.ones((_BLOCK, _BLOCK))) * 195 + 30
        frame[y : y + HEIGHT, x : x + WIDTH] = blocks[..., None]
    return video


def numbers(frames: np.ndarray) -> list[int]:
    """Of frames that show the blocks and nothing else, at any size."""
    height, width = frames.shape[1:3]
    rows = [int(height * (row + 0.5) / 2) for row in range(2)]
    columns = [int(width * (column + 0.5) / (BITS // 2)) for column in range(BITS // 2)]
    bits = frames[:, rows][:, :, columns].mean(-1).reshape(len(frames), -1) > 127
    return [int(number) for number in bits @ (1 << np.arange(BITS))]
