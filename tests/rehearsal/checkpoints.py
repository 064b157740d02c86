"""The published models as they lie on the Hub, but narrow, shallow, and with random weights."""

import json
import shutil
from pathlib import Path

from . import lookalikes

REAL = Path(__file__).resolve().parents[3] / "shared" / "hub"  # small files of the real repositories
SHARD = "500KB"  # so that even small models come in several files, with an index
FILES = {
    "Qwen/Qwen3-VL-4B-Instruct": lookalikes.qwen,
    "Qwen/Qwen3-VL-8B-Instruct": lookalikes.qwen,
    "Qwen/Qwen3-VL-2B-Instruct": lookalikes.qwen,
    "HuggingFaceM4/idefics2-8b": lookalikes.idefics,
    "Salesforce/instructblip-flan-t5-xl": lookalikes.instructblip,
    "google/siglip2-so400m-patch14-384": lookalikes.siglip,
    "google/siglip2-base-patch16-224": lookalikes.siglip,
    "openai/clip-vit-large-patch14": lookalikes.clip,
    "microsoft/resnet-50": lookalikes.resnet,
}
FLOAT32 = ("HuggingFaceM4/", "Salesforce/", "microsoft/", "google/", "openai/")  # as they are stored


def small_qwen(config: dict, size: int):
    text, vision = config["text_config"], config["vision_config"]
    text |= {
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    vision |= {
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "depth": 4,
        "num_heads": 4,
        "out_hidden_size": size,
        "deepstack_visual_indexes": [0, 1, 2],
    }


def small_idefics(config: dict, size: int):
    config["text_config"] |= {
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config["vision_config"] |= {
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config["perceiver_config"] |= {
        "hidden_size": size,
        "resampler_depth": 2,
        "resampler_n_heads": 2,
        "resampler_head_dim": 32,
        "num_key_value_heads": 1,
    }


def small_blip(config: dict, size: int):
    config["text_config"] |= {
        "d_model": size,
        "d_kv": 16,
        "d_ff": 2 * size,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
    }
    config["vision_config"] |= {
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config["qformer_config"] |= {
        "hidden_size": size,
        "encoder_hidden_size": size,
        "num_hidden_layers": 2,
        "intermediate_size": 2 * size,
        "num_attention_heads": 4,
    }


def small_dual(config: dict, size: int):
    part = {
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": size,
    }
    config["text_config"] |= part | {"projection_size": size}
    config["vision_config"] |= part
    config["projection_dim"] = size


def small_resnet(config: dict, size: int):
    config |= {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]}


SMALL = {
    "qwen3_vl": small_qwen,
    "idefics2": small_idefics,
    "instructblip": small_blip,
    "siglip": small_dual,
    "clip": small_dual,
    "resnet": small_resnet,
}


def known_config(name: str) -> dict:
    "Return the real configuration of a model whose config.json is not at hand."
    from transformers import CLIPConfig, ResNetConfig, SiglipConfig
    from flowers102_study.vlm.published import PUBLISHED

    if name in PUBLISHED:
        return PUBLISHED[name]().to_dict()
    labels = {k: f"class {k}" for k in range(1000)}  # ImageNet's
    if "resnet" in name:
        return ResNetConfig(id2label=labels, label2id={v: k for k, v in labels.items()}).to_dict()
    if "clip" in name:
        return CLIPConfig(
            vision_config=dict(image_size=224, patch_size=14),
            text_config=dict(eos_token_id=1, bos_token_id=0, pad_token_id=1),
        ).to_dict()
    vision = (
        dict(image_size=384, patch_size=14) if "so400m" in name else dict(image_size=224, patch_size=16)
    )
    return SiglipConfig(vision_config=vision, text_config=dict(max_position_embeddings=64)).to_dict()


def special_ids(config: dict, folder: Path):
    "Let a configuration name a look-alike tokenizer's tokens, and its vocabulary."
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    of, kind = tokenizer.convert_tokens_to_ids, config["model_type"]
    text = config.get("text_config")
    text["vocab_size"] = -(-len(tokenizer) // 64) * 64
    if kind == "qwen3_vl":
        config |= {
            "image_token_id": of("<|image_pad|>"),
            "video_token_id": of("<|video_pad|>"),
            "vision_start_token_id": of("<|vision_start|>"),
            "vision_end_token_id": of("<|vision_end|>"),
        }
        text |= {"bos_token_id": of("<|endoftext|>"), "eos_token_id": of("<|im_end|>")}
    if kind == "idefics2":
        config["image_token_id"] = of("<image>")
        text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "instructblip":
        config |= {"image_token_index": of("<image>"), "video_token_index": of("<video>")}
        config["qformer_config"]["vocab_size"] = 1024
        text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 0}


def generation(config: dict) -> dict:
    "Return generation settings as the family's repository has them."
    text = config["text_config"]
    if config["model_type"] == "qwen3_vl":
        return {
            "do_sample": True,
            "temperature": 0.7,
            "top_p": 0.8,
            "top_k": 20,
            "repetition_penalty": 1.0,
            "bos_token_id": text["bos_token_id"],
            "pad_token_id": text["bos_token_id"],
            "eos_token_id": [text["eos_token_id"], text["bos_token_id"]],
        }
    if config["model_type"] == "idefics2":
        marks = [config["image_token_id"] - 1, config["image_token_id"]]
        return {
            "bos_token_id": 1,
            "eos_token_id": [2, config["image_token_id"] + 1],
            "pad_token_id": 0,
            "bad_words_ids": [[mark] for mark in marks],
        }
    return {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}


def network(folder: Path, kind: str):
    "Make a network with random weights of a configuration."
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    auto = {
        "siglip": transformers.AutoModel,
        "clip": transformers.AutoModel,
        "resnet": transformers.AutoModelForImageClassification,
    }
    net = auto.get(kind, transformers.AutoModelForImageTextToText).from_config(config)
    if kind == "instructblip":  # Flan-T5-XL's output layer is its own, and transformers ties it
        import torch

        own = torch.randn_like(net.language_model.lm_head.weight) / 8
        net.language_model.lm_head.weight = torch.nn.Parameter(own)
    return net


def write_checkpoint(
    name: str, folder: Path, real: Path = REAL, size: int = 64
) -> str:  # "real" | "made"
    "Write a model's repository: small files real where they are at hand, weights random and few."
    import torch

    small = real / name.split("/")[1]
    whole = (small / "tokenizer_config.json").is_file()
    folder.mkdir(parents=True, exist_ok=True)
    if whole:
        shutil.copytree(small, folder, dirs_exist_ok=True)
    else:
        FILES[name](folder)
    config = json.loads((folder / "config.json").read_text()) if whole else known_config(name)
    SMALL[config["model_type"]](config, size + 32 * ("8B" in name))
    if not whole and "text_config" in config:
        special_ids(config, folder)
    write = lambda: (folder / "config.json").write_text(json.dumps(config, indent=2))
    write()
    torch.manual_seed(len(name))
    net = network(folder, config["model_type"])
    if not name.startswith(FLOAT32):
        net = net.to(torch.bfloat16)
    own = folder / "generation_config.json"
    settings = own.read_bytes() if own.exists() else None
    net.save_pretrained(folder, max_shard_size=SHARD)
    write()  # as it was, in the words of its time
    if settings:
        own.write_bytes(settings)
    elif not whole and config["model_type"] in ("qwen3_vl", "idefics2", "instructblip"):
        own.write_text(json.dumps(generation(config)))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return "real" if whole else "made"
