"""What the plan says that a training takes, against the peak of one: small models on the CPU.

The peak is that of the process, less what it held before the model was there; what is freed is given
back at once, so that the peak is that of living tensors. A `ratio` of 1 is a plan that came true; the
goal is to be within 15 %.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "MALLOC_MMAP_THRESHOLD_": "65536"}
PIXELS, QUESTION = 448, "What kind of flower is this? Answer with its name only."
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 128}
WIDE = TEXT | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6}
PLAIN = {"method": "full", "train_vision_tower": False, "lora_rank": 16, "gradient_checkpointing": False,
         "learning_rate": 1e-4, "warmup_ratio": .1, "weight_decay": 0.}
CASES = {"full": (TEXT, 2048, PLAIN, 4, 1), "full, large vocabulary": (TEXT, 120_000, PLAIN, 2, 1),
         "full, accumulated": (TEXT, 2048, PLAIN, 2, 2),
         "full, checkpointing": (WIDE, 2048, PLAIN | {"gradient_checkpointing": True}, 4, 1),
         "lora": (WIDE, 2048, PLAIN | {"method": "lora"}, 2, 1),
         "full, with the tower": (TEXT, 2048, PLAIN | {"train_vision_tower": True}, 2, 1)}


def held(field: str) -> int: # bytes; field: VmRSS or VmHWM
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) << 10


def model_at(folder: Path, text: dict, vocabulary: int):
    "Write a Qwen3-VL with random weights and a look-alike of its tokenizer."
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from tests.rehearsal.checkpoints import known_config, small_qwen, special_ids
    from tests.rehearsal.lookalikes import qwen
    qwen(folder)
    config = known_config("Qwen/Qwen3-VL-4B-Instruct")
    small_qwen(config, 256)
    special_ids(config, folder)
    config["text_config"] |= text | {"vocab_size": vocabulary}
    config["vision_config"]["out_hidden_size"] = text["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    net = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    net.generation_config.eos_token_id = config["text_config"]["eos_token_id"]
    net.save_pretrained(folder)


def trained(folder: Path, block: dict, held_at_once: int, accumulation: int) -> dict:
    "Train for three steps as a job does, and return the plan and the peak."
    import numpy as np
    from flowers102_study import sft
    from flowers102_study.vlm import models, training
    pictures = np.random.default_rng(0).integers(0, 256, (8, PIXELS, PIXELS, 3), np.uint8)
    warm_up()
    before = held("VmRSS")
    vlm = models.load(str(folder), PIXELS, dtype="float32")
    config, model = vlm.net.config, sft.trainable(vlm, block)
    counts = sft.count_trained(model)
    def collate(rows):
        asked, answers = [QUESTION] * len(rows), ["bougainvillea"] * len(rows)
        return training.taught(vlm, pictures[rows], asked, answers)
    batch = collate([0])
    with tempfile.TemporaryDirectory() as place:
        how = training.arguments(Path(place), block, 3, held_at_once, accumulation, 0, "cpu")
        training.train_along(model, np.arange(3 * held_at_once * accumulation) % 8, collate,
                             training.answer_loss, how, [], None)
    tokens, positions = batch["input_ids"].shape[1], batch["logits_to_keep"]
    planned = sft.training_peak(config, block, counts, held_at_once, accumulation, tokens, positions,
                                vlm.side)
    return {"planned": planned, "measured": held("VmHWM") - before}


def warm_up():
    "Load what a training loads, so that libraries do not count."
    import torch
    import transformers
    from peft import get_peft_model # noqa: F401
    from torch.utils.data import DataLoader # noqa: F401
    transformers.Trainer # noqa: B018
    net = torch.nn.Linear(512, 512)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    net(torch.ones(64, 512)).sum().backward()
    optimizer.step()


def main():
    for name, (text, vocabulary, block, held_at_once, accumulation) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            for what in ("model", "train"):
                words = [sys.executable, __file__, what, name, folder]
                told = subprocess.run(words, capture_output=True, text=True, env=os.environ | QUIET)
                if told.returncode: sys.exit(told.stderr[-3000:])
        found = json.loads(told.stdout.splitlines()[-1])
        ratio = found["planned"] / found["measured"]
        print(json.dumps({"name": f"memory of training: {name}", "ratio": round(ratio, 3), "goal": 1,
                          "equal": abs(ratio - 1) < .15, "n": 1,
                          "note": f"planned {found['planned'] / 1e6:,.0f} MB, measured "
                                  f"{found['measured'] / 1e6:,.0f} MB"}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1: main()
    else:
        what, name, folder = sys.argv[1:]
        text, vocabulary, block, held_at_once, accumulation = CASES[name]
        if what == "model": model_at(Path(folder), text, vocabulary)
        else: print(json.dumps(trained(Path(folder), block, held_at_once, accumulation)))
