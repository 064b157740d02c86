"""A run, or what is published of it, that was changed by hand is named, to the file."""
import json
import shutil

import pandas as pd
import pytest
from conftest import copy_of_study
from flowers102_study.core.records import seal, write_json


@pytest.fixture(scope="module")
def published(smoke, tmp_path_factory):
    from conftest import call
    study = copy_of_study(tmp_path_factory.mktemp("published"))
    shutil.copytree(smoke / "runs", study / "runs")
    (study / "README.md").write_text("No number is typed here.")
    call(study, "flowers102-study", "publish", "--name", "smoke")
    return study


@pytest.fixture
def whole(published, tmp_path):
    study = tmp_path / "study"
    return shutil.copytree(published, study)


def test_what_nobody_touched_is_right(whole, invoke):
    said = invoke(whole, "verify", "--name", "smoke").stdout
    assert "✓ smoke: everything is as it was written" in said and "note:" not in said
    for kind in ("folders", "files", "records", "notebooks", "figures", "pages", "published", "papers"):
        assert f" {kind}" in said
    shutil.rmtree(whole / "runs") # a clone has what is committed alone
    assert "✓ smoke" in invoke(whole, "verify", "--name", "smoke").stdout


def test_a_run_of_ones_own_is_no_evidence_against_what_is_published(whole, monkeypatch):
    monkeypatch.chdir(whole)
    from flowers102_study.core.settings import open_run
    from flowers102_study.verifying import ANOTHER, Findings, check_against_run
    record = arm(whole) / "result.json"
    seconds = json.loads(record.read_text())["measured"] | {"seconds": 1e3}
    edited(record, measured=seconds, accuracy=.5)
    found = Findings()
    check_against_run(whole / "report/results", open_run("smoke"), found)
    assert found.remarks == [ANOTHER] and found.wrong == []


def edited(path, **values):
    write_json(path, json.loads(path.read_text()) | values)


def arm(study): return study / "runs/smoke/arms/resnet50"


def sealed_anew(study):
    "A better number, and a new sum under it."
    record = json.loads((arm(study) / "result.json").read_text())
    edited(arm(study) / "result.json", accuracy=.99, correct=record["n"])
    key = json.loads((arm(study) / "manifest.json").read_text())["key"]
    seal(arm(study), key)


def better_answers(study):
    "Better answers, a number that follows from them, and new sums."
    path = arm(study) / "predictions.parquet"
    rows = pd.read_parquet(path)
    rows["prediction"] = rows.label
    rows.to_parquet(path, index=False)
    from flowers102_study.scores.metrics import wilson
    edited(arm(study) / "result.json", accuracy=1., correct=24, interval=wilson(24, 24))
    seal(arm(study), json.loads((arm(study) / "manifest.json").read_text())["key"])


def other_labels(study):
    path = arm(study) / "predictions.parquet"
    rows = pd.read_parquet(path)
    rows["label"] = rows.prediction
    rows.to_parquet(path, index=False)


