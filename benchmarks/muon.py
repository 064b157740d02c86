"""Fine-tuning steps with the study's Muon and with torch's, which multiplies in bfloat16.

One JSON line. Both take turns on the same batches, each with a pocket's Qwen3-VL of its own, from the
same random weights; their losses must stay together, up to what bfloat16 leaves of an update. On a
processor that is quick in bfloat16 both are the same code.
"""
import sys

import numpy as np
import torch
from ranking import QUESTION
from training import ours, say, take_turns
from flowers102_study.core.settings import read_profile
from flowers102_study.pictures.sources import oxford_names
from flowers102_study.vlm.pocket_models import build
from flowers102_study.vlm.training import optimizers, quick_in_bfloat16, taught

NAMES, SFT = oxford_names(), read_profile("pocket")["sft"]
BATCH = SFT["micro_batch_size"]


def lessons(vlm) -> list: # of three batches
    "Make random pictures with questions and answers."
    rng = np.random.default_rng(0)
    return [taught(vlm, rng.integers(0, 256, (BATCH, 48, 48, 3), np.uint8), [QUESTION] * BATCH,
                   [NAMES[k] for k in rng.integers(0, len(NAMES), BATCH)]) for _ in range(3)]


def trained(theirs: bool): # a function that takes a step and returns its loss
    "Make a network with its optimizers, Muon as torch has it or as the study takes it."
    vlm = build("qwen3-vl-4b", NAMES + [QUESTION], 0)
    muon, adam = optimizers(list(vlm.net.named_parameters()), SFT["learning_rate"], SFT["weight_decay"])
    if theirs: muon = torch.optim.Muon(muon.param_groups[0]["params"], **muon.defaults)
    batches = lessons(vlm)
    def step(i):
        loss = ours(vlm.net, batches[i % 3])
        loss.backward()
        for part in (muon, adam):
            part.step()
            part.zero_grad()
        return loss.detach()
    return step


def main():
    torch.set_num_threads(1)
    seconds, apart = take_turns({"ours": trained(False), "torch's": trained(True)}, 7)
    kind = "quick" if quick_in_bfloat16() else "slow"
    name = f"a fine-tuning step with Muon against torch's, on a processor that is {kind} in bfloat16"
    note = f"the pocket's qwen3-vl-4b, batch {BATCH}, losses differ by at most {apart:.0e}"
    sys.exit(not say(name, seconds, 1, apart < .005, note))


if __name__ == "__main__": main()
