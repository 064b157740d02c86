"""How much faster training is with logits at the answer only, a batched tower, and stored features.

One JSON line a comparison. Both ways take turns on the same batches; losses must agree to 1e-5.
On a GPU a randomly initialised Qwen3-VL-4B in bfloat16 is measured, too: fine-tuning whole and with
LoRA, and features, in pictures a second against their goals, and fine-tuning beside the stock model
and loss.
"""
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ranking import QUESTION, SIZE, configured, real_processor
from flowers102_study.core.work import Work
from flowers102_study.vlm.features import features
from flowers102_study.vlm.models import VLM
from flowers102_study.vlm.pocket_models import tokenizer
from flowers102_study.vlm.published import on_meta
from flowers102_study.pictures.sources import oxford_names
from flowers102_study.vlm.resting import Tower
from flowers102_study.vlm.towers import streamline
from flowers102_study.vlm.training import answer_loss, taught


def small(words, vocabulary: int = 2048) -> VLM:
    "Make a small Qwen3-VL that sees 448 pixels as the published one does, with the stock tower."
    from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration
    text = dict(vocab_size=vocabulary, hidden_size=64, intermediate_size=192, num_hidden_layers=4,
                num_attention_heads=4, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2],
                                 "mrope_interleaved": True})
    vision = dict(depth=4, hidden_size=128, intermediate_size=512, num_heads=4, patch_size=16,
                  out_hidden_size=64, num_position_embeddings=2304, deepstack_visual_indexes=[1, 2, 3])
    torch.manual_seed(0)
    net = Qwen3VLForConditionalGeneration(configured(Qwen3VLConfig(
                                                         text_config=text, vision_config=vision,
                                                         tie_word_embeddings=True), words))
    net.generation_config = GenerationConfig(eos_token_id=words.convert_tokens_to_ids("<|im_end|>"),
                                             pad_token_id=words.pad_token_id)
    return VLM(net, real_processor(words), SIZE)


def lesson(vlm: VLM, names: list, count: int, seed: int) -> dict:
    "Make a batch of random pictures with questions and answers."
    rng = np.random.default_rng(seed)
    return taught(vlm, rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8), [QUESTION] * count,
                  [names[k] for k in rng.integers(0, len(names), count)])


def ours(net, batch: dict): # the loss
    "Compute the loss where the answer is."
    rest = {k: v for k, v in batch.items() if k != "labels"}
    return answer_loss(net(**rest), batch["labels"])


def stock(net, batch: dict): # the loss
    "Compute the loss as transformers does, given labels of the whole sequence."
    rest = {k: v for k, v in batch.items() if k not in ("labels", "logits_to_keep")}
    whole = F.pad(batch["labels"], (batch["input_ids"].shape[1] - batch["labels"].shape[1], 0),
                  value=-100)
    return net(**rest, labels=whole).loss


def take_turns(
    ways: dict,
    repeats: int,
    device="cpu",
) -> tuple: # ({name: seconds}, largest difference of what they return)
    "Time functions of a repeat's number in turn."
    seconds, apart = {k: [] for k in ways}, 0.
    for i in range(repeats + 1):
        found = []
        for name, way in ways.items():
            if str(device) == "cuda": torch.cuda.synchronize()
            start = time.perf_counter()
            found.append(float(way(i)))
            if str(device) == "cuda": torch.cuda.synchronize()
            if i: seconds[name].append(time.perf_counter() - start) # the first is for warming up
        apart = max(apart, max(found) - min(found))
    return seconds, apart


def say(name: str, seconds: dict, goal: float, equal: bool, note: str):
    "Print how many times faster the first way is than the second."
    mine, theirs = seconds.values()
    ratios = [b / a for a, b in zip(mine, theirs)]
    print(json.dumps({"name": name, "ratio": round(statistics.median(ratios), 2), "goal": goal,
                      "equal": equal, "n": len(ratios),
                      "note": f"{note}; {1000 * statistics.median(mine):.1f} ms against "
                              f"{1000 * statistics.median(theirs):.1f} ms; ratios {min(ratios):.2f} to "
                              f"{max(ratios):.2f}"}), flush=True)
    return equal


def stepped(net, loss_of, batches: list):
    "Return a function that takes one training step and returns its loss; the weights stay."
    def step(i):
        loss = loss_of(net, batches[i % len(batches)])
        loss.backward()
        net.zero_grad()
        return loss.detach()
    return step


