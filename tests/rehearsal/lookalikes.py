"""Tokenizers and templates made on the spot, of the kinds that the published models have.

They stand in where the real small files are not at hand: byte-level BPE without a prefix space (Qwen),
BPE with `▁` in front of a text (Mistral), Unigram with `▁` (T5), WordPiece (BERT, for the Q-Former),
BPE with `</w>` (CLIP), BPE with `▁` and without a prefix (Gemma).
"""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from flowers102_study.pictures.sources import oxford_names

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
QWEN_CHAT = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}
{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
IDEFICS_SPECIAL = ["<unk>", "<s>", "</s>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
# as in the model's processor_config.json: a space after the colon, but for a picture
IDEFICS_CHAT = (
    "{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


WORDS = pre_tokenizers.Split("▁", "merged_with_next")  # SentencePiece learns nothing across words


def corpus() -> list:
    "Write what the tokenizers are trained on: names, and sentences around them."
    names = oxford_names()
    forms = (
        "What kind of flower is this? Answer with its name only.",
        "a photo of a {}, a type of flower.",
        "Which of these flowers is it: {}? User: Assistant: {}",
        "Is this {}? Answer yes or no.",
    )
    return [form.format(*[name] * form.count("{}")) for name in names for form in forms]


def trained(made: Tokenizer, trainer) -> Tokenizer:
    made.train_from_iterator(corpus(), trainer)
    return made


def byte_level(special: list, split: str = QWEN_SPLIT) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return trained(
        made,
        trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )


def llama_like(special: list, bos: str) -> Tokenizer:
    "Make a BPE of SentencePiece's kind: `▁` in front of a text, bytes for what is unknown."
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = WORDS
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made = trained(
        made,
        trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=special + [f"<0x{k:02X}>" for k in range(256)],
            show_progress=False,
            max_token_length=12,
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, made.token_to_id(bos))]
    )
    return made


def unigram() -> Tokenizer:  # as T5's
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    made = trained(
        made,
        trainers.UnigramTrainer(
            vocab_size=600,
            special_tokens=["<pad>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return made


def word_piece() -> Tokenizer:  # as BERT's
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    made = trained(
        made, trainers.WordPieceTrainer(vocab_size=800, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(t, made.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return made


def gemma_like() -> Tokenizer:  # as SigLIP 2's: no prefix, the end token after a text, none before it
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = WORDS
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made = trained(
        made,
        trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{k:02X}>" for k in range(256)],
            show_progress=False,
            max_token_length=12,
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)]
    )
    return made


def clip_like() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    ends = ["<|startoftext|>", "<|endoftext|>"]
    made = trained(
        made,
        trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=ends,
            end_of_word_suffix="</w>",
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    begin, end = ((token, made.token_to_id(token)) for token in ends)
    made.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        pair="<|startoftext|> $A <|endoftext|> $B <|endoftext|>",
        special_tokens=[begin, end],
    )
    return made


def save(made: Tokenizer, folder: Path, **config):
    "Write a tokenizer as the Hub's repositories hold one."
    folder.mkdir(parents=True, exist_ok=True)
    special = [v for k, v in config.items() if k.endswith("_token") and isinstance(v, str)]
    made.add_special_tokens(
        [
            AddedToken(t, special=True, normalized=False)
            for t in dict.fromkeys(special + config.get("additional_special_tokens", []))
        ]
    )
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"clean_up_tokenization_spaces": False})
    )


def qwen(folder: Path):
    save(
        byte_level(QWEN_SPECIAL),
        folder,
        tokenizer_class="Qwen2Tokenizer",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=QWEN_SPECIAL[1:],
    )
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": QWEN_CHAT}))
    look = {
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(look))


def idefics(folder: Path):
    save(
        llama_like(IDEFICS_SPECIAL, "<s>"),
        folder,
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        unk_token="<unk>",
        additional_special_tokens=IDEFICS_SPECIAL[3:],
    )
    look = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_processor_type": "Idefics2ImageProcessor",
        "processor_class": "Idefics2Processor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 980, "shortest_edge": 378},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(look))
    whole = {"chat_template": IDEFICS_CHAT, "image_seq_len": 64, "processor_class": "Idefics2Processor"}
    (folder / "processor_config.json").write_text(json.dumps(whole))


def instructblip(folder: Path):
    save(
        unigram(),
        folder,
        tokenizer_class="PreTrainedTokenizerFast",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>", "<video>"],
    )
    save(
        word_piece(),
        folder / "qformer_tokenizer",
        tokenizer_class="BertTokenizer",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        bos_token="[DEC]",
    )
    look = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "InstructBlipProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": 224, "width": 224},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(look))
    whole = {"num_query_tokens": 32, "processor_class": "InstructBlipProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(whole))


def siglip(folder: Path):
    save(
        gemma_like(),
        folder,
        tokenizer_class="GemmaTokenizer",
        eos_token="<eos>",
        bos_token="<bos>",
        pad_token="<pad>",
        unk_token="<unk>",
        add_bos_token=False,
        add_eos_token=True,
    )
    look = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_processor_type": "SiglipImageProcessor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": 384, "width": 384},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(look))


def clip(folder: Path):
    save(
        clip_like(),
        folder,
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    look = {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "CLIPImageProcessor",
        "resample": 3,
        "size": 224,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(look))


def resnet(folder: Path):
    look = {
        "crop_pct": 0.875,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "image_processor_type": "ConvNextImageProcessor",
        "resample": 3,
        "size": {"shortest_edge": 224},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(look))
