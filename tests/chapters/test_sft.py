"""Fine-tuning on one process, on two, and with shared weights; checkpoints, adapters, a tuned model."""
import importlib.util
import json
import os
import shutil

import numpy as np
import pytest
from conftest import copy_of_study
from flowers102_study import baselines, classifier, data, prompts, sft
from flowers102_study.core.launch import run_jobs
from flowers102_study.core.settings import SettingsError, open_run
from safetensors.numpy import load_file

WAYS = {"one": {}, "ddp": {"launch.num_processes": 2},
        "fsdp2": {"launch.num_processes": 2, "launch.accelerate_config": "fsdp2"},
        "zero3": {"launch.num_processes": 2, "launch.accelerate_config": "zero3"}}
DEEPSPEED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None,
                               reason="deepspeed is not installed (pip install deepspeed)")


@pytest.fixture(scope="module")
def study(tmp_path_factory, smoke): # with the models that the smoke run has made
    folder, before = copy_of_study(tmp_path_factory.mktemp("sft")), os.getcwd()
    shutil.copytree(smoke / "runs/.pocket", folder / "runs/.pocket")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def prepared(name: str, **overrides):
    "Open a smoke run with data and questions: a batch of 8, in two parts or on two processes."
    run = open_run("smoke", name, overrides={"launch.parallel_jobs": 1} | overrides)
    for job in (data.data_job(run), prompts.prompts_job(run)): run_jobs(run, [job], job.name)
    return run


@pytest.fixture(scope="module")
def trained(study): # {(method, way): Run}
    found = {}
    for method, ways in (("full", ("one", "ddp", "fsdp2")), ("lora", ("one", "fsdp2"))):
        for way in ways:
            found[method, way] = run = prepared(f"{method}-{way}", **WAYS[way],
                                                **{"sft.method": method,
                                                   "sft.train_vision_tower": method == "lora"})
            run_jobs(run, [sft.train_job(run)], "sft")
    return found


def history(run) -> list: return json.loads((sft.train_job(run).out / "history.json").read_text())


def weights(run) -> dict: return load_file(next(sft.train_job(run).out.glob("*model.safetensors")))


@DEEPSPEED
def test_zero3_trains_as_ddp_does_and_its_model_opens(study, trained):
    from transformers import AutoModelForImageTextToText
    run = prepared("full-zero3", **WAYS["zero3"], **{"sft.train_vision_tower": False})
    run_jobs(run, [sft.train_job(run)], "sft")
    losses = [[h["loss"] for h in history(r) if "loss" in h] for r in (run, trained["full", "ddp"])]
    assert np.allclose(*losses, atol=1e-4)
    out = sft.train_job(run).out
    _, told = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert not told["missing_keys"]


@pytest.mark.parametrize("way, minutes", [("one", 1e-9), ("one", 1e9), ("fsdp2", 1e9)],
                         ids=["at every log", "never", "never, sharded"])
def test_when_checkpoints_are_written_changes_no_result(trained, way, minutes):
    run = prepared(f"full-{way}-{minutes:.0f}", **WAYS[way],
                   **{"launch.checkpoint_minutes": minutes, "sft.train_vision_tower": False})
    run_jobs(run, [sft.train_job(run)], "sft")
    files = lambda r: {p.name: p.read_bytes() for p in sorted(sft.train_job(r).out.iterdir())
                       if p.suffix in (".safetensors",) or p.name == "history.json"}
    one, two = files(run), files(trained["full", way])
    assert one.keys() == two.keys() and all(one[name] == two[name] for name in one)


@pytest.mark.parametrize("method, way", [("full", "one"), ("lora", "one"), ("full", "ddp"),
                                         ("full", "fsdp2")])
def test_a_resting_tower_is_asked_once(study, method, way):
    told = {}
    for kept in (0., 1.): # in two parts a step, or on two processes; with activations computed twice
        run = prepared(f"tower-{method}-{way}-{kept:.0f}", **WAYS[way],
                       **{"sft.method": method, "sft.max_steps": 14, "sft.train_vision_tower": False,
                          "sft.gradient_checkpointing": way == "ddp", "launch.tower_gigabytes": kept})
        run_jobs(run, [sft.train_job(run)], "sft")
        told[kept] = run, [h["loss"] for h in history(run) if "loss" in h]
        asked_once = "shown to the tower" in (run.logs / "sft.log").read_text()
        assert asked_once == (kept > 0) and not (sft.train_job(run).out / "checkpoints").exists()
    (one, losses), (two, others) = told.values()
    assert len(losses) == 14 and np.allclose(losses, others, atol=1e-5)
    for name, value in weights(one).items(): assert np.allclose(value, weights(two)[name], atol=1e-4)