def compare_losses(words, names: list) -> bool:
    "Answer-only logits and our tower against logits everywhere and the stock one."
    one, two = small(words, 151_936), small(words, 151_936)
    streamline(one.net)
    batches = [lesson(one, names, 4, i) for i in range(3)]
    seconds, apart = take_turns({"ours": stepped(one.net, ours, batches),
                                 "stock": stepped(two.net, stock, batches)}, 7)
    return say("P3: loss on the answer against the stock loss, one training step", seconds, 5,
               apart < 1e-5,
               f"{SIZE} px, vocabulary 151,936, batch 4, towers train, losses differ by at most "
               f"{apart:.0e}")


def compare_resting(words, names: list) -> bool:
    "A step whose tower's outputs are kept against the stock step with a frozen tower."
    one, two = small(words, 151_936), small(words, 151_936)
    images = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    said = [names[k] for k in range(12)]
    for vlm in (one, two): vlm.net.model.visual.requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        tower = Tower(Work({}, {}, Path(folder) / "arm"), one, one.net, images.__getitem__, 12, 4)
        def resting(net, i):
            rows = np.arange(4) + 4 * (i % 3)
            batch = taught(one, tower.blank(4), [QUESTION] * 4, [said[r] for r in rows])
            return ours(net, batch | {"tower": tower.kept(rows)})
        def looking(net, i):
            rows = np.arange(4) + 4 * (i % 3)
            return stock(net, taught(two, images[rows], [QUESTION] * 4, [said[r] for r in rows]))
        seconds, apart = take_turns({"ours": stepped(one.net, resting, range(3)),
                                     "stock": stepped(two.net, looking, range(3))}, 7)
    return say("P4: a step with a resting tower's outputs kept against the stock step, tower frozen",
               seconds, 4, apart < 1e-5,
               f"{SIZE} px, vocabulary 151,936, batch 4, made ready within the step, losses differ by "
               f"at most {apart:.0e}")


def compare_kept(words, names: list) -> bool:
    "The same step with a resting tower's outputs kept, and with the tower looking."
    one, two = small(words, 151_936), small(words, 151_936)
    for vlm in (one, two):
        streamline(vlm.net)
        vlm.net.model.visual.requires_grad_(False)
    images = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        tower = Tower(Work({}, {}, Path(folder) / "arm"), one, one.net, images.__getitem__, 12, 4)
        asked = [QUESTION] * 4
        ready = lambda vlm, seen, rows: taught(vlm, seen, asked, [names[k] for k in rows])
        def kept(net, rows):
            return ours(net, ready(one, tower.blank(4), rows) | {"tower": tower.kept(rows)})
        def look(net, rows): return ours(net, ready(two, images[rows], rows))
        some = [np.arange(4) + 4 * k for k in range(3)]
        seconds, apart = take_turns({"ours": stepped(one.net, kept, some),
                                     "looking": stepped(two.net, look, some)}, 7)
    return say("a step with a resting tower's outputs kept against our own step that looks", seconds,
               1.5, apart < 1e-5,
               f"{SIZE} px, vocabulary 151,936, batch 4, losses differ by at most {apart:.0e}")


def compare_towers(words, names: list) -> bool:
    "The batched tower against the stock one, in a step that trains it."
    one, two = small(words), small(words)
    streamline(one.net)
    batches = [lesson(one, names, 16, i) for i in range(3)]
    seconds, apart = take_turns({"ours": stepped(one.net, ours, batches),
                                 "stock": stepped(two.net, ours, batches)}, 7)
    return say("batched vision tower against the stock tower, one training step", seconds, 1.0,
               apart < 1e-5, f"{SIZE} px, batch 16, losses differ by at most {apart:.0e}")


def compare_features(words) -> bool:
    "A head's step on stored features against one that computes them."
    vlm = small(words)
    streamline(vlm.net)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, SIZE, SIZE, 3), np.uint8)
    labels = torch.from_numpy(rng.integers(0, 102, 64))
    kept = torch.from_numpy(features(vlm, images, [QUESTION] * 64, [-1], ["last"])[:, 0, 0])
    head = torch.nn.Linear(kept.shape[1], 102)
    def step(x):
        loss = F.cross_entropy(head(x), labels)
        loss.backward()
        head.zero_grad()
        return loss.detach()
    again = lambda i: step(torch.from_numpy(features(vlm, images, [QUESTION] * 64, [-1], ["last"])[
                                                :, 0, 0]))
    seconds, apart = take_turns({"ours": lambda i: step(kept), "stock": again}, 5)
    return say("a head's step on stored features against recomputing them", seconds, 50, apart < 1e-5,
               f"{SIZE} px, batch 64, losses differ by at most {apart:.0e}")


