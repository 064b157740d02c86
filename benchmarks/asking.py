"""One look at a picture against separate calls, and answers in batches against one at a time.

One JSON line a comparison. Both ways take turns on the same pictures, and must say and score the same:
models as large as the pocket's with a vocabulary of names, at 48 pixels, and a small one at 448.
"""
import sys
import zlib

import numpy as np
import torch
from ranking import QUESTION, SIZE, small
from training import say, take_turns
from flowers102_study.vlm.asking import examine
from flowers102_study.vlm.models import answer
from flowers102_study.vlm.pocket_models import ARCHITECTURES, build, tokenizer
from flowers102_study.vlm.ranking import rank
from flowers102_study.pictures.sources import oxford_names

NAMES = oxford_names()


def sum_of(answers, likelihood=None) -> float: # equal where both are, to three decimals
    "Sum up what was found."
    scores = b"" if likelihood is None else np.round(likelihood, 3).tobytes()
    return float(zlib.crc32("|".join(answers).encode() + scores))


def pictures(count: int, size: int):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def compare_looks(name: str, vlm, images, repeats: int = 5) -> bool:
    "Answer and rank in one look, and in two calls."
    asked = [QUESTION] * len(images)
    def one(i):
        found = examine(vlm, images, asked, NAMES, 8)
        return sum_of(found["answer"].tolist(), found["likelihood"])
    def two(i): return sum_of(answer(vlm, images, asked, 8), rank(vlm, images, asked, NAMES))
    seconds, apart = take_turns({"ours": one, "apart": two}, repeats)
    return say(f"answers and ranking in one look against two calls, {name}", seconds, 1.2, apart == 0,
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
    held = []
    for arm in ARCHITECTURES:
        vlm = build(arm, NAMES + [QUESTION], 0)
        vlm.net.eval()
        if arm == "qwen3-vl-4b": held.append(compare_batches(vlm, pictures(32, 48)))
        held.append(compare_looks(arm, vlm, pictures(256, 48)))
    held.append(compare_looks("448 px", small(tokenizer("qwen3_vl", NAMES + [QUESTION])),
                              pictures(8, SIZE)))
    sys.exit(not all(held))
