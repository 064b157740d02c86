"""How seconds and memory grow: with pictures, classes, and the width of a model.

    python benchmarks/growth.py [FIGURE.png]

One JSON line for each kind of work: `ratio` is the exponent e of seconds ~ size^e, fitted over the
three largest sizes; 1 is linear. The first call's imports, about a second, count. Every point is a
process of its own, so that its peak is its own; what it held before the work began is taken off. The
figure has a row for each kind of growth.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/helpers")]
QUESTION = "Which flower is this? Answer with its name only."
GROUPS = { # {panel: ({work: goal}, sizes)}
    "pictures": ({"reading": 1, "near-duplicates": 2, "a linear head": 1, "neighbours": 2,
                  "a paired test": 1}, (1000, 3000, 10_000, 30_000, 100_000)),
    "classes": ({"a ranked picture": 1, "reading an answer": 1, "a head for all classes": 1},
                (10, 30, 100, 300, 1000)),
    "width": ({"a training step": 2, "ranking a picture": 2}, (96, 192, 384, 768))}
LEFT_OUT = {("reading", 100_000): "twelve minutes of drawing", ("reading", 30_000): "four"}


def names_of(count: int) -> list:
    from flowers102_study.pictures.drawn import species
    return [kind.name for kind in species(count)]


def vlm_of(count: int, width: int = 96):
    "Make the pocket's Qwen3-VL with random weights."
    from flowers102_study.vlm.pocket_models import build
    names = names_of(count)
    sizes = {"width": width, "image_size": 48, "language_layers": 4, "vision_layers": 4}
    vlm = build("qwen3-vl-4b", names + [QUESTION] * 5, 0, sizes)
    vlm.net.eval()
    return vlm, names


def pictures(count: int): return np.random.default_rng(0).integers(0, 256, (count, 48, 48, 3), np.uint8)


def ranked(count: int, width: int = 96): # a function to be timed
    from flowers102_study.vlm.asking import examine
    vlm, names = vlm_of(count, width)
    examine(vlm, pictures(2), [QUESTION] * 2, names, 8)
    return lambda: examine(vlm, pictures(16), [QUESTION] * 16, names, 8)


def step(width: int):
    import torch
    from flowers102_study.vlm.training import answer_loss, taught
    vlm, names = vlm_of(102, width)
    batch = taught(vlm, pictures(16), [QUESTION] * 16, names[:16])
    labels = batch.pop("labels")
    vlm.net.train()
    optimizer = torch.optim.AdamW(vlm.net.parameters(), fused=True)
    def take():
        for _ in range(3):
            answer_loss(vlm.net(**batch), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return take


def read(count: int):
    "Draw, check, hash and store pictures: the data job."
    from conftest import copy_of_study
    from flowers102_study import data
    from flowers102_study.core.jobs import prepare
    from flowers102_study.core.settings import open_run
    from flowers102_study.core.work import Work
    os.chdir(copy_of_study(Path(tempfile.mkdtemp())))
    run = open_run("pocket", "growth", overrides={"data.pictures": max(count, 1200), "data.species": 30})
    job = data.data_job(run)
    prepare(job)
    return lambda: data.prepare_data(Work(job.spec, {}, job.out.with_name("data.partial")))


def near(count: int):
    from flowers102_study.data import near_pairs
    hashes = np.random.default_rng(0).integers(0, 2 ** 64, (count, 2), dtype=np.uint64)
    return lambda: near_pairs(hashes[:count // 8], hashes[:, 0], 12)


def head(count: int, classes: int):
    from flowers102_study.classifier import solve
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, count)
    x = (rng.normal(size=(classes, 96))[y] + 2.5 * rng.normal(size=(count, 96))).astype(np.float32)
    return lambda: list(solve(x, y, [.01], classes))


def votes(count: int):
    from flowers102_study.vlm.contrastive import nearest_votes
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(count, 64)).astype(np.float32), rng.integers(0, 102, count)
    return lambda: nearest_votes(x, y, x[:count // 8], 5, 102)


def tested(count: int):
    from flowers102_study.scores.paired import difference
    one, two = np.random.default_rng(0).random((2, count)) < .5
    return lambda: difference(one, two)


def answers(count: int):
    from flowers102_study.scores.answers import Names
    names = names_of(count)
    known = Names(names)
    said = [f"This is a {names[k % count]}, I think." for k in range(300)]
    return lambda: [known.read_named(text) for text in said]


WORK = {"reading": read, "near-duplicates": near, "a linear head": lambda n: head(n, 102),
        "neighbours": votes, "a paired test": tested, "a ranked picture": ranked,
        "reading an answer": answers, "a head for all classes": lambda k: head(20_000, k),
        "a training step": step, "ranking a picture": lambda width: ranked(102, width)}


def held(field: str) -> int: # bytes; field: VmRSS or VmHWM
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) << 10


def child(work: str, size: int):
    "Do one piece of work, and print its seconds and bytes."
    import torch
    torch.set_num_threads(1)
    do = WORK[work](size)
    before, begun = held("VmRSS"), time.perf_counter()
    do()
    print(json.dumps([time.perf_counter() - begun, max(0, held("VmHWM") - before)]))


def measured(work: str, sizes: tuple) -> dict: # {size: (seconds, bytes)}
    found = {}
    for size in sizes:
        if (work, size) in LEFT_OUT: continue
        done = subprocess.run([sys.executable, __file__, "child", work, str(size)], text=True,
                              capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1",
                                                                     "TRANSFORMERS_VERBOSITY": "error"})
        if done.returncode: sys.exit(f"{work}, {size}\n{done.stderr[-3000:]}")
        found[size] = tuple(json.loads(done.stdout.splitlines()[-1]))
    return found


def exponent(points: dict, which: int) -> float: # which: 0 seconds, 1 bytes
    "Fit the slope over the three largest sizes."
    sizes = sorted(points)[-3:]
    values = [max(points[size][which], 1e-9) for size in sizes]
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def say(group: str, work: str, goal: float, points: dict) -> bool: # whether it grows no faster
    seconds, memory = exponent(points, 0), exponent(points, 1)
    each = ", ".join(f"{size:,}: {s:.2f} s, {b / 1e6:,.0f} MB" for size, (s, b) in points.items())
    print(json.dumps({"name": f"growth of {work} with {group}: exponent of seconds", "goal": goal,
                      "ratio": round(seconds, 2), "equal": seconds < goal + .25, "n": len(points),
                      "note": f"memory: {memory:.2f}; {each}; one thread"}), flush=True)
    return seconds < goal + .25


def drawn(found: dict, path: Path): # found: {what grows: {work: points}}
    "Draw a row for each kind of growth: seconds, and memory beside them."
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from flowers102_study.scores.figures import COLOURS, MARKERS, WIDTH, style
    style()
    fig, rows = plt.subplots(len(found), 2, figsize=(WIDTH, 2.1 * len(found)))
    for (seconds, memory), (group, works) in zip(rows, found.items()):
        for (work, points), colour, marker in zip(works.items(), COLOURS, MARKERS):
            sizes = sorted(points)
            exponents = [round(exponent(points, k), 1) + 0. for k in (0, 1)] # no -0.0
            label = f"{work} ({exponents[0]}, {exponents[1]})"
            for ax, which, unit in ((seconds, 0, 1), (memory, 1, 1e6)):
                ax.loglog(sizes, [max(points[s][which] / unit, .1 if which else .01) for s in sizes],
                          color=colour, marker=marker, ms=3.5, lw=1.2, label=label)
        for ax, unit in ((seconds, "s"), (memory, "MB")):
            ax.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=6)
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            ax.minorticks_off()
            ax.set(xlabel=group, ylabel=unit)
        memory.legend(loc="center left", bbox_to_anchor=(1, .5), fontsize=7,
                      title="exponents: seconds, memory", title_fontsize=7)
    rows[0, 0].set_title("seconds")
    rows[0, 1].set_title("peak memory beyond the libraries', 0.1 MB or more")
    fig.savefig(path, dpi=160, bbox_inches="tight", facecolor="white", metadata={"Software": None})


def main():
    found, held = {}, True
    for group, (works, sizes) in GROUPS.items():
        found[group] = {}
        for work, goal in works.items():
            found[group][work] = measured(work, sizes)
            held &= say(group, work, goal, found[group][work])
    if len(sys.argv) > 1: drawn(found, Path(sys.argv[1]))
    return held


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]: child(sys.argv[2], int(sys.argv[3]))
    else: sys.exit(not main())
