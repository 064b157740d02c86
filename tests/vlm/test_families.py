"""Each family as it is published: tokenizer, template, processor, settings; weights are random.

The real small files are used where `../shared/hub` holds them; look-alikes of the same kinds always.
"""
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from flowers102_study.core.settings import SettingsError
from flowers102_study.pictures.sources import oxford_names
from flowers102_study.prompts import open_question
from flowers102_study.vlm import artefacts, asking, features, heads, models, ranking, resting, training
from flowers102_study.vlm.published import tower_numbers
from tests.rehearsal.checkpoints import REAL, write_checkpoint

NAMES = oxford_names()
QUESTION = open_question({"wording": "plain", "thing": "flower"})
SOURCES = {"qwen": "Qwen/Qwen3-VL-4B-Instruct", "idefics": "HuggingFaceM4/idefics2-8b",
           "blip": "Salesforce/instructblip-flan-t5-xl"}
TOKENS = {"qwen": {448: 196, 256: 64}, "idefics": {448: 64, 378: 64}, "blip": {448: 32, 224: 32}}


def pictures(count: int, side: int = 448):
    "Make smooth pictures, as photographs are."
    from PIL import Image
    few = np.random.default_rng(1).integers(0, 256, (count, 7, 7, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(f).resize((side, side), Image.Resampling.BICUBIC))
                     for f in few])


@pytest.fixture(scope="module", params=[(kind, files) for kind in SOURCES for files in ("real", "made")],
                ids=lambda value: "-".join(value))
def family(request, tmp_path_factory):
    kind, files = request.param
    if files == "real" and not REAL.is_dir(): pytest.skip("the real small files are not here")
    folder = tmp_path_factory.mktemp(f"{kind}-{files}")
    assert write_checkpoint(SOURCES[kind], folder, REAL if files == "real" else Path("/none")) == files
    return kind, folder, models.load(str(folder), 448)


def test_every_name_is_an_answer_that_ends(family):
    kind, folder, vlm = family
    written = [vlm.family.name_tokens(vlm, QUESTION, name) for name in NAMES]
    assert len({tuple(tokens) for tokens in written}) == 102
    for name, tokens in zip(NAMES, written):
        assert tokens[-1] in vlm.ends and not set(tokens[:-1]) & set(vlm.ends)
        assert vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() == name
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert set(ends if isinstance(ends, list) else [ends]) <= set(vlm.ends)


@pytest.mark.parametrize("at", [0, 1])
def test_pictures_of_several_sizes_are_the_processors_own(family, at):
    kind, folder, _ = family
    side, count = list(TOKENS[kind].items())[at]
    vlm = models.load(str(folder), side) # `probe` compares with the processor, and raises
    assert vlm.count == count


def test_a_small_picture_is_small_before_the_processor_enlarges_it(family):
    from PIL import Image
    _, _, vlm = family
    noise = np.random.default_rng(0).integers(0, 256, (1, 448, 448, 3), np.uint8)
    small = models.load(str(family[1]), 224)
    how = small.processor.image_processor
    picture = Image.fromarray(noise[0]).resize((224, 224), Image.Resampling(int(how.resample)))
    theirs = small.processor(images=[picture], text=[small.family.text(small.processor, "?", "")],
                             return_tensors="pt")["pixel_values"].float()
    ours = small.family.pixels(small.normalised(noise), small.processor)["pixel_values"]
    assert (ours - theirs).abs().mean() < .01
    if small.side != 224: # what was lost on the way is not there
        direct = models.normalised(noise, small.side, how, "cpu")
        assert (small.family.pixels(direct, small.processor)["pixel_values"] - theirs).abs().mean() > .02


def test_ranking_is_one_forward_a_name(family):
    _, _, vlm = family
    some = NAMES[::15]
    seen = pictures(2)
    tree = ranking.rank(vlm, seen, [QUESTION] * 2, some)
    np.testing.assert_allclose(tree, ranking.rank_plainly(vlm, seen, [QUESTION] * 2, some), atol=2e-4)


