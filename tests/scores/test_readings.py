"""Hypotheses judged once more, on other readings of the same answers."""
import numpy as np
import pandas as pd

from flowers102_study.hypotheses import give_verdicts, judged_claims
from flowers102_study.scores.paired import difference, mcnemar


def record(exact: int, named: int | None, n: int = 200): # right from the first picture on
    """Make an arm's predictions: class 0 throughout, so many right by each reading."""
    right = lambda count: np.where(np.arange(n) < count, 0, -1)
    read = {} if named is None else {"prediction_named": right(named),
                                     "prediction_ranked": right(exact)}
    return pd.DataFrame({"image_id": [f"{k:03d}" for k in range(n)], "label": 0, "split": "test",
                         "prediction": right(exact)} | read)


def judged(predictions: dict, pairs: dict) -> dict:
    """Judge {hypothesis: (one, two)} as stage 07 does."""
    rows = []
    for h, (one, two) in pairs.items():
        right = [(frame.label == frame.prediction).to_numpy()
                 for frame in (predictions[one], predictions[two])]
        gap = difference(*right)
        rows.append({"hypothesis": h, "claim": "better", "one": one, "two": two, "effect": gap["value"],
                     "interval": gap["interval"], **mcnemar(*right)})
    features = dict.fromkeys(predictions)
    give_verdicts(rows, features, .05)
    return judged_claims(rows, predictions, features, .05)


def test_a_verdict_that_depends_on_the_form_is_said_to():
    arms = {"tuned": record(150, 150), "base": record(60, 148)} # the base names it in a sentence
    found = judged(arms, {"H1": ("tuned", "base")})
    assert found["hypotheses"]["H1"]["verdict"] == "supported"
    assert found["readings"]["named"]["hypotheses"] == {"H1": "undecided"}
    assert found["readings"]["named"]["comparisons"][0]["effect"] == .01
    assert found["readings"]["ranked"]["hypotheses"] == {"H1": "supported"}
    assert found["remarks"] == ["H1 is supported on exact answers and undecided when answers are read "
                                "as a person would: it depends on what counts as the right words."]


def test_a_head_has_one_reading_and_one_verdict():
    # alone p = .031, which Holm's correction holds back only as long as the other is not certain
    arms = {"head": record(106, None), "tower": record(100, None),
            "tuned": record(106, 160), "base": record(100, 60)}
    found = judged(arms, {"H1": ("tuned", "base"), "H4": ("head", "tower")})
    assert {h: c["verdict"] for h, c in found["hypotheses"].items()} == {"H1": "undecided",
                                                                         "H4": "undecided"}
    assert found["readings"]["named"]["hypotheses"] == {"H1": "supported", "H4": "undecided"}
    assert [remark[:2] for remark in found["remarks"]] == ["H1"]
