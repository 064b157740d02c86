"""Train a ResNet as transformers' example for image classification does: Trainer and torchvision.

    python cnn.py DATA WIDTH OUT EPOCHS BATCH RATE WARMUP DECAY SMOOTHING SIDE

It saves the model and its accuracy on the test split, with the best epoch's weights by validation.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import load_from_disk
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

DATA, WIDTH, OUT, EPOCHS, BATCH, RATE, WARMUP, DECAY, SMOOTHING, SIDE = sys.argv[1:]


def main():
    data, width, side = load_from_disk(DATA), int(WIDTH), int(SIDE)
    names = data["train"].features["label"].names
    plain = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
             v2.Normalize([.485, .456, .406], [.229, .224, .225])]
    moved = [v2.RandomResizedCrop(side, (.5, 1.)), v2.RandomHorizontalFlip()]
    views = {"train": v2.Compose([*moved, *plain]), "validation": v2.Compose(plain),
             "test": v2.Compose(plain)}
    def seen(split):
        def transform(rows):
            return {"pixel_values": [views[split](image.convert("RGB")) for image in rows["image"]],
                    "labels": rows["label"]}
        return data[split].with_transform(transform)
    model = ResNetForImageClassification(ResNetConfig(
        embedding_size=32, hidden_sizes=[width, 2 * width, 4 * width, 6 * width], depths=[1, 1, 1, 1],
        layer_type="basic", num_labels=len(names), id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)}))
    warmup = round(float(WARMUP) * int(EPOCHS) * -(-len(data["train"]) // int(BATCH)))
    how = TrainingArguments(OUT, num_train_epochs=int(EPOCHS), per_device_train_batch_size=int(BATCH),
                            per_device_eval_batch_size=256, learning_rate=float(RATE),
                            lr_scheduler_type="cosine", warmup_steps=warmup,
                            weight_decay=float(DECAY), label_smoothing_factor=float(SMOOTHING),
                            eval_strategy="epoch", save_strategy="epoch", save_total_limit=1,
                            load_best_model_at_end=True, metric_for_best_model="accuracy",
                            report_to="none", use_cpu=True, remove_unused_columns=False,
                            disable_tqdm=True)
    collate = lambda rows: {"pixel_values": torch.stack([row["pixel_values"] for row in rows]),
                            "labels": torch.tensor([row["labels"] for row in rows])}
    accuracy = lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}
    trainer = Trainer(model, how, data_collator=collate, train_dataset=seen("train"),
                      eval_dataset=seen("validation"), compute_metrics=accuracy)
    trainer.train()
    trainer.save_model(OUT)
    found = trainer.predict(seen("test"))
    right = np.asarray(found.predictions.argmax(1) == found.label_ids)
    Path(OUT, "right.json").write_text(json.dumps([int(right.sum()), len(right)]))


if __name__ == "__main__": main()
