"""Verdicts over several trainings: what one lucky training must not decide."""
import numpy as np
import pandas as pd
import pytest

from flowers102_study.hypotheses import over_trainings, seed_remarks
from flowers102_study.scores.paired import hierarchical

N = 600
COMPARED = {"hypothesis": "H2", "claim": "a head raises it further", "one": "head", "two": "words"}


def right_on(share: float, seed: int = 0) -> np.ndarray: # (N,) bool, exactly that share
    return np.random.default_rng(seed).permutation(np.arange(N) < share * N)


def record(right): return pd.DataFrame({"label": 0, "prediction": np.where(right, 0, 1)})


def judged(heads: list, words: list, p: float = .004) -> dict:
    names = {"head": [f"head.s{k}" for k in range(len(heads))],
             "words": [f"words.s{k}" for k in range(len(words))]}
    frames = {name: record(right) for arm, some in (("head", heads), ("words", words))
              for name, right in zip(names[arm], some)}
    row = COMPARED | {"effect": .05, "interval": [.02, .08], "p": p}
    spec = {"seeds": names, "level": .05}
    return over_trainings([row], frames, {"head": "a", "words": None}, spec)


def test_trainings_that_agree_are_as_sure_as_one():
    better, worse = right_on(.8), right_on(.6)
    one = hierarchical(better[None], worse[None])
    three = hierarchical(np.stack([better] * 3), worse[None])
    assert one["value"] == three["value"] == pytest.approx(.2)
    assert one["interval"] == pytest.approx(three["interval"], abs=.01) and three["p"] < .001


def test_trainings_that_differ_widen_the_interval():
    worse = right_on(.6)
    alike = np.stack([right_on(.7, k) for k in range(3)])
    apart = np.stack([right_on(share, k) for k, share in enumerate((.6, .7, .8))])
    one, two = hierarchical(alike, worse[None]), hierarchical(apart, worse[None])
    assert one["value"] == pytest.approx(two["value"])
    assert np.ptp(two["interval"]) > 1.5 * np.ptp(one["interval"]) and two["p"] > one["p"]
    assert two["detectable"] > 1.5 * one["detectable"]


def test_sides_are_symmetric():
    one, two = np.stack([right_on(.7, k) for k in range(3)]), right_on(.6, 9)[None]
    there, back = hierarchical(one, two), hierarchical(two, one)
    assert there["value"] == pytest.approx(-back["value"]) and there["p"] == pytest.approx(back["p"])


def test_one_lucky_training_decides_nothing():
    words = [right_on(.6)] * 3
    lucky = judged([right_on(.7, 1), right_on(.58, 2), right_on(.6, 3)], words)
    assert lucky["hypotheses"] == {"H2": "undecided"} and lucky["trainings"] == 3
    assert "H2 is undecided, where the first training alone says supported" in seed_remarks(
        {"H2": {"verdict": "supported"}}, lucky)[0]
    steady = judged([right_on(.75, k) for k in range(3)], words)
    assert steady["hypotheses"] == {"H2": "supported"}


def test_what_was_trained_once_keeps_its_test():
    assert judged([right_on(.7)], [right_on(.6)]) is None
    frames = {name: record(right_on(.7, k)) for k, name in enumerate(("a", "b", "c", "c.s1"))}
    rows = [COMPARED | {"one": "a", "two": "b", "effect": .01, "interval": [-.1, .1], "p": .125},
            COMPARED | {"one": "c", "two": "b", "effect": .01, "interval": [-.1, .1], "p": .125}]
    spec = {"seeds": {"a": ["a"], "b": ["b"], "c": ["c", "c.s1"]}, "level": .05}
    kept, tested = over_trainings(rows, frames, dict.fromkeys("abc"), spec)["comparisons"]
    assert kept["p"] == .125 and kept["seeds"] == 1 and tested["seeds"] == 2 and tested["p"] != .125
