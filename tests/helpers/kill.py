"""Kill a training job at random moments and see whether it ends with the same weights.

    python tests/helpers/kill.py 10 resnet     ten kills of the CNN's training
    python tests/helpers/kill.py 10 sft        ten kills of the fine-tuning; with `lora` of adapters
    python tests/helpers/kill.py 10 photos     the same with the recipe for photographs
"""
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from flowers102_study import baselines, data, prompts, resnet, sft
from flowers102_study.core.jobs import prepare
from flowers102_study.core.launch import run_jobs, start_lane
from flowers102_study.core.progress import Board
from flowers102_study.core.records import sha256
from flowers102_study.core.settings import open_run

# small, and with every setting of the profile `photos` that could forget something
PHOTOS = {"pocket.names": "photographs", "pocket.image_size": 32, "models.image_size": 32,
          "data.image_size": 40, "pocket.width": 48, "sft.optimizer": "muon", "sft.augment": True,
          "sft.color_jitter": .3, "data.center_crop": .8, "sft.label_smoothing": .05,
          "sft.auxiliary_weight": .3, "sft.paste_probability": .5}
SFT = (sft.train_job, "model.safetensors", "checkpoint-*/manifest.json", 12)
# overrides of the smoke profile, the job, its weights, what a whole checkpoint leaves, steps or epochs
# to the first one
STAGES = {"resnet": ({"data.pictures": 900, "resnet.epochs": 8, "resnet.compare": ["mixcut"],
                      "resnet.augmentation": "mixcut"}, lambda run: resnet.network_jobs(run)[0],
                     "model/model.safetensors", "*.sha256", 1),
          "sft": ({"sft.max_steps": 48, "sft.num_evals": 4}, *SFT),
          "photos": (PHOTOS | {"sft.max_steps": 48, "sft.num_evals": 4}, *SFT),
          "lora": ({"sft.max_steps": 48, "sft.num_evals": 4, "sft.method": "lora"}, sft.train_job,
                   "adapter_model.safetensors", "checkpoint-*/manifest.json", 12)}


def said(log: Path, job) -> list: # epochs or steps, in order
    return [int(line.split(" | ")[1].split("/")[0]) for line in log.read_text().splitlines()
            if line.startswith(f"» {job.name}")]


class Until(Board):
    "Tells when a job has come to a step."
    def __init__(self, step: int):
        super().__init__([])
        self.step, self.there = step, threading.Event()

    def take(self, line: str):
        if line.startswith("» ") and int(line.split(" | ")[1].split("/")[0]) >= self.step:
            self.there.set()


def killed(run, job, pattern: str, step: int) -> int: # whole checkpoints that there were
    "Start the training job and kill it when it has come to a step."
    prepare(job)
    run.logs.mkdir(parents=True, exist_ok=True)
    with open(run.logs / "kill.log", "a") as log:
        until = Until(step)
        child = start_lane(run, [job], "kill", log, until)
        assert until.there.wait(300), "the job did not come so far"
        os.killpg(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL, "the job had ended before it was killed"
        child.reader.join(5)
        return len(list(job.out.with_name(job.name + ".partial").glob(f"checkpoints/{pattern}")))


def main(times: int, stage: str = "resnet", seed: int = 0):
    overrides, job_of, weights, pattern, first = STAGES[stage]
    rng, root = random.Random(seed), Path(tempfile.mkdtemp(prefix="kill-"))
    shutil.copytree(Path(__file__).resolve().parents[2] / "nbs", root / "nbs")
    shutil.copy(Path(__file__).resolve().parents[2] / "settings.ini", root)
    os.chdir(root)
    run = open_run("smoke", "kill", overrides=overrides | {"launch.parallel_jobs": 1})
    run_jobs(run, [data.data_job(run)], "data")
    if stage != "resnet":
        for job in (prompts.prompts_job(run), baselines.world_job(run),
                    baselines.model_job(run, run.sft["base"])):
            run_jobs(run, [job], job.name)
    job = job_of(run)
    run_jobs(run, [job], "first")
    expected = sha256(job.out / weights)
    for number in range(times):
        shutil.rmtree(job.out)
        shutil.rmtree(run.logs)
        last = run.sft["max_steps"] if stage != "resnet" else run.resnet["epochs"]
        # an epoch of the CNN tells of itself when its checkpoint is written
        step = (rng.randrange(first + 1, last * 3 // 4) if number % 2 == 0
                else rng.randrange(1, first + 1))
        there = killed(run, job, pattern, step)
        run_jobs(run, [job], "again")
        again = said(run.logs / "again.log", job)
        if there: assert min(again) > 1, "it began anew instead of going on"
        if number % 2 == 0: assert there
        same = sha256(job.out / weights) == expected
        print(f"kill {number + 1} of {stage}: at {step}, {there} checkpoint(s) there, went on at "
              f"{min(again)}: {'the same weights' if same else 'OTHER WEIGHTS'}", flush=True)
        assert same
    shutil.rmtree(root)


if __name__ == "__main__": main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, *sys.argv[2:3])
