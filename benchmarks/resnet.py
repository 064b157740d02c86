"""Training throughput of the CNN, one JSON line a comparison.

    python benchmarks/resnet.py [REPEATS]

On any machine: the pocket's network with channels-last memory, as the study trains it, against the
default layout, interleaved. On a GPU also: ResNet50 at 224 pixels in bf16 with the data on the device.
"""
import json
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from flowers102_study.core.settings import read_profile
from flowers102_study.pictures.views import normalised, training_batch
from flowers102_study.resnet import build_model, tensors, train_epoch, wrap


def step(model, optimizer, pictures, targets):
    loss = F.cross_entropy(model(pictures).logits.float(), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def layouts(repeats: int):
    torch.set_num_threads(1)
    block, made = read_profile("pocket")["resnet"], {}
    pictures = torch.rand(block["batch_size"], 3, block["image_size"], block["image_size"])
    targets = torch.eye(102)[torch.arange(block["batch_size"]) % 102]
    for name, layout in (("channels last", torch.channels_last), ("default", torch.contiguous_format)):
        torch.manual_seed(0)
        model = build_model(block, [str(i) for i in range(102)]).to(memory_format=layout).train()
        made[name] = (model, torch.optim.AdamW(model.parameters(), lr=0),
                      normalised(pictures).contiguous(memory_format=layout), targets)
    seconds, losses = {name: [] for name in made}, {}
    for _ in range(repeats + 2):
        for name, parts in made.items():
            start = time.perf_counter()
            losses[name] = float(step(*parts))
            seconds[name].append(time.perf_counter() - start)
    ours, peer = (statistics.median(seconds[name][2:]) for name in made)
    equal = abs(losses["channels last"] - losses["default"]) < 1e-4
    print(json.dumps({"name": "CNN training step, channels last against default layout, CPU, one thread",
                      "ratio": round(peer / ours, 2), "goal": 1.0, "equal": equal, "n": repeats,
                      "note": f"median {ours * 1000:.0f} ms against {peer * 1000:.0f} ms for "
                              f"{block['batch_size']} pictures"}))


def resident(batches: int, batch: int = 256):
    from flowers102_study.core.processes import join_processes
    block = read_profile("paper")["resnet"] | {"augmentation": "basic", "batch_size": batch}
    torch.backends.cudnn.benchmark = True
    accelerator, names = join_processes(), [str(i) for i in range(102)]
    model, optimizer = wrap(accelerator, build_model(block, names, weights=False), block)
    average = [t.detach().clone() for t in tensors(model)]
    pixels = torch.randint(0, 256, (4096, 448, 448, 3), dtype=torch.uint8, device="cuda")
    labels, rng = torch.randint(0, 102, (4096,), device="cuda"), np.random.default_rng(0)
    make = lambda rows: training_batch(pixels, labels, rows, 102, block, 0, 0)
    epoch = lambda n: train_epoch(accelerator, model, optimizer, average,
                                  [rng.integers(0, 4096, batch) for _ in range(n)], make, 0, 1, block)
    epoch(10) # warm-up
    start = time.perf_counter()
    loss = epoch(batches) # ends by reading the loss, so the device is done
    rate = batches * batch / (time.perf_counter() - start)
    print(json.dumps({"name": "ResNet50 training, 224 px, bf16, channels last, data on the device; goal "
                              "in images/s", "ratio": round(rate), "goal": 3000,
                      "equal": bool(np.isfinite(loss)), "n": batches,
                      "note": f"no peer: {rate:.0f} images/s on {torch.cuda.get_device_name()}, peak "
                              f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB"}))


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    layouts(repeats)
    if torch.cuda.is_available(): resident(5 * repeats)
    else: print("no GPU here: ResNet50 at 224 px was not measured", file=sys.stderr)
