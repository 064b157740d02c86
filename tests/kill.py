"""Kill a training job at random moments and see whether it ends with the same weights.

    python tests/kill.py 10        ten kills, half of them after the first checkpoint
"""
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from flowers102_study import data, resnet
from flowers102_study.core.launch import Board, prepare, run_jobs, start_lane
from flowers102_study.core.records import sha256
from flowers102_study.core.settings import open_run

OVERRIDES = {"data.drawn": 900, "resnet.epochs": 8, "resnet.compare": ["mixcut"], "resnet.mode": "mixcut", "launch.lanes": 1}


def weights(run) -> str: return sha256(run.arm("resnet50") / "model" / "model.safetensors")


def epochs_said(run) -> list: # of all lives of the job, in order
    lines = [line for log in ("kill", "resnet") if (run.logs / f"{log}.log").exists() for line in (run.logs / f"{log}.log").read_text().splitlines()]
    return [int(line.split(" | ")[1].split("/")[0]) for line in lines if line.startswith("» resnet50")]


def killed(run, after_checkpoint: bool, first: float, rng: random.Random) -> tuple: # (seconds until the kill, checkpoints there were)
    "Start the training job and kill it, before its first checkpoint (about `first` seconds) or some time after it."
    job, = resnet.jobs(run)
    prepare(job)
    run.logs.mkdir(parents=True, exist_ok=True)
    with open(run.logs / "kill.log", "a") as log:
        child, started = start_lane(run, [job], "kill", log, Board([])), time.time()
        checkpoints = lambda: len(list(run.arm("resnet50.partial").glob("checkpoints/*.sha256")))
        if after_checkpoint:
            while not checkpoints() and child.poll() is None: time.sleep(.01)
            time.sleep(rng.uniform(0, 1.5))
        else: time.sleep(rng.uniform(.3, .95) * first)
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "the job had ended before it was killed"
        there = checkpoints()
        child.reader.join(5)
    return time.time() - started, there


def main(times: int, seed: int = 0):
    rng, root = random.Random(seed), Path(tempfile.mkdtemp(prefix="kill-"))
    shutil.copytree(Path(__file__).resolve().parents[1] / "nbs", root / "nbs")
    shutil.copy(Path(__file__).resolve().parents[1] / "settings.ini", root)
    os.chdir(root)
    run = open_run("smoke", "kill", overrides=OVERRIDES)
    run_jobs(run, [data.data_job(run)], "data")
    run_jobs(run, resnet.jobs(run), "resnet")
    expected, first = weights(run), 4.
    for number in range(times):
        for old in (run.folder / "arms", run.logs): shutil.rmtree(old)
        seconds, there = killed(run, number % 2 == 0, first, rng)
        newest = max(epochs_said(run), default=0)
        (run.logs / "kill.log").unlink()
        run_jobs(run, resnet.jobs(run), "resnet")
        if there: assert min(epochs_said(run)) >= max(2, newest), "it began anew instead of going on" # a checkpoint is written just before its epoch is said
        if number % 2 == 0: assert there
        same = weights(run) == expected
        print(f"kill {number + 1}: after {seconds:.1f} s, {there} checkpoint(s) there: {'the same weights' if same else 'OTHER WEIGHTS'}", flush=True)
        assert same
    shutil.rmtree(root)


if __name__ == "__main__": main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
