"""What lmms-eval calls for the study's open question. It runs in lmms-eval's environment and needs nothing but this folder's package."""
import functools
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2])) # the study's package; its answers module needs PyYAML only
from flowers102_study.core.answers import Names


@functools.cache
def questions() -> dict: # {image_id: (question, name)}
    "Read the run's own questions, so that both ask in the same words."
    path = Path("prompts/open-qa.jsonl")
    if not path.exists(): raise FileNotFoundError("start lmms-eval in the folder of a finished run: prompts/open-qa.jsonl is not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {r["image_id"]: (r["question"], r["answer"]) for r in rows}


@functools.cache
def names() -> Names:
    "Read the run's class names."
    return Names(json.loads(Path("data/report.json").read_text())["classes"])


def doc_to_visual(doc) -> list:
    "Return the picture, at the side that FLOWERS102_SIDE asks for: smoothed in whole grey levels, as the study does it."
    image, side = doc["image"].convert("RGB"), int(os.environ.get("FLOWERS102_SIDE", 0))
    if side in (0, image.width): return [image]
    import numpy as np
    import torch
    from PIL import Image
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    x = torch.nn.functional.interpolate(x, (side, side), mode="bicubic", antialias=True, align_corners=False).round().clamp(0, 255)
    return [Image.fromarray(x[0].permute(1, 2, 0).byte().numpy())]


def doc_to_text(doc, lmms_eval_specific_kwargs=None) -> str:
    return questions()[doc["image_id"]][0]


def doc_to_target(doc) -> str:
    return questions()[doc["image_id"]][1]


def process_results(doc, results) -> dict: # {metric: score}
    return {"exact": float(names().read(results[0]) == doc["label"]), "synonym": float(names().read(results[0], True) == doc["label"])}
