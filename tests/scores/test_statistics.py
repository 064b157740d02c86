"""Intervals cover, tests err no more often than they say, and each agrees with another calculation."""
import json
import math

import numpy as np
import pandas as pd
import pytest
from conftest import call
from flowers102_study.scores.metrics import joined, over_seeds, wilson
from flowers102_study.scores.paired import (counted, coverage, detectable, difference,
                                          difference_over_seeds, macro_difference, mcnemar, mean_of,
                                          paired, possible_p, read_pair)
from flowers102_study.core.settings import SettingsError
from flowers102_study.core.work import Work
from flowers102_study.hypotheses import (compare, holm, overlap, reread, seed_differences, selective,
                                         temperature, together, verdict)

N = 1020


def test_wilson_covers():
    from scipy.stats import binom
    low, high = np.array([wilson(k, N) for k in range(N + 1)]).T
    # exact, no simulation
    covered = [binom.pmf(np.arange(N + 1), N, p)[(low <= p) & (p <= high)].sum()
               for p in np.arange(.02, .9801, .0025)]
    assert .935 <= min(covered) <= max(covered) <= .965


@pytest.mark.parametrize("b, c", [(.02, .02), (.03, .01), (.25, .03)])
def test_paired_intervals_cover(b, c):
    found = coverage(b, c, N, studies=2000, resamples=999, seed=1)
    assert .935 <= found["covers"] <= .965
    if b == c: assert found["rejects"] <= .05


def test_bca_is_efrons():
    "The same interval from the formulas: resampled counts, bias and acceleration by hand."
    from scipy.stats import norm
    # few, and all in one direction: bias and skew matter, and plain percentiles are 0.001 away
    b, c = 12, 0
    one, two = counted(b, c, N)
    mean = (b - c) / N
    draws = np.random.default_rng(3).multinomial(N, [b / N, c / N, 1 - (b + c) / N], 200_000)
    drawn = (draws[:, 0] - draws[:, 1]) / N
    z0 = norm.ppf(((drawn < mean - 1e-9).mean() + (drawn < mean + 1e-9).mean()) / 2)
    d, weight = np.array([1, -1, 0]) - mean, np.array([b, c, N - b - c])
    a = (weight * d ** 3).sum() / (6 * (weight * d ** 2).sum() ** 1.5)
    ends = [np.quantile(drawn, norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))))
            for z in norm.ppf([.025, .975])]
    assert np.allclose(difference(one, two)["interval"], ends, atol=3e-4)
    assert abs(np.quantile(drawn, .975) - ends[1]) > 6e-4


def test_paired_intervals_fall_short_where_few_differ():
    "What the notebook says of them, so that nobody takes the promise for more than it is."
    for b, c in ((.0025, .0025), (.01, 0)):
        assert .88 < coverage(b, c, N, studies=2000, resamples=999)["covers"] < .945


def test_nothing_differs():
    same = np.arange(N) < 700
    for one, two, value in ((same, same, 0), (np.ones(N), np.zeros(N), 1),
                            (np.zeros(N), np.ones(N), -1)):
        found = difference(one, two)
        low, high = found["interval"]
        assert found["value"] == value and -1 <= low <= value <= high <= 1 and high - low > .003
    assert mcnemar(same, same) == {"only_one": 0, "only_two": 0, "p": 1.0}
    frame = pd.DataFrame({"image_id": [f"{i:04}" for i in range(N)], "label": 0,
                          "prediction": np.where(same, 0, -1)})
    told = compare(frame, frame)
    assert (told["p"] == 1 and told["detectable"] is None
            and all(map(math.isfinite, [*told["interval"], *told["macro"]["interval"]])))


