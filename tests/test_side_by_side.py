"""How tests are shared out among processes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("xdist")

from side_by_side import LONGEST, folder, in_order

IDS = ["tests/test_layout.py::a", "tests/vae/test_b.py::b", "tests/data/pipeline/test_c.py::c[x/y]",
       "tests/train/test_d.py::T::d", "tests/train/test_d.py::e", "tests/comfyui::ComfyUI 0.3.64",
       "tests/comfyui/test_f.py::f"]  # fmt: skip


def test_a_folder_of_tests_stays_together():
    assert [folder(one) for one in IDS] == [
        *("", "vae", "data/pipeline", "train", "train", None, "comfyui")
    ]


def test_another_comfyui_begins_first_and_then_what_takes_longest():
    items = in_order([SimpleNamespace(nodeid=one) for one in IDS])
    assert [IDS.index(item.nodeid) for item in items] == [5, 3, 4, 2, 6, 0, 1]
    assert all(Path(__file__).with_name(name).is_dir() for name in LONGEST)
