"""A job that is killed in the middle ends with the bytes of one that was not."""
import os
import random
import re
import shutil

import pytest
from conftest import copy_of_study
from faults import LONG
from flowers102_study import baselines, classifier, resnet, sft
from flowers102_study.core.launch import run_jobs
from flowers102_study.core.records import fingerprint
from flowers102_study.core.settings import open_run

# twenty steps to a checkpoint, or one part a batch of few pictures
SETTINGS = {"launch.parallel_jobs": 1, "resnet.compare": ["mixcut"], "resnet.augmentation": "mixcut",
            "resnet.batch_size": 4, "resnet.epochs": 4, "sft.max_steps": 60, "sft.num_evals": 3,
            "sft.micro_batch_size": 8, "classifier.joint_steps": 60, "classifier.batch_size": 2,
            "baselines.batch_size": 1}
LONGER = {"pocket.vision_steps": 40, "pocket.language_steps": 40}
STEP = "transformers.trainer:Trainer.training_step"
PART = "flowers102_study.vlm.shards:write_part"
BEHIND = [k + more for k in (20, 40) for more in range(16, 20)] # steps behind a checkpoint
# job, point, at which calls
KINDS = {"cnn": (lambda run: resnet.network_jobs(run)[0], "flowers102_study.vlm.cnn:step_once",
                 [k + more for k in (24, 48, 72) for more in range(16, 24)]),
         "full": (sft.train_job, STEP, BEHIND),
         "lora": (lambda run: sft.train_job(run.changed({"sft.method": "lora"})), STEP, BEHIND),
         "together": (classifier.together_job, STEP, BEHIND),
         "pretraining": (lambda run: baselines.model_job(run.changed(LONGER), "qwen3-vl-4b"),
                         "flowers102_study.vlm.pretraining:step", range(16, 80)),
         "asking": (lambda run: baselines.question_job(run, "qwen3-vl-4b"), PART, (16, 17)),
         "features": (lambda run: classifier.features_job(run, "qwen3-vl-4b"), PART, range(16, 32))}


@pytest.fixture(scope="module")
def run(tmp_path_factory, smoke): # with what the smoke run has made, as far as it is of use
    study, before = copy_of_study(tmp_path_factory.mktemp("kills")), os.getcwd()
    shutil.copytree(smoke / "runs", study / "runs", ignore=shutil.ignore_patterns("arms", "models"))
    os.chdir(study)
    yield open_run("smoke", overrides=SETTINGS)
    os.chdir(before)


def with_inputs(run, job):
    "Run what a job reads."
    for needed in job.inputs.values():
        with_inputs(run, needed)
        run_jobs(run, [needed], "before")


FIRST = {} # {(kind, processes): fingerprint of the job that nobody killed}


def undisturbed(run, job, case: tuple) -> str:
    "Run a job to its end, once for each kind and number of processes."
    if case not in FIRST:
        shutil.rmtree(job.out, ignore_errors=True)
        with_inputs(run, job)
        run_jobs(run, [job], "first")
        FIRST[case] = fingerprint(job.out)
    shutil.rmtree(job.out, ignore_errors=True)
    return FIRST[case]


SHORT = [("cnn", 1, 0), ("full", 1, 0)]
CASES = [(kind, processes, number) for kind in KINDS for processes in (1, 2) for number in range(2)]


@pytest.mark.parametrize("kind, processes, number",
                         [pytest.param(*case, marks=[] if case in SHORT else LONG) for case in CASES])
def test_killed(run, fault, kind, processes, number):
    job_of, point, calls = KINDS[kind]
    run = run.changed({"launch.num_processes": processes})
    job, drawn = job_of(run), random.Random(f"{kind} {processes} {number}")
    expected = undisturbed(run, job, (kind, processes))
    # what only the first process does has one that can be killed
    rank = drawn.randrange(processes) if kind not in ("pretraining",) else 0
    fault(at=point, call=drawn.choice(calls), do="kill", rank=rank)
    log = run.logs / "killed.log"
    log.unlink(missing_ok=True)
    with pytest.raises(RuntimeError, match="ended with status"): run_jobs(run, [job], "killed")
    fault()
    assert job.out.with_name(job.name + ".partial").exists() and not job.out.exists()
    (run.logs / "again.log").unlink(missing_ok=True)
    run_jobs(run, [job], "again")
    steps = re.findall(r"^» .* \| (\d+)/", (run.logs / "again.log").read_text(), re.M)
    # parts are counted from the first, whoever made them
    if point not in (PART, KINDS["pretraining"][1]): assert int(steps[0]) > 1, "it began anew"
    assert fingerprint(job.out) == expected
