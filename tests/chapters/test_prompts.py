"""Which classes are taken for one another: the nearest, found without comparing all, are the nearest."""
import difflib
import random

import pytest
from flowers102_study.prompts import closest
from flowers102_study.scores.taxonomy import kinship, one_plant, taxonomy


def all_in_order(label: int, names: list, kin: list) -> list: # every other name compared
    def distance(other):
        shared = [one != "" and one == two for one, two in zip(kin[label], kin[other])]
        alike = difflib.SequenceMatcher(None, names[label], names[other], autojunk=False).ratio()
        return one_plant(names[label], names[other]), [not same for same in shared], -alike, other
    return sorted((other for other in range(len(names)) if other != label), key=distance)


def short_names(seed: int) -> list: # many are alike
    drawn = random.Random(seed)
    return sorted({"".join(drawn.choices("ab é", k=drawn.randint(1, 5))) for _ in range(40)})


KNOWN = sorted(taxonomy())


@pytest.mark.parametrize("names, kin", [
    (KNOWN, [kinship(name) for name in KNOWN]), (KNOWN, [("", "", "")] * len(KNOWN)),
    *((short_names(seed), [("", "", "")] * len(short_names(seed))) for seed in range(5))])
def test_the_nearest_are_those_of_a_full_comparison(names, kin):
    for label in range(0, len(names), 3):
        right = all_in_order(label, names, kin)
        for count in (None, 1, 3, 8, 500):
            assert closest(label, names, kin, count) == right[:count]
