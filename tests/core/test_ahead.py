"""Jobs ahead of notebooks: what a failing job stops and what not, and what is left of a killed run."""
import os
import shutil
import signal

import pytest
from conftest import SMOKE, call, copy_of_study
from faults import Held, ended

WORDS = ("run", "augment", "resnet", "--profile", "smoke", *SMOKE)
STEP = "flowers102_study.vlm.cnn:step_once"


@pytest.fixture
def half(smoke, tmp_path): # the smoke run, without what two of its stages have made
    folder = copy_of_study(tmp_path / "study")
    shutil.copytree(smoke / "runs", folder / "runs")
    run = folder / "runs/smoke"
    for path in [*run.glob("arms/resnet50*"), run / "arms/siglip2-knn", run / "augment"]:
        shutil.rmtree(path)
    return folder


def test_a_failing_job_stops_no_other_and_is_named(half, fault):
    fault(at=STEP, do="say", words="the network is gone")
    done = call(half, "flowers102-study", *WORDS, check=False)
    said, run = done.stdout + done.stderr, half / "runs/smoke"
    assert done.returncode and "08_resnet: failed" in said and "the network is gone" in said
    assert (run / "augment/manifest.json").exists() and "02_augment: done" in said
    assert (run / "arms/siglip2-knn/manifest.json").exists() # it needs no network
    assert not (run / "arms/resnet50").exists()


def test_a_killed_run_leaves_no_job_and_goes_on(half):
    held = Held(half, WORDS, STEP, call=3, forked=False)
    os.killpg(held.process.pid, signal.SIGKILL) # the command; what works ahead has a session of its own
    held.process.wait()
    ended(held.pid)
    assert "08_resnet: done" in call(half, "flowers102-study", *WORDS).stdout
    assert (half / "runs/smoke/arms/resnet50/manifest.json").exists()
