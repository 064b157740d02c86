"""How much faster the token tree ranks 102 names than one forward a name, or a cache with 102 rows.

One JSON line a comparison, at 448 pixels. The three ways take turns on the same pictures; their
log-likelihoods must agree to 1e-4. On a GPU a randomly initialised Qwen3-VL-4B in bfloat16 is
measured too: forward passes and exact rankings a second.
"""
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from flowers102_study.vlm.models import VLM, inputs, processor_class
from flowers102_study.vlm.pocket_models import TEMPLATES, tokenizer
from flowers102_study.vlm.published import on_meta
from flowers102_study.vlm.ranking import build_trie, name_tokens, rank, rank_plainly
from flowers102_study.pictures.sources import oxford_names

SIZE, QUESTION = 448, "Which flower is this? Answer with its name only."


def real_processor(words):
    "Make a processor with Qwen3-VL's own patch size, so that 448 pixels are 196 tokens."
    from transformers import Qwen2VLImageProcessorPil
    image = Qwen2VLImageProcessorPil(size={"shortest_edge": 65536, "longest_edge": 1 << 24},
                                     patch_size=16, merge_size=2, temporal_patch_size=2,
                                     image_mean=[.5] * 3, image_std=[.5] * 3)
    return processor_class("QwenProcessor")(image, words, TEMPLATES["qwen3_vl"])


def configured(config, words):
    "Give a configuration the special tokens of a tokenizer."
    word = lambda text: words.convert_tokens_to_ids(f"<|{text}|>")
    config.image_token_id, config.video_token_id = word("image_pad"), word("video_pad")
    config.vision_start_token_id, config.vision_end_token_id = word("vision_start"), word("vision_end")
    return config


def small(words) -> VLM: # 6 layers of width 256
    "Make a small Qwen3-VL that sees 448 pixels as the published one does."
    from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration
    text = dict(vocab_size=2048, hidden_size=256, intermediate_size=768, num_hidden_layers=6,
                num_attention_heads=4, num_key_value_heads=2, head_dim=64, tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 5e6,
                                 "mrope_section": [12, 10, 10], "mrope_interleaved": True})
    vision = dict(depth=4, hidden_size=128, intermediate_size=512, num_heads=4, patch_size=16,
                  out_hidden_size=256, num_position_embeddings=2304, deepstack_visual_indexes=[1, 2, 3])
    torch.manual_seed(0)
    net = Qwen3VLForConditionalGeneration(configured(Qwen3VLConfig(
                                                         text_config=text, vision_config=vision,
                                                         tie_word_embeddings=True), words)).eval()
    net.generation_config = GenerationConfig(eos_token_id=words.convert_tokens_to_ids("<|im_end|>"),
                                             pad_token_id=words.pad_token_id)
    return VLM(net, real_processor(words), SIZE)


def rank_rows(vlm: VLM, images, questions: list, names: list) -> np.ndarray:
    "Rank with the prompt's cache repeated for every name: the usual way to reuse it."
    tokens, found = name_tokens(vlm, questions[0], names), []
    longest = max(map(len, tokens))
    ids = torch.tensor([t + [0] * (longest - len(t)) for t in tokens], device=vlm.device)
    real = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in tokens], device=vlm.device)
    with torch.inference_mode():
        for i, question in enumerate(questions):
            batch = inputs(vlm, images[i:i + 1], [question])
            first = vlm.net.model(**batch, use_cache=True)
            cache = first.past_key_values
            cache.batch_repeat_interleave(len(names))
            place = (batch["attention_mask"].sum() + vlm.net.model.rope_deltas
                     + torch.arange(longest - 1, device=vlm.device))
            states = vlm.net.get_submodule(vlm.family.decoder)(
                input_ids=ids[:, :-1], position_ids=place.expand(len(names), -1), past_key_values=cache,
                use_cache=True,
                attention_mask=torch.cat([batch["attention_mask"].expand(len(names), -1), real[:, :-1]],
                                         1)).last_hidden_state
            states = torch.cat([first.last_hidden_state[:, -1:].expand(len(names), -1, -1), states], 1)
            scores = vlm.net.lm_head(states).float().log_softmax(2).gather(2, ids[..., None])[..., 0]
            found.append((scores * real).sum(1).cpu().numpy())
    return np.stack(found)


