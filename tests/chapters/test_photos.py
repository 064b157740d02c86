"""The recipe for photographs: what a base is taught, and fine-tuning with Muon and a guide."""
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from conftest import at_work, copy_of_study
from flowers102_study import baselines, data, prompts, sft
from flowers102_study.core import dataset
from flowers102_study.core.launch import run_jobs
from flowers102_study.vlm.pretraining import taught_classes, with_photographs
from flowers102_study.core.records import sha256
from flowers102_study.core.settings import SettingsError, open_run
from flowers102_study.pictures.views import keyed, pasted
from test_data import class_folders

RECIPE = {"pocket.names": "photographs", "pocket.image_size": 32, "models.image_size": 32,
          "data.image_size": 40, "pocket.width": 48, "pocket.vision_layers": 3, "sft.optimizer": "muon",
          "sft.augment": True, "sft.color_jitter": .3, "sft.min_crop_area": .4, "data.center_crop": .8,
          "sft.label_smoothing": .05, "sft.auxiliary_weight": .3, "sft.paste_probability": .5,
          "sft.max_steps": 12, "sft.num_evals": 3, "launch.parallel_jobs": 1}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder, before = copy_of_study(tmp_path_factory.mktemp("photos")), os.getcwd()
    class_folders(folder / "own", classes=8, each=12)
    os.chdir(folder)
    yield folder
    os.chdir(before)


def prepared(study, name: str, **overrides):
    run = open_run("smoke", name, str(study / "own"), RECIPE | overrides)
    for job in (data.data_job(run), prompts.prompts_job(run), baselines.world_job(run),
                baselines.model_job(run, "qwen3-vl-4b"), sft.train_job(run)):
        run_jobs(run, [job], job.name)
    return run


@pytest.fixture(scope="module")
def whole(study): return prepared(study, "whole")


def test_a_base_meets_training_pictures_of_its_own_classes_alone(whole):
    drawn = np.zeros((10, 32, 32, 3), np.uint8)
    facts = [{"name": f"species {i}", "genus": "genus", "colour": "red", "known": True}
             for i in range(10)]
    pictures, told = with_photographs(drawn, facts, whole.data_folder, 42)
    names, classes = dataset.read_report(whole.data_folder)["classes"], taught_classes(8, 42)
    assert {f["name"] for f in told if f["known"]} == {names[k] for k in classes} and len(classes) == 2
    assert all(f["name"] == "genus" for f in told if "colour" in f) and len(pictures) == len(told) == 20
    assert baselines.taught_names(whole, names) == {names[k] for k in classes}


def test_models_look_at_the_middle_and_trainings_crop_from_the_whole(whole):
    from PIL import Image
    made, cut = data.data_job(whole), dataset.read_index(whole.data_folder, "train")
    pixels, wide = dataset.read_pixels(whole.data_folder, "train"), dataset.read_whole(whole.data_folder)
    assert pixels.shape[1:] == (40, 40, 3) and wide.shape == (len(cut), 50, 50, 3)
    middle = np.asarray(Image.fromarray(wide[0]).crop((5, 5, 45, 45)))
    shrunk = np.asarray(Image.fromarray(wide[0]).resize((40, 40)))
    apart = lambda picture: np.abs(picture.astype(int) - pixels[0]).mean()
    assert apart(middle) < 12 < apart(shrunk)
    spec = sft.train_job(whole).spec
    plain = spec | {"sft": spec["sft"] | {"augment": False}}
    shown = lambda s: sft.lessons(at_work(replace(sft.train_job(whole), spec=s)))[1][0][0].shape[1]
    assert (shown(spec), shown(plain)) == (50, 40) and made.spec["data"]["center_crop"] == .8


def test_what_is_exported_looks_at_the_middle_too():
    from PIL import Image
    from flowers102_study.vlm.heads import image_processor
    from flowers102_study.pictures.sources import squared
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)).resize(
        (400, 300), Image.Resampling.BICUBIC)
    theirs = {crop: np.asarray(image_processor(32, crop, 3, [0, 0, 0], [1, 1, 1])(photo)["pixel_values"][
                                   0]).transpose(1, 2, 0) for crop in (1, .8)}
    for crop in theirs: assert np.abs(theirs[crop] - squared(photo, 32, crop) / 255).mean() < .01
    assert np.abs(theirs[1] - theirs[.8]).mean() > .05


