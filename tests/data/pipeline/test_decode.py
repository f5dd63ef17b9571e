"""Single frames out of films, told by the numbers that their pictures bear."""

import numpy as np
import pytest
from accuracy import source_of
from numbered import numbered, numbers

from moga.data.pipeline.decode import sampled

SOUND = ("-f", "lavfi", "-i", "sine=duration=9")
CODED = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "60", "-bf", "2")


@pytest.mark.parametrize("name", ["film.ts", "film.mp4", "film.mkv"])
@pytest.mark.parametrize("late", ["0", "2"])
def test_the_frames_that_were_asked_for(make, tmp_path, name, late):
    """Also where pictures begin after the sound, and where a container has no index to seek by."""
    plain = make.lossless(tmp_path / "plain.mkv", numbered(120), 24)
    film = tmp_path / name
    make.ffmpeg("-itsoffset", late, "-i", plain, *SOUND, *CODED, film)
    for frames in ([0, 1, 119], [10, 40, 70], [65, 66]):
        found = sampled(source_of(film), frames)
        assert numbers(np.ascontiguousarray(found)) == frames
