"""Single frames out of films, told by the numbers that their pictures bear."""

import numpy as np
import pytest
from accuracy import source_of
from numbered import numbered, numbers

from moga.data.pipeline.decode import sampled
from moga.data.pipeline.keyframes import some_pictures

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


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_tags_that_are_no_text_are_no_error(make, tmp_path, name):
    """As old tools write them: in Latin-1, where UTF-8 is expected. By any PyAV."""
    plain, film = make.lossless(tmp_path / "plain.mkv", numbered(20), 24), tmp_path / name
    make.ffmpeg("-i", plain, "-metadata", "title=Gar@@on", *CODED, film)
    whole = film.read_bytes()
    assert whole.count(b"Gar@@on") == 1
    film.write_bytes(whole.replace(b"Gar@@on", b"Gar\xe7\xe9on"))
    source = source_of(film)
    assert numbers(np.ascontiguousarray(sampled(source, [3]))) == [3]
    assert some_pictures(source, 2).shape[0] == 2
