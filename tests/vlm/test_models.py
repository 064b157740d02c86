"""The four families, loaded from what a smoke run saved: batches, other tools, bad input, the Hub."""
import json
import shutil

import numpy as np
import pytest
from flowers102_study.vlm import features, models, ranking
from flowers102_study.vlm.pocket_models import ARCHITECTURES
from flowers102_study.core.settings import SettingsError

NAMES = ["rose", "rose mallow", "tree mallow", "tree poppy", "iris", "lenten rose",
         "hard-leaved pocket orchid"]
QUESTIONS = ["Which flower is this?", "Name it.",
             "What is the name of the flower in this picture, if it is one?", "Which?", "Colour?"]
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)


@pytest.fixture(scope="session")
def saved(smoke): return {arm: next((smoke / "runs/.pocket").glob(f"{arm}-*")) for arm in ARCHITECTURES}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def arm(request): return request.param


@pytest.fixture(scope="module")
def vlm(saved, arm): return models.load(str(saved[arm]), 48)


def test_a_batch_gives_what_single_pictures_give(vlm):
    together = models.answer(vlm, PICTURES, QUESTIONS)
    singly = [models.answer(vlm, PICTURES[i:i + 1], [q])[0] for i, q in enumerate(QUESTIONS)]
    assert together == singly
    ranked = ranking.rank(vlm, PICTURES, QUESTIONS, NAMES)
    assert np.allclose(ranked,
                       np.concatenate([ranking.rank(vlm, PICTURES[i:i + 1], [q], NAMES)
                                       for i, q in enumerate(QUESTIONS)]), atol=1e-4)
    states = features.features(vlm, PICTURES, QUESTIONS, [0, -1])
    assert np.allclose(states,
                       np.concatenate([features.features(vlm, PICTURES[i:i + 1], [q], [0, -1])
                                       for i, q in enumerate(QUESTIONS)]), atol=1e-4)
    assert len(set(map(tuple, ranked.round(3).tolist()))) == 5 # each picture has its own


def test_the_tree_is_exact(vlm):
    tree = ranking.rank(vlm, PICTURES[:3], QUESTIONS[:3], NAMES)
    plain = ranking.rank_plainly(vlm, PICTURES[:3], QUESTIONS[:3], NAMES)
    assert abs(tree - plain).max() < 1e-4
    # a tree of one name
    assert np.allclose(ranking.rank(vlm, PICTURES[:3], QUESTIONS[:3], NAMES[:1]), tree[:, :1], atol=1e-4)


def test_transformers_alone_gives_the_same_answer(vlm, arm, saved):
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, GenerationConfig
    # the processor's own way, not ours
    net, processor = AutoModelForImageTextToText.from_pretrained(saved[arm]).eval(), vlm.processor
    text = vlm.family.text(processor, QUESTIONS[0], "")
    batch = processor(images=[Image.fromarray(PICTURES[0])], text=[text], return_tensors="pt")
    how = GenerationConfig(max_new_tokens=16, do_sample=False, eos_token_id=vlm.ends,
                           pad_token_id=processor.tokenizer.pad_token_id,
                           decoder_start_token_id=getattr(net.config.get_text_config(),
                                                          "decoder_start_token_id", None))
    with torch.inference_mode(): tokens = net.generate(**batch, generation_config=how)
    tokens = tokens if vlm.family.encodes else tokens[:, batch["input_ids"].shape[1]:]
    assert (processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
            == models.answer(vlm, PICTURES[:1], QUESTIONS[:1])[0])


def test_bfloat16_loads_and_ranks(saved, arm, vlm):
    half = models.load(str(saved[arm]), 48, dtype="bfloat16")
    assert next(p for p in half.net.parameters() if p.ndim > 3 or p.ndim == 2).dtype.itemsize == 2
    tree = ranking.rank(half, PICTURES[:2], QUESTIONS[:2], NAMES)
    plain = ranking.rank_plainly(half, PICTURES[:2], QUESTIONS[:2], NAMES)
    assert (np.allclose(tree, plain, rtol=.03, atol=.3)
            and np.allclose(tree, ranking.rank(vlm, PICTURES[:2], QUESTIONS[:2], NAMES), rtol=.05,
                            atol=.5))


def test_a_large_tree_is_walked_in_pieces(vlm, monkeypatch):
    whole = ranking.rank(vlm, PICTURES, QUESTIONS, NAMES)
    monkeypatch.setattr(ranking, "ROOM", 1)
    assert np.allclose(whole, ranking.rank(vlm, PICTURES, QUESTIONS, NAMES), atol=1e-4)


def test_features_are_hidden_states(vlm):
    import torch
    batch = models.inputs(vlm, PICTURES[:1], QUESTIONS[:1])
    with torch.inference_mode(): states = features.hidden_states(vlm, batch)[-1][0]
    seen = batch["input_ids"][0] == vlm.image_token
    found = features.features(vlm, PICTURES[:1], QUESTIONS[:1], [-1])[0, 0]
    assert (np.allclose(found, torch.stack([states[-1], states[seen].mean(0), states.mean(0)]).numpy(),
                        atol=1e-5) and seen.sum() == vlm.count)
    with pytest.raises(SettingsError, match="layers of hidden states"):
        features.features(vlm, PICTURES[:1], QUESTIONS[:1], [99])
    with pytest.raises(SettingsError, match="did you mean 'visual'"):
        features.features(vlm, PICTURES[:1], QUESTIONS[:1], [0], ["visuals"])


