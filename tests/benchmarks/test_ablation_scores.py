"""How much shots of one film agree, beyond chance: the number that the ablation compares by."""

import importlib.util
import sys
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "ablation_scores.py"
SPEC = importlib.util.spec_from_file_location("ablation_scores", FILE)
scores = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = scores  # its dataclass looks itself up
SPEC.loader.exec_module(scores)

WORDS = st.sampled_from(["red", "green", "blue", None])
FILMS = st.lists(st.lists(WORDS, min_size=3, max_size=3), min_size=2, max_size=12)


@given(st.lists(st.sampled_from("rgb"), min_size=2, max_size=12))
def test_one_word_for_each_film_agrees_wholly(words):
    found = scores.kappa([[word] * 3 for word in words])
    assert isnan(found) if len(set(words)) == 1 else found == 1


@given(FILMS)
def test_never_more_than_whole_agreement_and_blind_to_names(films):
    found = scores.kappa(films)
    renamed = scores.kappa([[word and word[::-1] for word in film] for film in films])
    assert isnan(found) or found <= 1
    assert renamed == pytest.approx(found, nan_ok=True)


def test_shots_that_know_nothing_of_each_other_agree_by_chance():
    random = np.random.default_rng(0)
    for share in (0.5, 0.9):  # also where one word is drawn nearly always
        films = random.choice(["red", "green"], size=(400, 3), p=[share, 1 - share]).tolist()
        assert abs(scores.kappa(films)) < 0.1