def test_mcnemar_errs_in_at_most_one_of_twenty():
    from scipy.stats import binom
    # given how many pictures differ, the first arm's share of them is a coin's: the exact size
    for m in range(1, 300):
        p = binom_p(m)
        if m < 40: assert np.allclose(p, [mcnemar(*counted(k, m - k, m))["p"] for k in range(m + 1)])
        assert binom.pmf(np.arange(m + 1), m, .5)[p < .05].sum() <= .05
    rng, seen = np.random.default_rng(2), []
    for _ in range(2000):
        easy = rng.beta(.7, .7, N)
        seen.append(alone(*(rng.random((2, N)) < easy)))
    found = exact_p(np.array(seen))
    assert np.allclose(found[:40], [mcnemar(*counted(b, c, N))["p"] for b, c in seen[:40]])
    assert np.mean(found < .05) <= .05


def binom_p(m: int) -> np.ndarray: # two-sided, worked out as twice the smaller tail
    return exact_p(np.stack([np.arange(m + 1), m - np.arange(m + 1)], 1))


def alone(one, two) -> tuple: # of (n,) bool: how many pictures each alone has right
    return (one & ~two).sum(), (two & ~one).sum()


def exact_p(seen: np.ndarray) -> np.ndarray: # (…, 2) counts: McNemar's p, many at a time
    from scipy.stats import binom
    return np.minimum(1, 2 * binom.cdf(seen.min(-1), seen.sum(-1), .5))


def test_mcnemar_by_hand():
    for b, c in ((9, 1), (20, 0), (12, 30), (250, 200)):
        tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
        assert math.isclose(mcnemar(*counted(b, c, N))["p"], min(1, 2 * tail), rel_tol=1e-9)


def stepped_down(p: np.ndarray) -> np.ndarray: # (studies, 4): Holm's rule, worked out anew
    order = np.argsort(p, 1)
    steps = np.minimum(1,
                       np.maximum.accumulate(np.take_along_axis(p, order, 1)
                                             * np.arange(p.shape[1], 0, -1), 1))
    return np.take_along_axis(steps, np.argsort(order, 1), 1)


# no difference anywhere; or fine-tuning alone helps, so that H1 and H3 are true
@pytest.mark.parametrize("gain, nulls", [(0, [0, 1, 2, 3]), (.1, [1, 2])])
def test_family_errs_in_at_most_one_of_twenty(gain, nulls):
    rng, found = np.random.default_rng(4), []
    for _ in range(4000):
        easy = rng.beta(.6, .6, N)
        base, head = rng.random((2, N)) < easy
        tuned, tuned_head = rng.random((2, N)) < np.clip(easy + gain, 0, 1)
        found.append([alone(*pair) for pair in ((tuned, base), (head, base), (tuned_head, tuned),
                                                (tuned_head, head))])
    found = exact_p(np.array(found))
    corrected = stepped_down(found)
    assert np.allclose(corrected[:20], [holm(p) for p in found[:20]])
    rejected = corrected < .05
    assert rejected[:, nulls].any(1).mean() <= .05
    if gain: assert rejected[:, [0, 3]].all(1).mean() > .8 # what is true is found


def test_holm_by_hand():
    # 4 · .001; 3 · .03; 2 · .04 may not fall below that; .2
    assert np.allclose(holm([.04, .001, .03, .2]), [.09, .004, .09, .2])


def test_detectable_is_detected_four_times_in_five():
    rng = np.random.default_rng(6)
    assert (detectable(N, 5 / N) is None and detectable(1, 1.) is None
            and detectable(N, .3, .0125) > detectable(N, .3))
    for differing in (.05, .3):
        d = detectable(N, differing)
        draws = rng.multinomial(N, [(differing + d) / 2, (differing - d) / 2, 1 - differing], 1500)
        assert abs(np.mean(exact_p(draws[:, :2]) < .05) - .8) < .05


def test_macro_counts_classes_alike():
    labels = np.repeat([0, 1, 2], [100, 10, 10])
    one, two = np.concatenate([np.ones(100), np.zeros(20)]), np.concatenate([np.zeros(100), np.ones(20)])
    assert math.isclose(macro_difference(one, two, labels)["value"], (1 - 1 - 1) / 3)
    unequal = np.repeat([0, 1, 2], [80, 15, 5])
    low, high = macro_difference(np.ones(100), np.zeros(100), unequal)["interval"]
    assert .7 < low < high <= 1


