"""Fine-tune a Qwen3-VL as transformers' documentation does: its Trainer, processor and loss.

    python sft.py DATA PROMPTS BASE ORDER OUT STEPS BATCH RATE WARMUP DECAY

Labels hide the question, as everybody's do; ORDER is a JSON list of rows, so that the same pictures come
in the same order. It saves the model and the losses.
"""
import json
import sys
from pathlib import Path

from datasets import load_from_disk
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

DATA, PROMPTS, BASE, ORDER, OUT, STEPS, BATCH, RATE, WARMUP, DECAY = sys.argv[1:]


def lessons() -> tuple: # (pictures, rows)
    rows = [json.loads(line) for line in Path(PROMPTS, "open-qa.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    pictures = load_from_disk(DATA)["train"]
    place = {image: i for i, image in enumerate(pictures["image_id"])}
    return pictures, [row | {"place": place[row["image_id"]]} for row in rows]


def main():
    processor = AutoProcessor.from_pretrained(BASE)
    processor.tokenizer.padding_side = "left"
    model = AutoModelForImageTextToText.from_pretrained(BASE)
    pictures, rows = lessons()
    def texts(row):
        question = {"type": "text", "text": row["question"]}
        asked = [{"role": "user", "content": [{"type": "image"}, question]}]
        said = [{"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}]
        prompt = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        return prompt, processor.apply_chat_template(asked + said, tokenize=False).rstrip("\n")
    def collate(some):
        chosen = [rows[k] for k in some]
        images = [[pictures[row["place"]]["image"].convert("RGB")] for row in chosen]
        prompts, wholes = zip(*map(texts, chosen))
        batch = processor(images=images, text=list(wholes), padding=True, return_tensors="pt")
        short = processor(images=images, text=list(prompts), padding=True, return_tensors="pt")
        labels = batch["input_ids"].clone()
        answered = batch["attention_mask"].sum(1) - short["attention_mask"].sum(1)
        for row, count in zip(labels, answered.tolist()): row[:-count] = -100
        return dict(batch) | {"labels": labels}
    order = json.loads(Path(ORDER).read_text())
    how = TrainingArguments(OUT, per_device_train_batch_size=int(BATCH), max_steps=int(STEPS),
                            learning_rate=float(RATE), lr_scheduler_type="cosine",
                            warmup_steps=int(WARMUP), weight_decay=float(DECAY), max_grad_norm=1.,
                            logging_steps=1, save_strategy="no", report_to="none", use_cpu=True,
                            train_sampling_strategy="sequential", remove_unused_columns=False,
                            dataloader_drop_last=True, disable_tqdm=True)
    trainer = Trainer(model, how, data_collator=collate, train_dataset=order)
    trainer.train()
    trainer.save_model(OUT)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    Path(OUT, "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__": main()
