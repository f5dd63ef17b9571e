"""`python -m moga.demo`, which `make demo` calls."""

from PIL import Image

from moga.demo import SCRIPT, main
from moga.shots import ShotList


def test_the_demo_makes_a_film_and_says_that_it_is_noise(tmp_path, capsys):
    script = tmp_path / "two.txt"
    script.write_text("[5f] one\n[4f] two")
    for _ in range(2):  # a second run replaces the first
        assert main(["--out", str(tmp_path / "demo"), "--script", str(script)]) == 0
    assert "random and untrained" in capsys.readouterr().out
    assert (tmp_path / "demo" / "film.mp4").stat().st_size > 1000
    assert Image.open(tmp_path / "demo" / "contact-sheet.png").width == 960


def test_its_script_has_several_shots():
    shots = ShotList.parse(SCRIPT.read_text(encoding="utf-8"), 16)
    assert len(shots.shots) == 3 and shots.frames < 60