def test_one_look_gives_what_separate_calls_give(family):
    _, _, vlm = family
    seen, some = pictures(3), NAMES[::15]
    asked = [QUESTION, QUESTION + " Please.", QUESTION]
    found = asking.examine(vlm, seen, asked, some, 6, [0, 2])
    assert found["answer"].tolist() == models.answer(vlm, seen, asked, 6)
    np.testing.assert_array_equal(found["likelihood"], ranking.rank(vlm, seen, asked, some))
    states, tower = features.features_and_tower(vlm, seen, asked, [0, 2])
    np.testing.assert_allclose(found["features"], states, atol=1e-4)
    np.testing.assert_array_equal(found["tower"], tower)


def test_answers_that_are_names_are_read_off_their_tree(family, monkeypatch):
    _, _, vlm = family
    said = iter(vlm.family.name_tokens(vlm, QUESTION, NAMES[7]))
    def no_step(*words): raise AssertionError("a token is generated")
    monkeypatch.setattr(asking, "likeliest", lambda vlm, states: [next(said)])
    for steps in ("decoder_steps", "encoded_steps"): monkeypatch.setattr(asking, steps, no_step)
    assert asking.examine(vlm, pictures(1), [QUESTION], NAMES)["answer"].tolist() == [NAMES[7]]


def test_settings_that_change_answers_are_kept(family, monkeypatch):
    _, _, vlm = family
    seen, asked = pictures(2), [QUESTION] * 2
    assert asking.plain(vlm)
    plainly = models.answer(vlm, seen, asked, 8)
    asked_by = vlm.net.language_model if vlm.family.encodes else vlm.net
    some = list(range(3, vlm.net.config.get_text_config().vocab_size, 2)) # half of all tokens
    monkeypatch.setattr(asked_by.generation_config, "suppress_tokens", some)
    assert not asking.plain(vlm)
    wanted = models.answer(vlm, seen, asked, 8)
    assert asking.examine(vlm, seen, asked, NAMES[:5], 8)["answer"].tolist() == wanted
    assert wanted != plainly or not any(plainly) # an end that comes at once stays where it is


def test_many_names_stand_in_several_trees(family, monkeypatch):
    _, _, vlm = family
    seen, some = pictures(2), NAMES[::9]
    whole = asking.examine(vlm, seen, [QUESTION] * 2, some, 5)
    monkeypatch.setattr(ranking, "NODES", 8)
    monkeypatch.setattr(vlm, "tries", {})
    assert len(ranking.tries_of(vlm, [QUESTION], some)) > 2
    apart = asking.examine(vlm, seen, [QUESTION] * 2, some, 5)
    assert apart["answer"].tolist() == whole["answer"].tolist()
    np.testing.assert_allclose(apart["likelihood"], whole["likelihood"], atol=2e-4)
    np.testing.assert_array_equal(ranking.rank(vlm, seen, [QUESTION] * 2, some), apart["likelihood"])


def test_answers_are_the_same_in_a_batch_and_alone(family):
    _, _, vlm = family
    seen, asked = pictures(3), [QUESTION, "Is this a rose?", QUESTION + " Please."]
    alone = [models.answer(vlm, seen[i:i + 1], asked[i:i + 1])[0] for i in range(3)]
    assert models.answer(vlm, seen, asked) == alone


def test_saved_and_read_again_it_says_the_same(family, tmp_path):
    kind, _, vlm = family
    artefacts.save_network(vlm.net, vlm.processor, tmp_path)
    again = models.load(str(tmp_path), 448)
    seen = pictures(1)
    assert models.answer(again, seen, [QUESTION]) == models.answer(vlm, seen, [QUESTION])
    np.testing.assert_array_equal(*(ranking.rank(v, seen, [QUESTION], NAMES[:8]) for v in (vlm, again)))
    own = vlm.net.get_output_embeddings().weight
    if kind != "qwen": assert (own != vlm.net.get_input_embeddings().weight).any() # stored on its own