def test_macro_intervals_cover_unequal_classes():
    rng, held, width = np.random.default_rng(8), 0, []
    sizes = rng.integers(2, 11, 89) # as the photographs that are at hand
    labels, gain = np.repeat(np.arange(89), sizes), rng.normal(.05, .1, 89)
    for _ in range(1500):
        u = rng.random(len(labels))
        # alike, as two arms of one model are
        one, two = u < .6 + gain[labels], (u + .1 * rng.normal(size=len(u))) < .6
        low, high = macro_difference(one, two, labels)["interval"]
        truth = (.6 + gain - .6).mean() + .0 # the noise is symmetric
        held += low <= truth <= high
        width.append(high - low)
    assert held / 1500 >= .935 and np.mean(width) < .12


@pytest.mark.parametrize("p", [.98, .995])
def test_seeds_that_agree_leave_wilsons_interval(p):
    k = round(p * N)
    assert np.allclose(over_seeds(np.tile(np.arange(N) < k, (3, 1)))["interval"], wilson(k, N))
    low, high = difference_over_seeds(np.ones((3, N)), np.ones((1, N)))["interval"]
    assert low < 0 < high # nothing differs, and yet a picture might


@pytest.mark.parametrize("spread", [0, .01, .03])
def test_three_seeds_cover(spread):
    rng, held, width = np.random.default_rng(7), 0, []
    for _ in range(1000): # differences of two arms, both with their own seeds
        easy = .15 + .7 * rng.beta(2, 1, N)
        one, two = ((rng.random((3, N)) < easy + gain + rng.normal(0, spread, (3, 1))).astype(float)
                    for gain in (.05, 0))
        d = one - two
        # as wide as the bootstrap over pictures, and a thousand times faster
        half = 1.96 * d.mean(0).std() / N ** .5
        low, high = joined(d, [d.mean() - half, d.mean() + half], -1.)["interval"]
        held += low <= .05 <= high
        width.append(high - low)
    assert held / 1000 >= .935 and np.median(width) < .1 + 8 * spread
    slow, quick = np.array([difference_over_seeds(one, two)["interval"], [low, high]])
    assert np.allclose(slow, quick, atol=.004)


def test_verdicts_follow_the_rule():
    assert len(holm([])) == 0 # every comparison between arms on the same features
    assert (verdict(-.2, 1e-9) == "not supported" and verdict(.2, .049) ==
            "supported" and verdict(.2, .051) == verdict(0., 1.) == "undecided")
    assert (together(["undecided", "not supported"]) == "not supported" and together(["undecided"]) ==
            "undecided")


def test_seeds_of_one_arm_meet_the_others_only_record():
    frame = lambda right: pd.DataFrame({"label": 0, "prediction": np.where(right, 0, 1)})
    rng = np.random.default_rng(0)
    many, single = [frame(rng.random(N) < p) for p in (.6, .62, .64)], [frame(rng.random(N) < .5)]
    assert seed_differences(single, single) is None
    found = seed_differences(many, single)
    assert found["seeds"] == 3 and math.isclose(found["value"], -seed_differences(single, many)["value"])
    assert seed_differences(many, many[:2]) is None # unequal numbers of seeds are no pairs


def test_temperature_and_selection():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, (4000, 5))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((4000, 1)) > p.cumsum(1)).sum(1)
    assert abs(temperature(3 * np.log(p), labels) - 3) < .2
    coverage_of, accuracy = selective(p.max(1), p.argmax(1) == labels)
    assert accuracy[400] > accuracy[-1] == (p.argmax(1) == labels).mean() and coverage_of[-1] == 1
    assert np.allclose(np.diag(overlap(rng.random((3, 50)) < .5)[0]), 1)


