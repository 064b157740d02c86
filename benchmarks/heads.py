"""The study's heads against scikit-learn's logistic regression, over layers, poolings and penalties.

One JSON line. Both solve the same penalised problems on the same standardised features, as large as the
pocket's: the study along a path of penalties, each from the last solution, scikit-learn in a loop. Both
minimise the same function; the study's values may be higher by 1e-3 at most.
"""
import sys

import numpy as np
import torch
from training import say, take_turns
from flowers102_study.classifier import solve

CLASSES, WIDTH, PLACES, PENALTIES = 102, 96, 6, (.01, .001, .0001)


def features(place: int) -> tuple: # (x, y): of a layer and a pooling
    "Make features whose classes overlap, as those of small models do."
    rng = np.random.default_rng(place)
    y = rng.integers(0, CLASSES, 7169)
    x = rng.normal(size=(CLASSES, WIDTH))[y] + 2.5 * rng.normal(size=(len(y), WIDTH))
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), y


def objective(x, y, weights, biases, strength: float) -> float:
    "Return what both minimise."
    from scipy.special import log_softmax
    log_probs = log_softmax(x.astype(np.float64) @ weights.T + biases, 1)
    return -log_probs[np.arange(len(y)), y].mean() + strength / 2 * (weights ** 2).sum()


def ours(places: list) -> list: # of values of the objective
    return [objective(x, y, w, b, strength) for x, y in places
            for strength, w, b, *_ in solve(x, y, PENALTIES, CLASSES)]


def theirs(places: list) -> list:
    from sklearn.linear_model import LogisticRegression
    found = []
    for x, y in places:
        for strength in sorted(PENALTIES, reverse=True):
            model = LogisticRegression(C=1 / (strength * len(y)), max_iter=1000).fit(x, y)
            found.append(objective(x, y, model.coef_, model.intercept_, strength))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    places = [features(place) for place in range(PLACES)]
    found = {"ours": [], "theirs": []}
    def noted(name, way):
        found[name] = way(places)
        return 0.
    seconds, _ = take_turns({"ours": lambda i: noted("ours", ours),
                             "theirs": lambda i: noted("theirs", theirs)}, 3)
    higher = max(a - b for a, b in zip(found["ours"], found["theirs"]))
    note = (f"{len(places[0][1]):,} pictures of {CLASSES} classes, width {WIDTH}; our values of what is "
            f"minimised are higher by at most {higher:.0e}")
    held = say("P21: heads on six places at three penalties against scikit-learn in a loop", seconds, 5,
               bool(higher < 1e-3), note)
    sys.exit(not held)
