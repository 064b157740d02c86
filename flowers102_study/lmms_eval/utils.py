"""What lmms-eval calls for the study's questions, in an environment of its own.

It needs nothing but this folder's package.
"""
import functools
import json
import os
import sys
from pathlib import Path

# the study's package; its answers module needs PyYAML only
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from flowers102_study.scores.answers import Names, read_choice, read_claim # noqa: E402


@functools.cache
def questions(task: str) -> dict: # {image_id: a row of the prompts file}
    "Read the run's own questions, so that both ask in the same words."
    path = Path(f"prompts/{task}.jsonl")
    if not path.exists():
        raise FileNotFoundError(f"start lmms-eval in the folder of a finished run: {path} is not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["image_id"]: row for row in rows}


@functools.cache
def names() -> Names:
    "Read the run's class names."
    return Names(json.loads(Path("data/report.json").read_text())["classes"])


def doc_to_visual(doc) -> list:
    "Return the picture at the side that FLOWERS102_SIDE asks for, smoothed as the study does it."
    image, side = doc["image"].convert("RGB"), int(os.environ.get("FLOWERS102_SIDE", 0))
    if side in (0, image.width): return [image]
    import numpy as np
    import torch
    from PIL import Image
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    how = {"mode": "bicubic", "antialias": True, "align_corners": False}
    x = torch.nn.functional.interpolate(x, (side, side), **how).round().clamp(0, 255)
    return [Image.fromarray(x[0].permute(1, 2, 0).byte().numpy())]


def open_text(doc, lmms_eval_specific_kwargs=None) -> str:
    return questions("open-qa")[doc["image_id"]]["question"]


def open_target(doc) -> str:
    return questions("open-qa")[doc["image_id"]]["answer"]


def open_results(doc, results) -> dict: # {metric: score}
    known, answer = names(), results[0]
    read = {"exact": known.read(answer), "synonym": known.read(answer, True),
            "named": known.read_named(answer)}
    return {metric: float(number == doc["label"]) for metric, number in read.items()}


def closed_text(doc, lmms_eval_specific_kwargs=None) -> str:
    return questions("closed-qa")[doc["image_id"]]["question"]


def closed_target(doc) -> str:
    return questions("closed-qa")[doc["image_id"]]["answer"]


def closed_results(doc, results) -> dict: # {metric: score}
    asked = questions("closed-qa")[doc["image_id"]]
    chosen = read_choice(results[0], asked["options"])
    return {"exact": float(chosen >= 0 and asked["classes"][chosen] == doc["label"])}


def negative_text(doc, lmms_eval_specific_kwargs=None) -> str:
    return questions("closed-negative-qa")[doc["image_id"]]["question"]


def negative_target(doc) -> str:
    return questions("closed-negative-qa")[doc["image_id"]]["answer"]


def negative_results(doc, results) -> dict: # {metric: score}; right is none of the options, or no
    asked = questions("closed-negative-qa")[doc["image_id"]]
    if "options" not in asked: return {"exact": float(read_claim(results[0]) == 0)}
    chosen = read_choice(results[0], asked["options"])
    return {"exact": float(chosen >= 0 and asked["classes"][chosen] < 0)}