def test_what_a_resting_tower_has_kept_is_what_looking_finds(family, tmp_path):
    from flowers102_study.core.work import Work
    _, _, vlm = family
    seen, answers = pictures(3), ["a rose", "an iris"]
    numbers = tower_numbers(vlm.net.config, vlm.side)
    work = Work({}, {}, tmp_path / "arm")
    assert resting.kept_bytes(work, vlm, seen.__getitem__) == 4 * numbers
    tower = resting.Tower(work, vlm, vlm.net, seen.__getitem__, 3, 2)
    try:
        rests = training.taught(vlm, tower.blank(2), [QUESTION] * 2, answers) | {
            "tower": tower.kept([2, 0])}
        looks = training.taught(vlm, seen[[2, 0]], [QUESTION] * 2, answers)
        assert abs(rests["pixel_values"] - looks["pixel_values"]).max() > .5
        for batch in (rests, looks): del batch["labels"]
        with torch.no_grad(): one, two = (vlm.net(**batch).logits for batch in (rests, looks))
    finally: tower.leave()
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_an_adapter_comes_back(family, tmp_path):
    from peft import get_peft_model
    from flowers102_study.sft import adapters
    kind, folder, _ = family
    vlm = models.load(str(folder), 448)
    block = {"train_vision_tower": False, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.}
    vlm.net = get_peft_model(vlm.net, adapters(block, vlm.family.tower))
    torch.manual_seed(0)
    for name, p in vlm.net.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(p, std=.05)
    assert not any("visual" in n or "vision" in n for n, _ in vlm.net.named_parameters() if "lora" in n)
    artefacts.save_network(vlm.net, vlm.processor, tmp_path)
    vlm.net = artefacts.merge(vlm.net)
    taught = ranking.rank(vlm, pictures(1), [QUESTION], NAMES[:5])
    again = models.load(str(tmp_path), 448)
    own = ranking.rank(again, pictures(1), [QUESTION], NAMES[:5])
    np.testing.assert_allclose(own, taught, atol=1e-3)
    _, _, before = family
    assert np.abs(ranking.rank(before, pictures(1), [QUESTION], NAMES[:5]) - taught).max() > .01


def test_a_head_comes_back(family, tmp_path):
    kind, folder, vlm = family
    if kind == "blip":
        with pytest.raises(SettingsError, match="heads sit on decoders"):
            heads.VLMForImageClassification(heads.VLMHeadConfig()).put_on(vlm.net)
        return
    facts = features.prompt_facts(vlm, QUESTION)
    x = features.features(vlm, pictures(2), [QUESTION] * 2, [2], ["last"])[:, 0, 0]
    where = {"layer": 2, "pooling": "last", "width": x.shape[1], "hidden": 0}
    model = heads.VLMForImageClassification(
        heads.described(facts, str(folder), tmp_path / "head", NAMES, **where))
    torch.nn.init.normal_(model.head.weight)
    heads.save_head(model, facts, tmp_path / "head")
    again = heads.VLMForImageClassification.from_pretrained(tmp_path / "head")
    with torch.inference_mode(): logits = again(vlm.normalised(pictures(2))).logits
    wanted = x @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    np.testing.assert_allclose(logits.numpy(), wanted, atol=2e-3)


def test_sharded_weights_keep_an_output_layer_of_its_own(family):
    _, folder, vlm = family
    whole = {name: value.clone() for name, value in vlm.net.state_dict().items()}
    net = artefacts.with_weights(artefacts.bare_network(str(folder)), whole)
    own, of = (n.get_output_embeddings().weight for n in (net, vlm.net))
    assert (own.float() == of.float()).all()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None,
                    reason="bitsandbytes is not installed")
def test_adapters_train_on_four_bits(family, tmp_path):
    from flowers102_study import sft
    kind, folder, _ = family
    if kind != "qwen": pytest.skip("one family is enough")
    vlm = models.load(str(folder), 256, "cpu", "float32", **sft.in_four_bits())
    assert any("4bit" in type(part).__name__ for part in vlm.net.modules())
    block = {"method": "lora", "lora_rank": 4, "train_vision_tower": False, "learning_rate": 1e-3,
             "warmup_ratio": .1, "weight_decay": 0., "gradient_checkpointing": False}
    model, seen = sft.trainable(vlm, block), pictures(4, 256)
    def collate(rows):
        return training.taught(vlm, seen[rows], [QUESTION] * len(rows), ["a rose"] * len(rows))
    how = training.arguments(tmp_path, block, 6, 4, 1, 0, "cpu")
    state = training.train_along(model, np.arange(24) % 4, collate, training.answer_loss, how,
                                 [training.watcher()], None)
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - .1