def real_net(words):
    "Make Qwen3-VL-4B with random weights on the GPU."
    net = configured_net(on_meta("Qwen/Qwen3-VL-4B-Instruct").to_empty(device="cuda"), words)
    with torch.no_grad():
        for p in net.parameters(): p.normal_(std=.02) if p.ndim > 1 else p.fill_(1.)
    return net


def configured_net(net, words):
    "Give a network made on meta its special tokens and its rotary tables."
    configured(net.config, words)
    net.model.language_model.rotary_emb = type(net.model.language_model.rotary_emb)(
        net.config.text_config).to("cuda")
    net.model.visual.rotary_pos_emb = type(net.model.visual.rotary_pos_emb)(net.config.vision_config).to(
        "cuda")
    net.generation_config.eos_token_id = words.convert_tokens_to_ids("<|im_end|>")
    return net


def trained(net, loss_of, batches: list, parameters: list):
    "Return a function that takes one whole step, optimizer included, in bfloat16."
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    def step(i):
        with torch.autocast("cuda", torch.bfloat16): loss = loss_of(net, batches[i % len(batches)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()
    return step


def real_size(words, names: list, count: int = 16, repeats: int = 6):
    "Measure Qwen3-VL-4B on a GPU: whole fine-tuning, LoRA, features, and the stock model and loss."
    from peft import LoraConfig, get_peft_model
    def rate(name, goal, step, pictures):
        seconds, _ = take_turns({"ours": step}, repeats, "cuda")
        found = pictures / statistics.median(seconds["ours"])
        print(json.dumps({"name": f"Qwen3-VL-4B, random weights, bf16: {name}, against its goal",
                          "ratio": round(found / goal, 2) if goal else None, "goal": 1 if goal else None,
                          "equal": None, "n": repeats,
                          "note": f"{found:.1f} pictures a second at {SIZE} px, goal {goal or 'none'}, "
                                  f"batch {pictures}, {torch.cuda.get_device_name()}"}), flush=True)
        return found
    net = real_net(words)
    vlm = VLM(net, real_processor(words), SIZE)
    batches = [lesson(vlm, names, count, i) for i in range(2)]
    plain = rate("the peer, stock model and loss in the same bare loop, whole fine-tuning", None,
                 trained(net, stock, batches, list(net.parameters())), count)
    streamline(net)
    mine = rate("whole fine-tuning, tower counted", 57,
                trained(net, ours, batches, list(net.parameters())), count)
    print(json.dumps({"name": "whole fine-tuning against the stock model and loss on the same card",
                      "ratio": round(mine / plain, 2), "goal": 1.8, "equal": None, "n": repeats,
                      "note": "bare loops, not Trainer, one after the other on the same batches; losses "
                              "are compared on the CPU"}), flush=True)
    vlm.net = net.to(torch.bfloat16).requires_grad_(False)
    adapted = get_peft_model(net,
                             LoraConfig(r=16, lora_alpha=32, target_modules="all-linear",
                                        exclude_modules=r"model\.visual\..*"))
    rate("LoRA, tower at rest", 97,
         trained(adapted, ours, [lesson(vlm, names, count, i) for i in range(2)],
                 [p for p in adapted.parameters() if p.requires_grad]), count)
    images = np.random.default_rng(0).integers(0, 256, (64, SIZE, SIZE, 3), np.uint8)
    def extract(i):
        features(vlm, images, [QUESTION] * 64, [18, 27, 36])
        return 0.
    rate("features", 170, extract, 64)


if __name__ == "__main__":
    torch.set_num_threads(1)
    names = oxford_names()
    words = tokenizer("qwen3_vl", [QUESTION] * 5 + names)
    held = [compare_losses(words, names), compare_resting(words, names), compare_kept(words, names),
            compare_towers(words, names), compare_features(words)]
    if torch.cuda.is_available(): real_size(words, names)
    else:
        print(json.dumps({"name": "Qwen3-VL-4B at full size", "ratio": None, "goal": 1, "equal": None,
                          "n": 0, "note": "no GPU on this machine: not measured"}))
    sys.exit(not all(held))