def test_published_counts():
    original = {"n": N,
                "arms": [{"arm": "a", "correct": 971}, {"arm": "b", "correct": 951},
                         {"arm": "c", "correct": 750}, {"arm": "d", "correct": 971}]}
    says = {(r["one"], r["two"]): r for r in reread(original, [("a", "b"), ("a", "c"), ("a", "d")])}
    assert ("depends on the pairs" in says["a", "b"]["says"] and
            "however" in says["a", "c"]["says"] and says["a", "c"]["says"].startswith("a difference"))
    z = (971 - 951) / N / math.sqrt(2 * (1922 / 2040) * (118 / 2040) / N)
    assert math.isclose(says["a", "b"]["p"], math.erfc(z / math.sqrt(2)), rel_tol=1e-6)
    low, high = np.array([wilson(971, N), wilson(951, N)]).T
    # by hand, from two Wilson intervals
    newcombe = [20 / N - math.hypot(971 / N - low[0], high[1] - 951 / N),
                20 / N + math.hypot(high[0] - 971 / N, 951 / N - low[1])]
    assert np.allclose(says["a", "b"]["interval"], newcombe, atol=1e-6)
    assert (says["a", "d"]["says"].startswith("nothing")
            and possible_p(951, 971, N) == possible_p(971, 951, N))


@pytest.fixture
def records(tmp_path): # the same pictures as a Parquet file and as lmms-eval's samples
    names = ["rose", "iris", "tulip"]
    frame = pd.DataFrame({"image_id": [f"{i:03}" for i in range(60)], "split": "test",
                          "label": np.arange(60) % 3, "prediction": np.arange(60) % 3})
    frame.to_parquet(tmp_path / "one.parquet")
    samples = [{"doc_id": i, "target": names[i % 3],
                "filtered_resps": [names[i % 3] if i % 4 else "a daisy"], "doc_hash": "", "exact": 0.}
               for i in range(60)]
    (tmp_path / "x_samples_y.jsonl").write_text("\n".join(map(json.dumps, samples)))
    frame.head(50).to_parquet(tmp_path / "fewer.parquet")
    frame.assign(label=np.random.default_rng(0).permutation(frame.label)).to_parquet(
        tmp_path / "other.parquet")
    frame.assign(label=[1, 0, 2] * 20).to_parquet(tmp_path / "swapped.parquet")
    for name, text in (("broken", "{not json"), ("lists", "[1, 2]")):
        (tmp_path / f"{name}.jsonl").write_text(text)
    frame.drop(columns="label").to_parquet(tmp_path / "nothing.parquet")
    return tmp_path


def test_anybodys_records(records):
    one, two = read_pair(records / "one.parquet", records / "x_samples_y.jsonl")
    both = paired(one, two)
    assert both.one.all() and both.two.sum() == 45 and compare(one, two)["only_one"] == 15
    told = call(records, "flowers102-study", "versus", "one.parquet", "x_samples_y.jsonl").stdout
    assert "right alone on 15 against 0" in told and "one.parquet is better" in told
    assert (json.loads(call(records, "flowers102-study", "versus", "x_samples_y.jsonl",
                            "x_samples_y.jsonl", "--json").stdout)["p"] == 1)


@pytest.mark.parametrize("other, said",
                         [("fewer.parquet", "of which they share 50"),
                          ("other.parquet", "different labels"), ("swapped.parquet", "different labels"),
                          ("nothing.parquet", "has no column label"),
                          ("broken.jsonl", "not a samples file"), ("lists.jsonl", "not a samples file")])
def test_what_is_no_pair_is_refused(records, other, said):
    told = call(records, "flowers102-study", "versus", "one.parquet", other, check=False)
    assert told.returncode == 2 and said in told.stderr
    with pytest.raises(SettingsError, match="twice"):
        paired(pd.concat([one := read_pair(records / "one.parquet", records / "one.parquet")[0]] * 2),
               one)


def test_mean_of_any_values(): assert mean_of(np.array([.5] * 10))["interval"][0] < .5


