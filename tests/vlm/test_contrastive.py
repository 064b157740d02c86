import json

import numpy as np
import pytest
import torch

from flowers102_study.core.settings import SettingsError
from flowers102_study.vlm.contrastive import (TEMPLATES, class_vectors, embedded, load_dual,
                                              nearest_votes, sentences, zero_shot)
from flowers102_study.vlm.pocket_models import MEAN, tokenizer
from flowers102_study.vlm.pocket_siglip import build_dual

NAMES = ["tree mallow", "mallow", "rose", "bishop of llandaff"]


def small_clip(folder):
    "Save a CLIP with random weights, whose texts are shorter than its positions."
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel
    words = tokenizer("instructblip", sentences(NAMES, TEMPLATES[0]))
    sizes = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    text = sizes | dict(vocab_size=len(words), max_position_embeddings=40, pad_token_id=0,
                        eos_token_id=1, bos_token_id=2, projection_dim=16)
    vision = sizes | dict(image_size=32, patch_size=8, projection_dim=16)
    torch.manual_seed(0)
    net = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    look = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32, image_mean=MEAN,
                                 image_std=MEAN)
    for part in (net, words, look): part.save_pretrained(folder)


@pytest.fixture(params=["siglip", "clip"])
def folder(request, tmp_path):
    if request.param == "clip": small_clip(tmp_path)
    else:
        made = build_dual(sentences(NAMES, TEMPLATES[0]), seed=0)
        for part in (made.net, made.tokenizer, made.how): part.save_pretrained(tmp_path)
    return tmp_path


def pictures(count: int = 6, side: int = 50):
    "Make smooth pictures, as photographs are."
    from PIL import Image
    few = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(f).resize((side, side), Image.Resampling.BICUBIC))
                     for f in few])


def test_scores_are_transformers_own(folder):
    dual = load_dual(str(folder))
    texts = sentences(NAMES, TEMPLATES[0])
    length = dual.net.config.text_config.max_position_embeddings
    batch = dual.tokenizer(texts, padding="max_length", max_length=length, padding_side="right",
                           return_tensors="pt")
    wanted = {"input_ids": batch["input_ids"]}
    if dual.net.config.model_type == "clip": wanted["attention_mask"] = batch["attention_mask"]
    with torch.inference_mode():
        own = dual.net(**wanted, pixel_values=dual.normalised(pictures())).logits_per_image.softmax(1)
    ours = zero_shot(embedded(dual, pictures()), class_vectors(dual, NAMES, TEMPLATES[:1]), dual.scale)
    np.testing.assert_allclose(np.exp(ours), own.numpy(), atol=1e-5)


def test_pictures_are_resized_as_the_processor_does(folder):
    dual = load_dual(str(folder))
    own = dual.how(list(pictures()), return_tensors="pt")["pixel_values"]
    assert dual.normalised(pictures()).shape == own.shape
    assert (dual.normalised(pictures()) - own).abs().max() < .02 # two of 255 grey levels


def test_an_ensemble_of_the_same_sentence_is_that_sentence(folder):
    dual = load_dual(str(folder))
    once, thrice = (class_vectors(dual, NAMES, TEMPLATES[:1] * k) for k in (1, 3))
    np.testing.assert_allclose(once, thrice, atol=1e-6)
    assert np.abs(class_vectors(dual, NAMES, TEMPLATES) - once).max() > 1e-3


def test_capitals_change_nothing(folder):
    dual = load_dual(str(folder))
    np.testing.assert_array_equal(class_vectors(dual, ["Rose"], TEMPLATES),
                                  class_vectors(dual, ["rose"], TEMPLATES))


def test_neighbours_are_the_nearest():
    rng = np.random.default_rng(1)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    x, asked, y = unit(rng.normal(size=(80, 6))), unit(rng.normal(size=(30, 6))), rng.integers(0, 5, 80)
    first = nearest_votes(x, y, asked, 1, 7)
    assert (first.argmax(1) == y[(asked @ x.T).argmax(1)]).all()
    near = np.argsort(-(asked @ x.T), 1)[:, :5]
    votes = np.zeros((30, 7))
    for row, places in enumerate(near):
        for k in places: votes[row, y[k]] += 1 / (1 - asked[row] @ x[k])
    assert (nearest_votes(x, y, asked, 5, 7).argmax(1) == votes.argmax(1)).all()


def test_what_is_no_contrastive_model_is_refused(folder):
    from safetensors.torch import load_file, save_file
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights.pop("logit_scale")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(SettingsError, match="lacks 1 of its weights"): load_dual(str(folder))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"siglip"', '"bert"').replace('"clip"', '"bert"'))
    with pytest.raises(SettingsError, match="kind of contrastive model"): load_dual(str(folder))


def test_pictures_may_have_any_size(folder):
    dual = load_dual(str(folder))
    for side in (20, dual.side, 90):
        x = embedded(dual, pictures(2, side))
        assert np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5) and not np.allclose(x[0], x[1])


def test_texts_without_an_end_are_refused(folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    with pytest.raises(SettingsError, match="a text must have the end token"): load_dual(str(folder))


def test_no_true_pair_is_taught_as_false():
    from flowers102_study.pictures.captions import facts as facts_of, known_species
    from flowers102_study.pictures.drawn import poses
    from flowers102_study.vlm import pocket_siglip
    kinds = known_species(16)[:2]
    facts = [f for kind in kinds for f in facts_of(kind, poses(kind, range(6)), known=True)]
    told = {}
    def keep(logits, true):
        told["true"] = true
        return logits.sum()
    dual = build_dual([pocket_siglip.described(f, TEMPLATES[0], np.random.default_rng(0))[0]
                       for f in facts], seed=0)
    before, pocket_siglip.matching_loss = pocket_siglip.matching_loss, keep
    try: pocket_siglip.pairs_loss(dual, dual.seen(pictures(12)), facts, np.random.default_rng(1))
    finally: pocket_siglip.matching_loss = before
    assert told["true"].any(1).all() and told["true"].any(0).all() # each has its own
    named = told["true"].sum(0) >= 6 # a name's sentence holds of all six of its species
    assert named.any() and (told["true"][:6, named].all(0) ^ told["true"][6:, named].all(0)).all()