def compare(vlm: VLM, names: list, repeats: int = 5) -> bool: # whether they agree
    "Time the three ways in turn, a picture at a time, and print their ratios."
    rng = np.random.default_rng(0)
    ways = {"tree": rank, "rows": rank_rows, "plain": rank_plainly}
    seconds, apart = {k: [] for k in ways}, {k: 0. for k in ways}
    rank(vlm, rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8), [QUESTION], names) # warm
    for _ in range(repeats):
        images, found = rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8), {}
        for key, way in ways.items():
            start = time.perf_counter()
            found[key] = way(vlm, images, [QUESTION], names)
            seconds[key].append(time.perf_counter() - start)
        apart = {k: max(apart[k], float(abs(found[k] - found["plain"]).max())) for k in ways}
    nodes = len(build_trie(name_tokens(vlm, QUESTION, names)).tokens)
    for peer, goal, what in (("plain", 20, "one forward a name"),
                             ("rows", 1.3, "the cache repeated for 102 rows")):
        ratios = [p / t for p, t in zip(seconds[peer], seconds["tree"])]
        middle = {way: 1000 * statistics.median(seconds[way]) for way in ("tree", peer)}
        note = (f"{SIZE} px, {len(names)} names, {nodes} inner nodes; tree {middle['tree']:.0f} ms, "
                f"peer {middle[peer]:.0f} ms; ratios {min(ratios):.2f} to {max(ratios):.2f}; "
                f"log-likelihoods differ by at most {max(apart.values()):.1e}; {vlm.device}")
        print(json.dumps({"name": f"tree ranking against {what}",
                          "ratio": round(statistics.median(ratios), 2), "goal": goal,
                          "equal": max(apart["tree"], apart[peer]) < 1e-4, "n": repeats,
                          "note": note}), flush=True)
    return max(apart.values()) < 1e-4


def real_size(words, names: list, batch: int = 32, repeats: int = 5):
    "Measure Qwen3-VL-4B with random weights on a GPU: pictures a second, passed forward and ranked."
    net = on_meta("Qwen/Qwen3-VL-4B-Instruct").to(torch.bfloat16).to_empty(device="cuda").eval()
    configured(net.config, words)
    with torch.no_grad():
        for p in net.parameters(): p.normal_(std=.02) if p.ndim > 1 else p.fill_(1.)
    net.model.language_model.rotary_emb = type(net.model.language_model.rotary_emb)(
        net.config.text_config).to("cuda")
    net.model.visual.rotary_pos_emb = type(net.model.visual.rotary_pos_emb)(net.config.vision_config).to(
        "cuda")
    net.generation_config.eos_token_id = words.convert_tokens_to_ids("<|im_end|>")
    vlm = VLM(net, real_processor(words), SIZE)
    images = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    def forward():
        with torch.inference_mode(): net(**inputs(vlm, images, [QUESTION] * batch), logits_to_keep=1)
    for what, goal, work in (("forward", 170, forward),
                             ("exact ranking of 102 names", 75,
                              lambda: rank(vlm, images, [QUESTION] * batch, names))):
        taken = []
        for i in range(repeats + 2):
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        rate = batch / statistics.median(taken[2:])
        print(json.dumps({"name": f"Qwen3-VL-4B, random weights, bf16: {what}, against its goal",
                          "ratio": round(rate / goal, 2), "goal": 1, "equal": None, "n": repeats,
                          "note": f"{rate:.1f} pictures a second at {SIZE} px, goal {goal}, batch "
                                  f"{batch}, {torch.cuda.get_device_name()}; equality is checked on the "
                                  "small model above"}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    names = oxford_names()
    root = Path(__file__).resolve().parents[1]
    # words of running text, so names fall into pieces as they do for a general model
    words = tokenizer("qwen3_vl", (root / "README.md").read_text().splitlines() + [QUESTION] * 5)
    vlm = small(words)
    agree = compare(vlm, names)
    if torch.cuda.is_available():
        vlm.net.to("cuda")
        agree &= compare(vlm, names)
        real_size(words, names)
    else:
        print(json.dumps({"name": "Qwen3-VL-4B at full size", "ratio": None, "goal": 1, "equal": None,
                          "n": 0, "note": "no GPU on this machine: not measured"}))
    sys.exit(not agree)