def test_another_size_is_resized_as_the_processor_would(saved, arm):
    vlm = models.load(str(saved[arm]), 40) # its probe compares with the processor, resizing included
    assert vlm.side in (32, 48) and len(models.answer(vlm, PICTURES[:, :40, :40], QUESTIONS)) == 5


def test_other_tools_find_a_whole_processor(saved, arm):
    folder = saved[arm]
    config = json.loads((folder / "processor_config.json").read_text())
    assert (config["processor_class"]
            in ("Qwen3VLProcessor", "Idefics2Processor", "InstructBlipProcessor"))
    if arm.startswith("qwen"):
        assert (config["video_processor"]["video_processor_type"] == "Qwen3VLVideoProcessor"
                and config["video_processor"]["patch_size"] == 8)
    else:
        from transformers import AutoProcessor
        assert type(AutoProcessor.from_pretrained(folder)).__name__ == config["processor_class"]
    assert not list(folder.glob("*.bin")) and (folder / "model.safetensors").exists()


def test_the_larger_stand_in_is_larger(saved):
    count = lambda arm: sum(p.numel() for p in models.load(str(saved[arm]), 48).net.parameters())
    assert count("qwen3-vl-8b") > 1.3 * count("qwen3-vl-4b")


def test_loads_a_pinned_revision_from_the_hubs_cache(saved, tmp_path, monkeypatch):
    revision = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--someone--flower-model"
    shutil.copytree(saved["idefics2-8b"], home / "snapshots" / revision)
    (home / "refs").mkdir(); (home / "refs/main").write_text(revision)
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    vlm = models.load(f"someone/flower-model@{revision}", 48)
    assert (vlm.revision == revision == models.load("someone/flower-model", 48).revision
            and vlm.net.config.model_type == "idefics2")
    with pytest.raises(SettingsError, match="could not load 'someone/flower-model@main2'"):
        models.load("someone/flower-model@main2", 48)


def test_bad_models_are_refused_with_advice(saved, tmp_path):
    from safetensors.numpy import load_file, save_file
    with pytest.raises(SettingsError, match="OWNER/NAME@REVISION"):
        models.load(str(tmp_path / "nowhere"), 48)
    other = tmp_path / "resnet"; other.mkdir()
    (other / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(SettingsError, match="unknown kind of model"): models.load(str(other), 48)
    torn = tmp_path / "torn"
    shutil.copytree(saved["idefics2-8b"], torn)
    weights = load_file(torn / "model.safetensors")
    weights.pop(next(k for k in weights if "connector" in k))
    save_file(weights, torn / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingsError, match="lacks 1 of its weights"): models.load(str(torn), 48)
    cut = tmp_path / "cut" # a download that ended early
    shutil.copytree(saved["idefics2-8b"], cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(SettingsError, match="could not load"): models.load(str(cut), 48)
    other = tmp_path / "shapes"
    shutil.copytree(saved["idefics2-8b"], other)
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 64
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="could not load"): models.load(str(other), 48)
    mute = tmp_path / "mute" # no chat template
    shutil.copytree(saved["idefics2-8b"], mute)
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(SettingsError, match="chat template"): models.load(str(mute), 48)
    pickled = tmp_path / "pickled"
    shutil.copytree(saved["idefics2-8b"], pickled)
    (pickled / "model.safetensors").unlink()
    import torch
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="safetensors"): models.load(str(pickled), 48)


def test_older_files_still_load(saved, tmp_path):
    # as InstructBLIP's were before transformers 4.46: no number of queries in the processor; and no end
    # token in the generation settings
    old = tmp_path / "old"
    shutil.copytree(saved["instructblip-flan-t5-xl"], old)
    config = json.loads((old / "processor_config.json").read_text())
    (old / "processor_config.json").write_text(json.dumps({k: v for k, v in config.items()
                                                           if k != "num_query_tokens"}))
    how = json.loads((old / "generation_config.json").read_text())
    (old / "generation_config.json").write_text(json.dumps({k: v for k, v in how.items()
                                                            if k != "eos_token_id"}))
    one, two = models.load(str(old), 48), models.load(str(saved["instructblip-flan-t5-xl"]), 48)
    assert (one.ends == two.ends
            and models.answer(one, PICTURES, QUESTIONS) == models.answer(two, PICTURES, QUESTIONS))


def test_real_sizes_on_meta():
    from flowers102_study.vlm.published import count_parameters, on_meta
    assert (count_parameters("Qwen/Qwen3-VL-4B-Instruct") == 4_437_815_808
            and count_parameters("Qwen/Qwen3-VL-8B-Instruct") == 8_767_123_696)
    assert (round(count_parameters("HuggingFaceM4/idefics2-8b") / 1e9, 1) == 8.4
            and round(count_parameters("Salesforce/instructblip-flan-t5-xl") / 1e9) == 4)
    for source in ("Qwen/Qwen3-VL-4B-Instruct", "HuggingFaceM4/idefics2-8b",
                   "Salesforce/instructblip-flan-t5-xl"):
        net = on_meta(source)
        # where the ranking will look for the decoder
        assert net.get_submodule(models.FAMILIES[net.config.model_type].decoder) is not None
