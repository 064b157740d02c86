"""How much faster the pocket's trainings are in the environment that the launcher gives its jobs.

One JSON line a training: the CNN and a language model with its tower, on two threads. Each repeat is
a process of its own, with and without the settings in turn; the weights after the last step must be
the same bytes.
"""
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time

STEPS, REPEATS = 20, 3


def train_network() -> tuple: # (seconds of a step, parameters)
    "Train the CNN of `photos` for some steps."
    import numpy as np
    import torch
    from accelerate import Accelerator
    from flowers102_study.core.settings import open_run
    from flowers102_study.pictures.views import training_batch
    from flowers102_study.resnet import build_model, tensors, train_epoch, wrap
    block = open_run("photos", "benchmark").resnet
    torch.manual_seed(0)
    model, optimizer = wrap(Accelerator(cpu=True), build_model(block, [str(k) for k in range(102)]),
                            block)
    pixels, labels = torch.randint(256, (512, 92, 92, 3), dtype=torch.uint8), torch.randint(102, (512,))
    average, rng = [t.detach().clone() for t in tensors(model)], np.random.default_rng(0)
    make = lambda rows: training_batch(pixels, labels, rows, 102, block, 0, 0)
    def steps(count):
        batches = [rng.integers(0, 512, block["batch_size"]) for _ in range(count)]
        train_epoch(Accelerator(cpu=True), model, optimizer, average, batches, make, 0, 100, block)
    return timed(steps), model.parameters()


def train_language_model() -> tuple: # (seconds of a step, parameters)
    "Train Qwen3-VL's stand-in of `photos` for some steps."
    import numpy as np
    from flowers102_study.vlm.pocket_models import SMALL, build
    from flowers102_study.vlm.pretraining import step
    from flowers102_study.core.settings import open_run
    from flowers102_study.pictures.sources import oxford_names
    from flowers102_study.vlm.training import answer_loss, optimizers, taught
    block, names = open_run("photos", "benchmark").pocket, oxford_names()
    vlm = build("qwen3-vl-4b", names, 0, {k: block[k] for k in SMALL})
    named, rng = list(vlm.net.named_parameters()), np.random.default_rng(0)
    both = optimizers(named, block["learning_rate"])
    def steps(count):
        for _ in range(count):
            pictures = rng.integers(0, 256, (64, block["image_size"], block["image_size"], 3), np.uint8)
            answers = [names[k] for k in rng.integers(0, 102, 64)]
            batch = taught(vlm, pictures, ["Which flower is this?"] * 64, answers)
            labels = batch.pop("labels")
            step(both, answer_loss(vlm.net(**batch), labels), [p for _, p in named], .5)
    return timed(steps), vlm.net.parameters()


def timed(steps) -> float: # seconds of one
    "Take some steps to warm up, then time the rest."
    steps(5)
    start = time.perf_counter()
    steps(STEPS)
    return (time.perf_counter() - start) / STEPS


def child(name: str):
    "Train once, and say how long a step took and what the weights became."
    import torch
    torch.set_num_threads(2)
    seconds, parameters = TRAININGS[name]()
    content = b"".join(p.detach().numpy().tobytes() for p in parameters)
    print(json.dumps([seconds, hashlib.sha256(content).hexdigest()]))


def measure(name: str) -> dict:
    "Let both environments take turns."
    from flowers102_study.core.launch import environment
    from flowers102_study.core.settings import open_run
    ours = environment(open_run("photos", "benchmark"), 2)
    plain = {k: v for k, v in ours.items() if not k.startswith(("MALLOC", "GOMP"))}
    ways = {"passive threads, memory returned": plain | {"OMP_WAIT_POLICY": "passive"},
            "PyTorch's own": plain, "ours": ours}
    seconds, weights = {k: [] for k in ways}, set()
    for _ in range(REPEATS):
        for way, environ in ways.items():
            printed = subprocess.run([sys.executable, __file__, name], env=environ, capture_output=True,
                                     text=True, check=True).stdout
            took, content = json.loads(printed.splitlines()[-1])
            seconds[way].append(took)
            weights.add(content)
    middle = {way: statistics.median(took) for way, took in seconds.items()}
    return {"training": name, "seconds a step": {k: round(v, 3) for k, v in middle.items()},
            "ratio": {k: round(v / middle["ours"], 2) for k, v in middle.items() if k != "ours"},
            "equal": len(weights) == 1}


TRAININGS = {"network": train_network, "language model": train_language_model}

if __name__ == "__main__":
    if len(sys.argv) > 1: child(sys.argv[1])
    elif (os.cpu_count() or 1) < 2:
        sys.exit("two cores are needed: it is about threads that wait for one another")
    else:
        for name in TRAININGS:
            found = measure(name)
            print(json.dumps(found), flush=True)
            if not found["equal"]: sys.exit("the weights differ")
