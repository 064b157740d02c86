"""The study beside what others would use: lmms-eval, and transformers' Trainer as its examples use it.

    make bench PEERS=1          sets up .peer first: gigabytes

One JSON line a comparison, of whole commands on a finished `pocket` run's pictures and models, in turn
and with one thread each: answering (P16), answering and ranking against answering alone (P16b), a whole
fine-tuning (P17), the CNN's training (P20). The peers are beside this file, in `stock`.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/helpers")]
PEER, STOCK, REPEATS = ROOT / ".peer/bin", ROOT / "benchmarks/stock", int(os.environ.get("REPEATS", 3))
RUN = Path(os.environ.get("RUN", ROOT / "runs/pocket"))
SYSTEM, SIDE, STEPS, BATCH = "You are a helpful assistant.", 64, 60, 64
ONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
ASKED = ["--set", "launch.parallel_jobs=1", "--set", "launch.threads_alone=1"]


def timed(words: list, folder: Path, **environ) -> tuple: # (seconds, what it printed)
    "Run a command; end with its words where it fails."
    begun = time.perf_counter()
    done = subprocess.run([*map(str, words)], cwd=folder, env=os.environ | ONE | environ,
                          capture_output=True, text=True)
    if done.returncode: sys.exit(f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return time.perf_counter() - begun, done.stdout + done.stderr


def say(name: str, ours: list, theirs: list, goal: float, equal, note: str):
    "Print a comparison: three runs each."
    spread = lambda seconds: " / ".join(f"{s:.1f}" for s in np.quantile(seconds, [0, .5, 1]))
    print(json.dumps({"name": name, "ratio": round(float(np.median(theirs) / np.median(ours)), 2),
                      "goal": goal, "equal": equal, "n": len(ours),
                      "note": f"{note}; minimum, median, maximum in seconds: ours {spread(ours)}, "
                              f"theirs {spread(theirs)}; one thread each"}), flush=True)


def study(folder: Path, *words) -> tuple:
    "Call the study's command line."
    return timed([Path(sys.executable).with_name("flowers102-study"), *words], folder, COLUMNS="200")


def prepared() -> tuple: # (a copy of the study with the run's data, the base's folder)
    "Copy what the comparisons read, so that the run stays as it is."
    from conftest import copy_of_study
    folder = copy_of_study(Path(tempfile.mkdtemp()))
    shutil.copytree(RUN.parent / ".pocket", folder / "runs/.pocket")
    # as lmms-eval has it
    keys = [f"models.image_size={SIDE}", f"models.system_prompt={SYSTEM}", "models.dtype=bfloat16"]
    study(folder, "run", "data", "prompts", "--name", "peer",
          *(word for key in keys for word in ("--set", key)), *ASKED)
    return folder, next((folder / "runs/.pocket").glob("qwen3-vl-4b-*"))


def lmms_eval(folder: Path, base: Path, task: str) -> tuple: # (seconds, seconds of answering, answers)
    "Ask lmms-eval."
    shutil.rmtree(folder / "runs/peer/out", ignore_errors=True)
    seconds, printed = timed(
        [PEER / "lmms-eval", "--model", "qwen3_vl", "--model_args",
         f"pretrained={base},device=cpu,device_map=cpu,attn_implementation=sdpa", "--tasks",
         f"flowers102_{task}", "--include_path", ROOT / "flowers102_study/lmms_eval", "--batch_size", 64,
         "--log_samples", "--output_path", "out"], folder / "runs/peer", FLOWERS102_SIDE=str(SIDE))
    from flowers102_study.core.dataset import read_index
    from flowers102_study.scores.peers import read_samples
    clock = re.findall(r"Model Responding: 100%.*?\[(\d+):(\d+)<", printed)
    answering = 60 * int(clock[-1][0]) + int(clock[-1][1]) if clock else None
    samples = read_samples(next((folder / "runs/peer/out").rglob("*_samples_*.jsonl")),
                           read_index(folder / "runs/peer/data", "test").image_id.tolist())
    return seconds, answering, dict(zip(samples.image_id, samples.answer))


def evaluated(folder: Path, base: Path, task: str) -> tuple: # (seconds, the job's seconds, answers)
    "Ask our own command."
    import pandas as pd
    arm = folder / "runs/peer/arms" / ("peer" if task == "open-qa" else f"peer.{task}")
    shutil.rmtree(arm, ignore_errors=True)
    seconds, _ = study(folder, "evaluate", "--model", base, "--name", "peer", "--arm", "peer",
                       "--task", task)
    frame = pd.read_parquet(arm / "predictions.parquet")
    measured = json.loads((arm / "result.json").read_text())["measured"]["seconds"]
    tested = frame[frame.split == "test"]
    return seconds, measured, dict(zip(tested.image_id, tested.answer))


def compare_answers(folder: Path, base: Path):
    "P16 on the closed questions, which nobody ranks; P16b on the open ones, which only we rank."
    ranking = "P16b: answering 1,530 and ranking all names, against lmms-eval answering 1,020"
    for task, name, goal in (("closed-qa", "P16: answering 1,020 pictures, whole command", 3),
                             ("open-qa", ranking, 1)):
        turns = [(evaluated(folder, base, task), lmms_eval(folder, base, task.replace("-", "_")))
                 for _ in range(REPEATS)]
        (ours, inside, mine), (theirs, answering, yours) = ([list(part) for part in zip(*side)]
                                                          for side in zip(*turns))
        alike = sum(answer.strip() == yours[0][image].strip() for image, answer in mine[0].items())
        note = (f"{alike:,} of {len(mine[0]):,} answers are the same; ours answers the validation "
                "pictures, too")
        say(name, ours, theirs, goal, alike >= .98 * len(mine[0]), note)
        if task == "closed-qa":
            say("P16: the same without start-up: our job with loading, their answering", inside,
                answering, 1.5, alike >= .98 * len(mine[0]), note)


def compare_tunings(folder: Path, base: Path):
    "P17: data to saved model, the same pictures in the same order."
    from flowers102_study.vlm.training import line_up
    train = sum(json.loads(line)["split"] == "train"
                for line in (folder / "runs/peer/prompts/open-qa.jsonl").read_text().splitlines())
    order, out = folder / "order.json", folder / "stock"
    order.write_text(json.dumps(line_up(train, STEPS, BATCH, 42).tolist()))
    keys = {"sft.optimizer": "adamw", "sft.auxiliary_weight": 0., "sft.max_steps": STEPS,
            "sft.learning_rate": .002, "sft.num_evals": 1, "models.image_size": 48}
    turns = []
    for number in range(REPEATS):
        study(folder, "run", "data", "prompts", "--name", f"tuned-{number}", *ASKED,
              *(word for key, value in keys.items() for word in ("--set", f"{key}={value}")))
        code = ("from flowers102_study import sft; from flowers102_study.cli import opened_run; "
                "from flowers102_study.core.launch import run_jobs; "
                f"run = opened_run('tuned-{number}'); run_jobs(run, [sft.train_job(run)], 'sft')")
        ours, _ = timed([sys.executable, "-c", code], folder)
        run = folder / f"runs/tuned-{number}"
        theirs, _ = timed([PEER / "python", STOCK / "sft.py", run / "data/dataset", run / "prompts",
                           base, order, out, STEPS, BATCH, .002, round(.1 * STEPS), .05], folder)
        history = json.loads((run / "models/qwen3-vl-4b-sft/history.json").read_text())
        turns.append((ours, theirs, [h["loss"] for h in history if "loss" in h],
                      json.loads((out / "losses.json").read_text())))
    ours, theirs, mine, yours = zip(*turns)
    apart = max(abs(np.array(mine[0]) - np.array(yours[0])))
    say("P17: a whole fine-tuning against transformers' Trainer", ours, theirs, 1.8, bool(apart < .02),
        f"{STEPS} steps of {BATCH} pictures; losses differ by at most {apart:.4f}; ours asks the "
        "validation pictures once, too")


def compare_networks(folder: Path):
    "P20: the CNN, trained and tested."
    from flowers102_study.core.settings import read_profile
    block, turns = read_profile("pocket")["resnet"], []
    for number in range(REPEATS):
        study(folder, "run", "data", "--name", f"network-{number}", *ASKED)
        code = ("from flowers102_study import resnet; from flowers102_study.cli import opened_run; "
                "from flowers102_study.core.launch import run_jobs; "
                f"run = opened_run('network-{number}'); "
                "run_jobs(run, resnet.network_jobs(run)[:1], 'cnn')")
        ours, _ = timed([sys.executable, "-c", code], folder)
        run, out = folder / f"runs/network-{number}", folder / "cnn"
        theirs, _ = timed([PEER / "python", STOCK / "cnn.py", run / "data/dataset", block["width"], out,
                           block["epochs"], block["batch_size"], block["learning_rate"],
                           block["warmup_ratio"], block["weight_decay"], block["label_smoothing"],
                           block["image_size"]], folder)
        mine = json.loads((run / "arms/resnet50/result.json").read_text())
        turns.append((ours, theirs, mine["accuracy"], json.loads((out / "right.json").read_text())))
    ours, theirs, mine, yours = zip(*turns)
    right, n = yours[0]
    apart = abs(mine[0] - right / n)
    say("P20: the CNN's training against transformers' Trainer", ours, theirs, 1.5, bool(apart < .04),
        f"accuracy {100 * mine[0]:.1f} % here, {100 * right / n:.1f} % there, n = {n:,}; equal: within "
        "four points")


if __name__ == "__main__":
    if not os.environ.get("PEERS"): sys.exit(print("P16, P17, P20: make bench PEERS=1 measures them"))
    if not (RUN / "data").is_dir(): sys.exit("peers want a finished run: make study")
    folder, base = prepared()
    chosen = sys.argv[1:] or ["answers", "tunings", "networks"]
    if "answers" in chosen: compare_answers(folder, base)
    if "tunings" in chosen: compare_tunings(folder, base)
    if "networks" in chosen: compare_networks(folder)
