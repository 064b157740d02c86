"""What more processes bring: fine-tuning, answering and features on one, two and four of them (gloo).

    python benchmarks/processes.py [FIGURE.png]

One JSON line a job. The same jobs take turns, each process with one thread; seconds are those from the
notebook's call to a sealed record, starting processes included. Losses and features must agree to 1e-4,
and answers must be the same.
"""
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/helpers")]
REPEATS, WORLDS = 3, (1, 2, 4)
SETTINGS = {"data.species": 30, "data.pictures": 3600, "data.test_per_class": 60, "data.image_size": 48,
            "baselines.batch_size": 64, "sft.batch_size": 64, "sft.micro_batch_size": 16,
            "sft.max_steps": 40, "sft.num_evals": 1, "classifier.batch_size": 64,
            "launch.parallel_jobs": 1}


def jobs_of(run) -> dict: # {what: Job}
    from flowers102_study import baselines, classifier, sft
    return {"fine-tuning": sft.train_job(run),
            "answering and ranking": baselines.question_job(run, "qwen3-vl-4b"),
            "features": classifier.features_job(run, "qwen3-vl-4b")}


def result_of(what: str, job): # what must be the same
    "Read what a job has made."
    if what == "fine-tuning":
        return np.array([h["loss"] for h in json.loads((job.out / "history.json").read_text())
                         if "loss" in h])
    if what == "features": return np.load(job.out / "test.npy")
    import pandas as pd
    frame = pd.read_parquet(job.out / "predictions.parquet").sort_values(["split", "image_id"])
    return np.stack([*frame.log_probs, np.resize(frame.prediction, len(frame.log_probs.iloc[0]))])


def made(world: int) -> dict: # {what: (seconds, result)}
    "Run the three jobs on so many processes."
    from flowers102_study.core.launch import run_jobs
    from flowers102_study.core.settings import open_run
    run = open_run("smoke", f"processes-{world}", overrides=SETTINGS | {"launch.num_processes": world})
    found, jobs = {}, jobs_of(run)
    for job in jobs.values(): shutil.rmtree(job.out, ignore_errors=True)
    for what, job in jobs.items():
        begun = time.perf_counter()
        run_jobs(run, [job], "benchmark")
        found[what] = time.perf_counter() - begun, result_of(what, job)
    return found


def prepared():
    "Make the data, the questions and the model, of both runs."
    from flowers102_study import baselines, data, prompts
    from flowers102_study.core.launch import run_jobs
    from flowers102_study.core.settings import open_run
    for world in WORLDS:
        run = open_run("smoke", f"processes-{world}", overrides=SETTINGS)
        before = [data.data_job(run), prompts.prompts_job(run), baselines.world_job(run),
                  baselines.model_job(run, "qwen3-vl-4b")]
        run_jobs(run, before, "before")


def say(what: str, world: int, turns: list) -> bool: # whether results agree
    "Print what several processes bring."
    ratios = [turn[1][what][0] / turn[world][what][0] for turn in turns]
    apart = max(float(abs(turn[1][what][1] - turn[world][what][1]).max()) for turn in turns)
    alone, beside = (statistics.median(turn[k][what][0] for turn in turns) for k in (1, world))
    print(json.dumps({"name": f"P7: {world} processes against one, {what}",
                      "goal": 1.6 if world == 2 else None,
                      "ratio": round(statistics.median(ratios), 2), "equal": apart < 1e-4,
                      "n": len(turns),
                      "note": f"one thread each, {os.cpu_count()} cores; {alone:.1f} s on one, "
                              f"{beside:.1f} s on {world}; ratios {min(ratios):.2f} to "
                              f"{max(ratios):.2f}; results differ by at most {apart:.0e}"}), flush=True)
    return apart < 1e-4


def drawn(turns: list, path: Path):
    "Draw the seconds of each job: the median as a line, each turn as a mark."
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from flowers102_study.scores.figures import COLOURS, MARKERS, WIDTH, style
    style()
    fig, ax = plt.subplots(figsize=(.6 * WIDTH, 2.4))
    for what, colour, marker in zip(turns[0][1], COLOURS, MARKERS):
        seconds = np.array([[turn[world][what][0] for world in WORLDS] for turn in turns])
        middle = np.median(seconds, 0)
        ax.plot(WORLDS, middle, color=colour, lw=1.2)
        ax.plot(np.tile(WORLDS, len(turns)), seconds.ravel(), marker, color=colour, ms=3.5)
        ax.annotate(what, (WORLDS[-1], middle[-1]), (6, 0), textcoords="offset points", va="center",
                    color=colour, fontsize=7)
    ax.set(xlabel=f"processes, on {os.cpu_count()} cores", ylabel="seconds", xticks=WORLDS)
    ax.set_ylim(0)
    fig.savefig(path, dpi=160, bbox_inches="tight", facecolor="white", metadata={"Software": None})


def main() -> bool:
    from conftest import copy_of_study
    home = Path.cwd()
    os.chdir(copy_of_study(Path(tempfile.mkdtemp())))
    sys.stdout, out = open(os.devnull, "w"), sys.stdout
    prepared()
    turns = [{world: made(world) for world in WORLDS} for _ in range(REPEATS)]
    sys.stdout, held = out, True
    for world in WORLDS[1:]:
        for what in turns[0][1]: held &= say(what, world, turns)
    if len(sys.argv) > 1: drawn(turns, home / sys.argv[1])
    return held


if __name__ == "__main__":
    if (os.cpu_count() or 1) < 2: sys.exit("two cores are needed")
    sys.exit(not main())