def test_a_box_leaves_the_larger_half_and_the_targets_say_how_much():
    import torch
    black, white = (np.full((60, 32, 32, 3), value, np.uint8) for value in (0, 255))
    own, other = torch.eye(2)[[0] * 60], torch.eye(2)[[1] * 60]
    seen, targets = pasted(black, own, white, other, keyed(1, 0, range(60))[:, 10:15], .5)
    covered = seen.mean((1, 2, 3)) / 255
    assert covered.max() <= .5 + 1 / 32 and 10 < (covered > 0).sum() < 50 # a box ends on whole pixels
    assert np.allclose(targets[:, 1], covered, atol=1e-5) and np.allclose(targets.sum(1), 1)


def test_fine_tuning_has_threads_of_its_own(whole):
    run = whole.changed({"launch.threads_alone": 3})
    assert (sft.train_job(run).threads == 3 and sft.arm_job(run).threads == 0
            and sft.train_job(run).spec == sft.train_job(whole).spec)
    # several processes share the cores already
    assert sft.train_job(run.changed({"launch.num_processes": 2})).threads == 0


def test_the_sizes_are_the_profile_s(whole):
    config = json.loads((baselines.model_job(whole, "qwen3-vl-4b").out / "config.json").read_text())
    assert (config["vision_config"]["hidden_size"] == 48 and config["vision_config"]["depth"] == 3
            and config["vision_config"]["num_position_embeddings"] == 16)


def test_the_guide_is_gone_and_the_training_is_told(whole):
    from safetensors import safe_open
    made = sft.train_job(whole).out
    with safe_open(made / "model.safetensors", "np") as file:
        assert not any("guide" in name for name in file.keys())
    history = json.loads((made / "history.json").read_text())
    losses = [h["loss"] for h in history if "loss" in h]
    assert (losses[-1] < losses[0]
            and json.loads((made / "result.json").read_text())["settings"]["sft"]["optimizer"] == "muon")


def test_a_training_that_was_cut_ends_with_the_same_weights(study, whole, fault):
    again = open_run("smoke", "cut", str(study / "own"), RECIPE)
    for job in (data.data_job(again), prompts.prompts_job(again), baselines.world_job(again),
                baselines.model_job(again, "qwen3-vl-4b")):
        run_jobs(again, [job], job.name)
    job = sft.train_job(again)
    # two batches to a step: in the ninth, behind the second checkpoint
    fault(at="transformers.trainer:Trainer.training_step", call=18, do="kill")
    with pytest.raises(RuntimeError, match="ended with status -9"): run_jobs(again, [job], "cut")
    fault()
    run_jobs(again, [job], "again")
    # it went on
    assert (" 12/12 " in (again.logs / "again.log").read_text() and
            " 4/12 " not in (again.logs / "again.log").read_text())
    assert (sha256(job.out / "model.safetensors")
            == sha256(sft.train_job(whole).out / "model.safetensors"))


def test_two_processes_train_along_the_same_pictures(study, whole):
    two = prepared(study, "two", **{"launch.num_processes": 2})
    read = lambda run: [h["loss"]
                        for h in json.loads((sft.train_job(run).out / "history.json").read_text())
                        if "loss" in h]
    # the first step, before rounding is magnified
    assert read(two)[0] == pytest.approx(read(whole)[0], abs=1e-4)


def test_an_adapter_trains_without_a_guide(whole):
    assert (sft.train_job(whole.changed({"sft.method": "lora"})).spec["sft"]["auxiliary_weight"] == 0
            < sft.train_job(whole).spec["sft"]["auxiliary_weight"])


@pytest.mark.parametrize("wrong, said",
                         [({"sft.optimizer": "sgd"}, "optimizer"),
                          ({"pocket.image_size": 50}, "multiple of 16"),
                          ({"pocket.width": 100}, "of 24"), ({"pocket.names": "Latin"}, "pocket.names"),
                          ({"sft.color_jitter": 1.5}, "sft.color_jitter"),
                          ({"resnet.mix_probability": 0.}, "resnet.mix_probability"),
                          ({"sft.min_crop_area": 0.}, "sft.min_crop_area"),
                          ({"sft.paste_probability": 1.5}, "sft.paste_probability"),
                          ({"sft.paste_probability": .5, "sft.augment": False}, "sft.paste_probability"),
                          ({"resnet.min_crop_area": 2.}, "resnet.min_crop_area"),
                          ({"data.center_crop": 0.}, "data.center_crop"),
                          ({"sft.optimizer": "muon", "launch.accelerate_config": "fsdp2",
                            "launch.num_processes": 2}, "launch.accelerate_config ddp")])
def test_wrong_values_are_refused(wrong, said):
    from flowers102_study import resnet
    run = open_run("smoke", overrides=wrong)
    with pytest.raises(SettingsError, match=said):
        data.jobs(run), sft.jobs(run), resnet.jobs(run)