RUN, RECORDS = "runs/smoke", "report/results/smoke"
CHANGES = {
    "a record": (lambda s: edited(arm(s) / "result.json", accuracy=.99),
                 [f"{RUN}/arms/resnet50/result.json: is not what was written",
                  f"{RUN}/arms/resnet50/result.json: states"]),
    "a record, sealed anew": (sealed_anew,
                              [f"{RUN}/arms/resnet50/result.json: states 24 of 24 (99.0 %)",
                               f"{RUN}/notebooks/08_resnet.ipynb: shows another arms/resnet50"]),
    "answers, sealed anew": (better_answers,
                             [f"{RUN}/notebooks/08_resnet.ipynb: shows another arms/resnet50",
                              f"{RECORDS}/resnet50.json: is not the record of"]),
    "labels": (other_labels, ["predictions.parquet: its labels are not those of the data"]),
    "a manifest": (lambda s: edited(arm(s) / "manifest.json", fingerprint="0" * 64),
                   ["manifest.json: its fingerprint is not that of these files"]),
    "no JSON": (lambda s: (arm(s) / "manifest.json").write_text("{"),
                ["arms/resnet50: cannot be read: JSONDecodeError"]),
    "half a record": (lambda s: (arm(s) / "result.json").write_text('{"arm": '),
                      ["result.json: is not what was written", "arms/resnet50: cannot be read"]),
    "half a table": (lambda s: (arm(s) / "predictions.parquet").write_bytes(b"PAR1"),
                     ["predictions.parquet: is not what was written", "arms/resnet50: cannot be read"]),
    "no published figures": (lambda s: shutil.rmtree(s / "figures/smoke"),
                             ["figures/smoke/resnet_modes.svg: is missing"]),
    "one file more": (lambda s: (arm(s) / "notes.txt").write_text("by the way"),
                      ["notes.txt: was added after the folder was sealed"]),
    "one file less": (lambda s: (arm(s) / "history.json").unlink(), ["history.json: is missing"]),
    "a weight": (lambda s: flip(arm(s) / "model/model.safetensors"),
                 ["model/model.safetensors: is not what was written"]),
    "a figure": (lambda s: (s / RUN / "figures/resnet_modes.svg").write_text("<svg/>"),
                 [f"{RUN}/figures/resnet_modes.svg: is not what was written"]),
    "a notebook": (lambda s: flip(s / RUN / "notebooks/04_sft.ipynb"),
                   [f"{RUN}/notebooks/04_sft.ipynb: is not what was written"]),
    "the page": (lambda s: (s / RUN / "index.html").write_text("better"),
                 [f"{RUN}/index.html: is not what was written"]),
    "the run's paper": (lambda s: flip(s / RUN / "paper.pdf"),
                        [f"{RUN}/paper.pdf: is not what was written"]),
    "a published record": (lambda s: edited(s / RECORDS / "resnet50.json", accuracy=.99),
                           [f"{RECORDS}/resnet50.json: is not what was published",
                            "report/smoke.pdf: is not what these records"]),
    "a published figure": (lambda s: (s / "figures/smoke/resnet_modes.svg").unlink(),
                           ["figures/smoke/resnet_modes.svg: is missing"]),
    "one published more": (lambda s: (s / RECORDS / "other.json").write_text("{}"),
                           [f"{RECORDS}/other.json: was added after publishing"]),
    "half a publishing": (lambda s: (s / RECORDS / "seals.json").unlink(),
                          [f"{RECORDS}/seals.json: is missing: publishing was not finished"]),
    "the paper": (lambda s: flip(s / "report/smoke.pdf"),
                  ["report/smoke.pdf: is not what these records"]),
    "the README": (lambda s: (s / "README.md").write_text("It reaches 98.7 %."),
                   ["README.md: says 98.7, and no published record does"])}


def flip(path): # one bit
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_named(whole, invoke, what):
    change, told = CHANGES[what]
    change(whole)
    said = invoke(whole, "verify", "--name", "smoke", check=False)
    assert said.returncode == 1 and "are not as they were" in said.stdout
    for words in told: assert words in said.stdout, said.stdout


def test_other_software_is_said_and_no_failure(whole, invoke):
    path = whole / RUN / "software.json"
    found = json.loads(path.read_text())
    next(row for row in found["packages"] if row["name"] == "torch")["version"] = "1.0"
    write_json(path, found)
    said = invoke(whole, "verify", "--name", "smoke").stdout
    assert "note: torch was 1.0 and is" in said


def test_the_bill_goes_with_what_is_published(whole):
    rows = json.loads((whole / RECORDS / "software.json").read_text())["packages"]
    assert len(rows) > 100 and all(row["name"] and row["version"] and row["licence"] for row in rows)
    unknown = [row["name"] for row in rows if row["licence"] == "unknown"]
    assert len(unknown) < 5, unknown