def test_half_precision_comes_back_from_its_file(tmp_path):
    import torch
    from flowers102_study.core.work import Work
    from flowers102_study.vlm import resting
    from flowers102_study.vlm.pocket_models import build
    vlm = build("qwen3-vl-4b", ["rose", "Which flower?"], 0)
    vlm.net.to(torch.bfloat16).eval()
    seen = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)
    tower = resting.Tower(Work({}, {}, tmp_path / "arm"), vlm, vlm.net, seen.__getitem__, 5, 2)
    assert tower.folder.name == "tower-bfloat16" and len(list(tower.folder.iterdir())) == 3
    parts, _ = resting.looked(vlm, seen[2:4])
    whole = torch.cat([part.reshape(2, -1) for part in parts], 1)
    assert whole.dtype == torch.bfloat16 and torch.equal(tower.kept(np.array([2, 3])), whole)
    tower.leave()


def test_between_checkpoints_the_best_weights_are_kept_alone(tmp_path):
    from flowers102_study.core.records import seal
    from flowers102_study.vlm.training import checkpoints, newest, prune
    for step, whole in ((5, False), (10, True), (15, False), (20, True), (30, True), (40, False),
                        (50, False)):
        place = tmp_path / f"checkpoint-{step}"
        place.mkdir()
        (place / "model.safetensors").write_text("weights")
        if whole: (place / "optimizer.pt").write_text("moments")
        best = 15 if step == 20 else 5 # as far as that training knew
        (place / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
        seal(place)
    prune(tmp_path, best=50)
    assert list(checkpoints(tmp_path)) == [5, 15, 20, 30, 50]
    # what comes after the one that can be resumed is trained again
    assert newest(tmp_path).name == "checkpoint-30"
    assert list(checkpoints(tmp_path)) == [5, 15, 20, 30]


@pytest.mark.parametrize("method, way", [("full", "ddp"), ("full", "fsdp2"), ("lora", "fsdp2")])
def test_two_processes_take_the_steps_of_one(trained, method, way):
    one, two = trained[method, "one"], trained[method, way]
    losses = [[h["loss"] for h in history(run) if "loss" in h] for run in (one, two)]
    assert len(losses[0]) == 4 and np.allclose(*losses, atol=1e-5)
    assert ([h["validation"] for h in history(one) if "validation" in h]
            == [h["validation"] for h in history(two) if "validation" in h])
    assert weights(one).keys() == weights(two).keys()
    for name, value in weights(one).items():
        assert np.allclose(value, weights(two)[name], atol=1e-4), name
    told = json.loads((sft.train_job(two).out / "result.json").read_text())
    assert told["world_size"] == 2 and told["steps"] == 4 and told["batch"] == 8


def test_what_rests_keeps_every_bit_and_what_trains_moves(trained):
    run = trained["full", "one"]
    base = load_file(baselines.model_job(run, "qwen3-vl-4b").out / "model.safetensors")
    moved = {n for n, v in weights(run).items() if not np.array_equal(v, base[n])}
    assert (moved and not any("visual" in n for n in moved)
            and moved == {n for n in base if "visual" not in n})
    adapter = weights(trained["lora", "one"])
    assert (any("visual" in n for n in adapter)
            and all(v.any() for n, v in adapter.items() if "lora_B" in n))


def test_an_adapter_is_exported_merged_where_its_base_is_only_here(trained, tmp_path):
    import torch
    from flowers102_study.core.launch import run_jobs
    from flowers102_study.vlm.models import load
    from flowers102_study.sharing import export
    from transformers import AutoModelForImageTextToText
    run = trained["lora", "one"]
    run_jobs(run, [sft.arm_job(run)], "sft")
    files = export(run, "qwen3-vl-4b-sft", tmp_path / "out")
    assert ("adapter_config.json" not in files and
            "/tmp" not in (tmp_path / "out/config.json").read_text())
    alone = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    adapted = load(str(sft.train_job(run).out), 48)
    from flowers102_study.vlm.models import inputs
    asked = inputs(adapted, np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8),
                   ["Which flower is this?"] * 2)
    with torch.no_grad():
        assert torch.allclose(alone(**asked).logits, adapted.net(**asked).logits, atol=1e-3)


def test_checkpointing_changes_memory_not_losses(study):
    import tempfile
    from pathlib import Path
    from accelerate.utils import set_seed
    from flowers102_study.vlm.models import load
    from flowers102_study.vlm.training import (answer_loss, arguments, line_up, taught, train_along,
                                                watcher)
    source = str(next((study / "runs/.pocket").glob("qwen3-vl-4b-*")))
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48, 3), np.uint8)
    losses = []
    for checkpointing in (False, True):
        vlm = load(source, 48)
        set_seed(0)
        # the tower's adapters have gone without gradients in other code
        model = sft.trainable(vlm, {"method": "lora", "lora_rank": 2, "train_vision_tower": True})
        collate = lambda rows: taught(vlm, images[rows], ["Which flower is this?"] * len(rows),
                                      [f"flower {r}" for r in rows])
        with tempfile.TemporaryDirectory() as place:
            # the watcher looks after the fourth
            how = arguments(Path(place),
                            {"learning_rate": 1e-3, "warmup_ratio": .1, "weight_decay": 0.,
                             "gradient_checkpointing": checkpointing}, 5, 6, 1, 0, "cpu")
            losses.append([h["loss"]
                           for h in train_along(model, line_up(6, 5, 6, 0), collate, answer_loss, how,
                                                [watcher()], None).log_history if "loss" in h])
    assert len(losses[0]) == 5 and losses[0][4] < losses[0][0]
    assert np.allclose(*losses, atol=1e-3) # Adam magnifies rounding
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-5)


