"""One look at a picture against separate calls, and answers in batches against one at a time.

One JSON line a comparison. Both ways take turns on the same pictures, and must say and score the same:
the pocket's Qwen3-VL at 48 pixels, trained where a run has made it (its answers are names, mostly), else
with random weights (they are babble); and a small one with random weights at 448.
"""
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from ranking import QUESTION, SIZE, small
from training import say, take_turns
from flowers102_study.vlm.asking import examine
from flowers102_study.vlm.models import answer, load
from flowers102_study.vlm.pocket_models import build, tokenizer
from flowers102_study.vlm.ranking import rank
from flowers102_study.pictures.sources import oxford_names

NAMES, ROOT = oxford_names(), Path(__file__).resolve().parents[1]


def sum_of(answers, likelihood=None) -> float: # equal where both are, to three decimals
    "Sum up what was found."
    scores = b"" if likelihood is None else np.round(likelihood, 3).tobytes()
    return float(zlib.crc32("|".join(answers).encode() + scores))


def pictures(count: int, size: int):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def pocket_model() -> tuple: # (VLM, names, pictures, what it is)
    "Open the model of the run `pocket`, or make one."
    made, run = sorted((ROOT / "runs/.pocket").glob("qwen3-vl-4b-*")), ROOT / "runs/pocket/data"
    if made and run.is_dir():
        names = json.loads((run / "report.json").read_text())["classes"]
        # the largest vocabulary is the longest trained one's: smoke's knows pieces of names only
        vlm = max((load(str(folder), 48) for folder in made), key=lambda v: len(v.processor.tokenizer))
        return vlm, names, np.load(run / "pixels/test.npy")[:256], "the pocket's qwen3-vl-4b, trained"
    vlm = build("qwen3-vl-4b", NAMES + [QUESTION], 0)
    vlm.net.eval()
    return vlm, NAMES, pictures(256, 48), "the pocket's qwen3-vl-4b, random weights"


def compare_looks(name: str, vlm, images, names: list, goal: float, repeats: int = 5) -> bool:
    "Answer and rank in one look, and in two calls."
    asked = [QUESTION] * len(images)
    def one(i):
        found = examine(vlm, images, asked, names, 8)
        return sum_of(found["answer"].tolist(), found["likelihood"])
    def two(i): return sum_of(answer(vlm, images, asked, 8), rank(vlm, images, asked, names))
    seconds, apart = take_turns({"ours": one, "apart": two}, repeats)
    return say(f"answers and ranking in one look against two calls, {name}", seconds, goal, apart == 0,
               f"{len(images)} pictures, {images.shape[1]} px, answers of up to 8 tokens")


def compare_batches(vlm, images, repeats: int = 5) -> bool:
    "Answer 32 pictures together, and one at a time."
    asked = [QUESTION] * len(images)
    alone = lambda k: answer(vlm, images[k:k + 1], asked[:1], 8)[0]
    singly = lambda i: sum_of([alone(k) for k in range(len(images))])
    together = lambda i: sum_of(answer(vlm, images, asked, 8))
    seconds, apart = take_turns({"ours": together, "singly": singly}, repeats)
    return say("P6: answers in batches of 32 against one at a time", seconds, 6, apart == 0,
               f"{len(images)} pictures, {images.shape[1]} px, answers of up to 8 tokens")


if __name__ == "__main__":
    torch.set_num_threads(1)
    vlm, names, images, what = pocket_model()
    held = [compare_batches(vlm, images[:32]), compare_looks(what, vlm, images, names, 1.2),
            compare_looks("448 px, random weights", small(tokenizer("qwen3_vl", NAMES + [QUESTION])),
                          pictures(8, SIZE), NAMES, 1.5)]
    sys.exit(not all(held))
