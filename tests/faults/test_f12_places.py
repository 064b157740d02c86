"""The clock set back, a file system without locks, a run that was moved, copied, or half deleted."""
import os
import random
import shutil
import time

import pytest
from conftest import call, copy_of_study
from faults import LONG
from test_f03_full_disk import prints


@pytest.fixture
def whole(smoke, tmp_path): # a finished run, in another folder than where it was made
    study = copy_of_study(tmp_path)
    shutil.copytree(smoke / "runs", study / "runs")
    return study


def again(study, *words): return call(study, "flowers102-study", "run", "--profile", "smoke", *words)


def test_moved_or_copied(whole):
    assert again(whole).stdout.count("done before") == 9
    shutil.copytree(whole / "runs/smoke", whole / "runs/copy")
    table = lambda name: call(whole, "flowers102-study", "results", "--name", name).stdout
    assert table("copy") == table("smoke")
    (whole / "runs/smoke").rename(whole / "runs/other")
    assert again(whole, "--name", "other").stdout.count("done before") == 9
    verified = call(whole, "flowers102-study", "verify", "--name", "copy").stdout
    assert "✓ copy: everything is as it was written" in verified


def test_the_clock_was_set_back(whole):
    "What there is was written tomorrow; what is made again, today."
    for path in whole.rglob("*"): os.utime(path, (time.time() + 86_400,) * 2)
    before = prints(whole)
    assert again(whole, "data").stdout.count("done before") == 1
    shutil.rmtree(whole / "runs/smoke/audit")
    again(whole, "data")
    assert prints(whole) == before and again(whole, "data").stdout.count("done before") == 1


def test_a_file_system_without_locks(study, fault):
    fault(at="fcntl:flock", do="unable", every=True)
    told = again(study, "data")
    assert "this file system has no locks" in told.stderr and "finished in" in told.stdout


@pytest.mark.parametrize("number", [pytest.param(k, marks=LONG) for k in range(3)])
def test_half_deleted(whole, number):
    before, run, drawn = prints(whole), whole / "runs/smoke", random.Random(number)
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.name != "run.json")
    for path in drawn.sample(files, len(files) // 2): path.unlink()
    told = call(whole, "flowers102-study", "publish", "--name", "smoke", check=False)
    assert told.returncode == 2 and "is not finished" in told.stderr
    told = call(whole, "flowers102-study", "verify", "--name", "smoke", check=False)
    assert told.returncode == 1 and "is missing" in told.stdout
    again(whole)
    assert prints(whole) == before


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_note(whole, content):
    (whole / "runs/smoke/run.json").write_text(content)
    for words in (("results", "--name", "smoke"), ("run", "--profile", "smoke", "data")):
        told = call(whole, "flowers102-study", *words, check=False)
        assert told.returncode == 2 and "runs/smoke/run.json is damaged; remove it" in told.stderr
    (whole / "runs/smoke/run.json").unlink()
    told = call(whole, "flowers102-study", "predict", "x.jpg", "--name", "smoke", check=False)
    assert told.returncode == 2 and "its run.json is gone" in told.stderr