def test_a_sharded_training_is_killed_exported_and_goes_on(trained, tmp_path, fault):
    from flowers102_study.sharing import export
    from transformers import AutoModelForImageTextToText
    run = prepared("killed", **WAYS["fsdp2"], **{"sft.max_steps": 12, "sft.num_evals": 6})
    job = sft.train_job(run)
    partial = job.out.with_name(job.name + ".partial")
    fault(at="transformers.trainer:Trainer.training_step", call=6, do="kill", rank=1)
    with pytest.raises(RuntimeError, match="ended with status"): run_jobs(run, [job], "killed")
    fault()
    assert len(list(partial.glob("checkpoints/checkpoint-*/manifest.json"))) == 2
    assert list(partial.glob("checkpoints/checkpoint-*/pytorch_model_fsdp_0/*.distcp")) # really sharded
    (partial / "checkpoints/checkpoint-99").mkdir() # half-written
    files = export(run, job.name, tmp_path / "newest")
    assert ("model.safetensors" in files and
            "has not been evaluated" in (tmp_path / "newest/README.md").read_text())
    net, told = AutoModelForImageTextToText.from_pretrained(tmp_path / "newest",
                                                            output_loading_info=True)
    assert not told["missing_keys"]
    with pytest.raises(SettingsError, match="no whole checkpoint of step 7"):
        export(run, job.name, tmp_path / "other", step=7)
    run_jobs(run, [job], "sft")
    steady = prepared("steady", **{"sft.max_steps": 12, "sft.num_evals": 6})
    run_jobs(steady, [sft.train_job(steady)], "sft")
    for name, value in weights(steady).items():
        assert np.allclose(value, weights(run)[name], atol=1e-4), name


def test_a_model_that_is_fine_tuned_already_is_asked_and_not_trained(trained):
    source = str(sft.train_job(trained["full", "one"]).out)
    run = open_run("smoke", "published", overrides={"sft.source": source})
    assert sft.train_job(run) is None and len(sft.jobs(run)) == 1
    assert (sft.arm_job(run).spec["model"] == source
            == classifier.features_job(run, "qwen3-vl-4b-sft").spec["model"])


@pytest.mark.parametrize("key, value, said",
                         [("sft.method", "loras", "did you mean 'lora'"),
                          ("sft.base", "qwen3-vl-4", "did you mean 'qwen3-vl-4b'"),
                          ("sft.batch_size", 0, "at least 1"), ("sft.max_steps", 1, "2 max_steps"),
                          ("sft.learning_rate", 0, "above 0"), ("classifier.penalties", [0.], "above 0"),
                          ("classifier.layers", [], "need values")])
def test_settings_that_cannot_be_are_refused(study, key, value, said):
    run = open_run("smoke", "bad", overrides={key: value})
    with pytest.raises(SettingsError, match=said): sft.jobs(run), classifier.jobs(run)


def test_a_batch_that_cannot_be_shared_is_refused():
    from flowers102_study.vlm.training import share_out
    with pytest.raises(SettingsError, match="multiple of 3"): share_out(64, 8, 1000, 3)
    assert share_out(64, 8, 10, 3) == (9, 3, 1) # fewer pictures than a batch


def test_few_pictures_are_not_passed_over_hundreds_of_times(study):
    run = open_run("smoke", overrides={"sft.shots": 2})
    with pytest.raises(SettingsError, match="sft.shots trains by passes"): sft.train_job(run)
    block = open_run("smoke", overrides={"sft.shots": 2, "sft.max_steps": 0, "sft.epochs": 3}).sft
    assert sft.step_count(block, n=12, batch=4) == 9
    assert sft.step_count(block | {"min_steps": 20}, n=12, batch=4) == 20


def test_adapters_beside_a_head_train_in_float32_on_a_base_in_half(study):
    import torch
    from peft.tuners.lora import LoraModel
    from flowers102_study.joint import in_float32
    from flowers102_study.vlm.pocket_models import build
    vlm = build("qwen3-vl-4b", ["a rose", "an iris"] * 3, 0)
    net = vlm.net.to(torch.bfloat16)
    block = {"lora_rank": 2, "train_vision_tower": False}
    tuner = LoraModel(net, sft.adapters(block, vlm.family.tower), "default")
    in_float32(tuner)
    kinds = {("lora_" in name, p.dtype) for name, p in tuner.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_four_bits_are_for_adapters_and_want_a_library(study, monkeypatch):
    run = open_run("smoke", overrides={"sft.quantization": "4bit"})
    with pytest.raises(SettingsError, match="whole weights of four bits"): sft.train_job(run)
    assert sft.train_job(open_run("smoke", overrides={"sft.quantization": "4bit", "sft.method": "lora"}))
    monkeypatch.setattr(sft.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install bitsandbytes"): sft.in_four_bits()
