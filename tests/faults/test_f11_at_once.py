"""Two at once: one works, the other waits or is refused; what has died holds nobody."""
import json
import os
import shutil
import signal

import pytest
from conftest import call, copy_of_study
from faults import LONG, Held

RUN = ("run", "data", "--profile", "smoke")


@pytest.fixture
def whole(smoke, tmp_path): # a finished run
    study = copy_of_study(tmp_path)
    shutil.copytree(smoke / "runs", study / "runs")
    return study


def test_two_runs_of_one_name(study):
    held = Held(study, RUN, "flowers102_study.core.launch:open_stage")
    second = call(study, "flowers102-study", *RUN, check=False)
    assert second.returncode == 2 and "is being worked on by another process" in second.stderr
    assert held.let_go() == 0, held.said
    assert "done before" in call(study, "flowers102-study", *RUN).stdout


def test_the_lock_of_a_dead_process_holds_nobody(study):
    held = Held(study, RUN, "flowers102_study.core.launch:open_stage", forked=False)
    os.killpg(held.process.pid, signal.SIGKILL)
    held.process.wait()
    call(study, "flowers102-study", *RUN)


@LONG
def test_two_names_share_the_pockets_models(study):
    ways = {name: ("run", "data", "prompts", "baselines", "--profile", "smoke", "--name", name)
            for name in ("one", "two")}
    for name in ways: call(study, "flowers102-study", "run", "data", "prompts", "--profile", "smoke",
                           "--name", name)
    # one of the lanes that make them, and no other
    held = Held(study, ways["one"], "flowers102_study.core.jobs:finish", about=".pocket/qwen3-vl-4b-")
    second = call(study, "flowers102-study", *ways["two"], check=False)
    assert second.returncode == 1 and ".pocket is being worked on by another process" in second.stderr
    assert held.let_go() == 0, held.said
    told = call(study, "flowers102-study", *ways["two"])
    assert "the base" not in told.stdout
    records = [json.loads((study / "runs" / name / "arms/qwen3-vl-4b/result.json").read_text())
               for name in ways]
    for record in records: del record["measured"]
    assert records[0] == records[1]


@LONG
def test_a_run_and_a_publish(whole):
    publish = ("publish", "--name", "smoke")
    held = Held(whole, publish, "flowers102_study.publishing:collect")
    second = call(whole, "flowers102-study", *RUN, check=False)
    assert second.returncode == 2 and "is being worked on by another process" in second.stderr
    assert held.let_go() == 0, held.said
    for pipe in (held.there, held.go): pipe.unlink()
    (whole / "runs/smoke/index.html").unlink()
    held = Held(whole, RUN, "flowers102_study.page:write_page")
    second = call(whole, "flowers102-study", *publish, check=False)
    assert second.returncode == 2 and "is being worked on by another process" in second.stderr
    assert held.let_go() == 0, held.said
    assert "everything is as it was written" in call(whole, "flowers102-study", "verify", "--name",
                                                     "smoke").stdout