@pytest.fixture
def judged(tmp_path): # four arms with known outcomes, and an audit that names one test picture
    from flowers102_study.core.records import seal, write_json, write_predictions
    from flowers102_study.hypotheses import judge
    rng, ids, labels = np.random.default_rng(5), [f"{i:04}" for i in range(400)], np.arange(400) % 10
    right = {"base": rng.random(400) < .3, "tuned": rng.random(400) < .6, "head": rng.random(400) < .3,
             "tuned-head": rng.random(400) < .1}
    right["tuned"][0], right["base"][0] = True, False
    right["tuned.s1"] = np.roll(right["tuned"], 1)
    # better by far, and no verdict: it is said to be fitted on the head's own features
    right["control"] = ~right["head"]
    right["control"][:100] = False
    features = {"head": "a", "control": "a", "tuned-head": "b"}
    for arm, ok in right.items():
        (tmp_path / arm).mkdir()
        write_json(tmp_path / arm / "result.json",
                   {"features_sha256": features[arm]} if arm in features else {})
        write_predictions(tmp_path / arm,
                          {"image_id": ids, "split": ["test"] * 400, "label": labels,
                           "prediction": np.where(ok, labels, -1)})
        seal(tmp_path / arm)
    (tmp_path / "audit").mkdir()
    pd.DataFrame({"image_id": ["0000", "0001", "0002"], "split": ["test", "test", "validation"],
                  "bits": [3, 9, 0]}).to_parquet(tmp_path / "audit/audit.parquet")
    write_json(tmp_path / "audit/audit.json", {"bits": 6})
    seal(tmp_path / "audit")
    pairs = [("H1", "tuned", "base"), ("H2", "head", "base"), ("H2", "tuned-head", "tuned"),
             ("H3", "tuned-head", "head"), ("H4", "control", "head")]
    spec = {"comparisons": [{"hypothesis": h, "claim": h, "one": a, "two": b} for h, a, b in pairs],
            "level": .05, "seeded": ["sft"],
            "seeds": {"base": ["base"], "tuned": ["tuned", "tuned.s1"], "head": ["head"],
                      "tuned-head": ["tuned-head"], "control": ["control"]}, "drawn": True}
    (tmp_path / "out").mkdir()
    judge(Work(spec, {name: tmp_path / name for name in ("audit", *right)}, tmp_path / "out"))
    return json.loads((tmp_path / "out/hypotheses.json").read_text()), right


def test_verdicts_of_arms_with_known_outcomes(judged):
    told, right = judged
    rows = {(r["one"], r["two"]): r for r in told["comparisons"]}
    # what fails is said to fail
    assert ([told["hypotheses"][h]["verdict"] for h in ("H1", "H2", "H3")]
            == ["supported", "not supported", "not supported"])
    assert (rows["control", "head"]["effect"] > .1 and rows["control", "head"]["verdict"] == "no verdict"
            and told["hypotheses"]["H4"]["verdict"] == "no verdict")
    assert rows["head", "base"]["verdict"] == "undecided" and rows["tuned-head", "tuned"]["effect"] < -.3
    tested = told["comparisons"][:-1] # the last has no verdict, and does not count among the tests
    assert np.allclose([r["holm_p"] for r in tested],
                       stepped_down(np.array([[r["p"] for r in tested]]))[0])
    assert (told["near"] == 1
            and told["missed_by_all"] == [f"{i:04}"
                                          for i in np.flatnonzero(
                                              ~np.any([right[a]
                                                       for a in (
                                                           "base", "tuned", "head", "tuned-head",
                                                           "control")], 0))])
    # the picture that it has right and the base has not is the one that is near
    without = rows["tuned", "base"]["without_near"]
    assert (without["n"] == 399
            and math.isclose(without["value"] * 399, rows["tuned", "base"]["effect"] * 400 - 1))
    seeds = rows["tuned", "base"]["seeds"]
    assert (seeds["seeds"] == 2
            and math.isclose(seeds["value"],
                             (right["tuned"].mean() + right["tuned.s1"].mean()) / 2
                             - right["base"].mean()) and rows["head", "base"]["seeds"] is None)
