"""The kernel of a stage's notebook is killed: the next run does what is missing, and no more."""
import shutil

import pytest
from conftest import call, copy_of_study
from faults import LONG
from test_runs import changed, stamps

# of each stage, a job that is taken away, so that something is left to do
MISSING = {"data": "audit", "prompts": "prompts", "augment": "augment",
           "baselines": "arms/qwen3-vl-4b.closed-qa", "sft": "arms/qwen3-vl-4b-sft",
           "classifier": "arms/qwen3-vl-4b-tower-head", "ablation": "arms/qwen3-vl-4b.brief",
           "hypotheses": "hypotheses", "resnet": "arms/siglip2-knn"}


@pytest.mark.parametrize("stage", [pytest.param(s, marks=[] if s == "data" else LONG) for s in MISSING])
def test_a_killed_kernel(smoke, tmp_path, fault, stage):
    study = copy_of_study(tmp_path)
    shutil.copytree(smoke / "runs", study / "runs")
    notebook = next((study / "nbs").glob(f"[0-9]*_{stage}.ipynb")).name
    shutil.rmtree(study / "runs/smoke" / MISSING[stage])
    before = stamps(study)
    # COLUMNS: an environment of its own, so that the kernel is one as users have
    again = lambda check=True: call(study, "flowers102-study", "run", stage, "--profile", "smoke",
                                    check=check, COLUMNS="100")
    fault(at="flowers102_study.core.launch:run_jobs", do="kill")
    told = again(check=False)
    fault()
    assert told.returncode == 1 and "kernel" in told.stderr.lower() and "Traceback" not in told.stderr
    assert "did not finish" in (study / "runs/smoke/notebooks" / notebook).read_text()
    again()
    assert changed(before, stamps(study)) - {notebook} == (
        {MISSING[stage].split("/")[-1]} & stamps(study).keys())
    told = call(study, "flowers102-study", "run", stage, "--profile", "smoke")
    assert "done before" in told.stdout
