"""Mixed pictures, and arms that differ in one setting, on what the smoke run has made."""
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from conftest import at_work
from flowers102_study import ablation, augment, classifier, hypotheses, sft
from flowers102_study.core.settings import SettingsError, open_run
from flowers102_study.core.dataset import read_index, read_pixels


@pytest.fixture(scope="module")
def run(smoke):
    before = os.getcwd()
    os.chdir(smoke)
    yield open_run("smoke")
    os.chdir(before)


def mixed_share(task): return augment.mixtures(*task)


def test_mixtures_do_not_depend_on_the_workers(run):
    pixels = np.array(read_pixels(run.data_folder, "train"))
    labels = read_index(run.data_folder, "train").label
    rows, others, u = augment.partners(labels, .5, 42)
    tasks = lambda step: [(pixels, rows[i:i + step], others[i:i + step], u[i:i + step], run.augment)
                          for i in range(0, len(rows), step)]
    join = lambda parts: [np.concatenate(p) for p in zip(*parts)]
    alone = join(map(mixed_share, tasks(len(rows))))
    with ThreadPoolExecutor(2) as pool: shared = join(pool.map(mixed_share, tasks(7)))
    assert all((a == b).all() for a, b in zip(alone, shared))


def test_mixed_pictures_are_of_training_pictures_only(run):
    rows, pixels = augment.read_mixed(run.folder / "augment")
    train = set(read_index(run.data_folder, "train").image_id)
    assert len(rows) == len(pixels) == int(.22 * len(train)) > 10
    assert {part for r in rows for part in r["parts"]} <= train
    names = dict(zip(read_index(run.data_folder).image_id, read_index(run.data_folder).name))
    for r in rows:
        large = r["parts"][0 if r["share"] >= .5 else 1]
        assert r["answer"] == names[large] and names[r["parts"][0]] != names[r["parts"][1]]
    for form in ("transformers", "lmms-engine"):
        told = (run.folder / "augment" / form / "open-qa-mixed.train.jsonl").read_text().splitlines()
        assert (len(told) == len(train) + len(rows)
                and [json.loads(line)["id"] for line in told]
                != sorted(json.loads(line)["id"] for line in told))


def test_mixed_lessons_are_taught(run):
    other = run.changed({"sft.mixed": True})
    job = sft.train_job(other)
    rows, shown = sft.lessons(at_work(job))
    plain_rows, plain_shown = sft.lessons(at_work(sft.train_job(run)))
    made, pixels = augment.read_mixed(run.folder / "augment")
    assert (len(rows) == len(plain_rows) + len(made) and rows[-1]["answer"] == made[-1]["answer"]
            and (shown[-1][0][shown[-1][1]] == pixels[-1]).all())
    few = sft.train_job(run.changed({"sft.shots": 1, "sft.max_steps": 0, "sft.epochs": 1}))
    assert len(sft.lessons(at_work(few))[0]) == 6


def test_ablation_arms_differ_in_one_setting(run):
    read = lambda arm: json.loads((run.arm(arm) / "result.json").read_text())
    flat = lambda tree, prefix="": {k: v for key, value in tree.items()
                                    for k, v in (flat(value, f"{prefix}{key}.")
                                                 if isinstance(value, dict)
                                                 else {f"{prefix}{key}": value}).items()}
    made = lambda arm: json.loads((run.folder / "models" / arm / "result.json").read_text())
    differing = lambda a, b: {k for k in flat(a) | flat(b) if flat(a).get(k) != flat(b).get(k)}
    assert (differing(made("qwen3-vl-4b-sft")["settings"], made("qwen3-vl-4b-sft-mixcut")["settings"])
            == {"sft.mixed"})
    # full training has no rank
    assert (differing(made("qwen3-vl-4b-sft")["settings"], made("qwen3-vl-4b-sft.lora4")["settings"])
            == {"sft.method", "sft.lora_rank"})
    assert (differing(read("qwen3-vl-4b")["settings"], read("qwen3-vl-4b.side32")["settings"])
            == {"models.image_size"})
    assert (read("qwen3-vl-4b")["data"] == read("qwen3-vl-4b.brief")["data"]
            and read("qwen3-vl-4b")["prompts"] != read("qwen3-vl-4b.brief")["prompts"])


def test_choices_are_validations_best(run):
    for head in classifier.bases(run):
        sweep = json.loads((run.arm(head) / "sweep.json").read_text())
        for key, value, name in ablation.choices(run):
            chosen = json.loads((run.arm(f"{head}.{name}") / "result.json").read_text())["chosen"]
            assert (chosen[key] == value
                    and chosen["validation"] == max(s["validation"] for s in sweep if s[key] == value))
        free = json.loads((run.arm(head) / "result.json").read_text())
        layer = run.arm(f"{head}.layer{free['chosen']['layer']}")
        same = json.loads((layer / "result.json").read_text())
        assert same["correct"] == free["correct"] # what the sweep kept is what the arm says


def test_refitting_everything_gives_the_head_again(run, tmp_path):
    import torch
    threads = torch.get_num_threads()
    # as the job did: with two, sums differ in their last bits, and the solver stops a step later
    torch.set_num_threads(1)
    for number in (0, 1):
        job = ablation.refit_job(run, "qwen3-vl-4b-head", number, 0)
        (tmp_path / str(number)).mkdir()
        ablation.refit(at_work(job, tmp_path / str(number)))
    torch.set_num_threads(threads)
    again, head = (pd.read_parquet(p / "predictions.parquet")
                   for p in (tmp_path / "0", run.arm("qwen3-vl-4b-head")))
    assert np.allclose(np.stack(again.log_probs), np.stack(head.log_probs), atol=1e-5)
    chosen = json.loads((tmp_path / "1" / "result.json").read_text())
    assert chosen["seed"] == 43 and chosen["pictures"] == len(read_index(run.data_folder, "train"))


def test_summary_is_the_records(run):
    summary = json.loads((run.folder / "ablation/ablation.json").read_text())
    assert set(summary["tables"]) == {"mixing", "training", "wording", "size", "protocols",
                                      "choices"}
    for row in (r for rows in summary["tables"].values() for r in rows):
        one, two = (pd.read_parquet(run.arm(a) / "predictions.parquet").query("split == 'test'")
                    for a in (row["arm"], row["reference"]))
        assert np.isclose(row["difference"]["value"],
                          (one.label == one.prediction).mean() - (two.label == two.prediction).mean())
    for head, points in summary["curves"].items():
        assert ([p["shots"] for p in points] == [1] and points[0]["seeds"] == 2
                and points[0]["pictures"] == 6)


def test_base_to_new_teaches_half_of_the_classes(run):
    from flowers102_study.prompts import read_prompts
    (arm,) = ablation.halved_jobs(run)
    taught = arm.inputs["model"]
    rows = read_prompts(taught.inputs["prompts"].out, "open-qa")
    labels = {split: {r["label"] for r in rows if r["split"] == split}
              for split in ("train", "validation", "test")}
    assert labels == {"train": {0, 1, 2}, "validation": {0, 1, 2}, "test": set(range(6))}
    whole = read_prompts(run.folder / "prompts", "open-qa", "train")
    assert [r for r in rows if r["split"] == "train"] == [r for r in whole if r["label"] < 3]
    # what is asked afterwards are the whole run's questions
    assert arm.inputs["prompts"].out == run.folder / "prompts"
    summary = json.loads((run.folder / "ablation/ablation.json").read_text())
    assert [row["arm"] for row in summary["halves"]] == ["qwen3-vl-4b", "qwen3-vl-4b-sft", arm.name]
    for row in summary["halves"]:
        said = pd.read_parquet(run.arm(row["arm"]) / "predictions.parquet").query("split == 'test'")
        new = said[said.label >= 3]
        ranked = np.stack(new.log_probs)[:, 3:].argmax(1) + 3
        assert row["new"]["correct"] == (ranked == new.label).sum() and row["new"]["n"] == 12


def test_examples_are_training_pictures_of_several_classes(run):
    from flowers102_study.protocols import drawn_examples
    labels = read_index(run.data_folder, "train").label.to_numpy()
    drawn = [drawn_examples(image, labels, 3, 42)
             for image in read_index(run.data_folder, "test").image_id]
    assert all(len({labels[k] for k in rows}) == 3 and max(rows) < len(labels) for rows in drawn)
    assert len({tuple(rows) for rows in drawn}) > 12 # not the same for every question
    assert drawn[0] == drawn_examples(read_index(run.data_folder, "test").image_id[0], labels, 3, 42)
    result = json.loads((run.arm("qwen3-vl-4b.examples1") / "result.json").read_text())
    assert result["settings"]["examples"] == 1 and result["n"] == 24


def test_a_list_of_names_is_the_only_difference(run):
    from flowers102_study.prompts import read_prompts
    names = json.loads((run.data_folder / "report.json").read_text())["classes"]
    listed = read_prompts(run.folder / "prompts.listed", "open-qa", "test")
    plain = read_prompts(run.folder / "prompts", "open-qa", "test")
    assert all(", ".join(names) in row["question"] for row in listed)
    assert [r["answer"] for r in listed] == [r["answer"] for r in plain]
    assert (read_prompts(run.folder / "prompts.listed", "closed-qa")
            == read_prompts(run.folder / "prompts", "closed-qa"))


def test_other_protocols_are_refused_by_name(run):
    from flowers102_study.protocols import asked_by, protocols
    with pytest.raises(SettingsError, match="ablation.protocols knows listed"):
        protocols(run.changed({"ablation.protocols": ["exampels2"]}))
    everyone = run.changed({"ablation.models": [*ablation.arms(run)]})
    assert "instructblip-flan-t5-xl" not in asked_by(everyone) and len(asked_by(everyone)) == 3


def test_seeds_of_fine_tuning_reach_the_heads_on_it(run):
    by_arm = ablation.seed_jobs(run)
    tuned = ("qwen3-vl-4b-sft", "qwen3-vl-4b-sft-head", "qwen3-vl-4b-sft-tower-head")
    # nothing of the base is trained again
    assert ({arm: [j.name for j in jobs] for arm, jobs in by_arm.items()}
            == {a: [f"{a}.s1"] for a in tuned})
    read = {job.name for job in ablation.everything(by_arm["qwen3-vl-4b-sft-head"][0]).values()}
    assert "qwen3-vl-4b-sft.s1" in read # features of the model that was trained with the other seed
    features = by_arm["qwen3-vl-4b-sft-head"][0].inputs["features"]
    # the same pictures
    assert features.inputs["model"].spec["seed"] == 43
    assert features.inputs["data"] == ablation.data_job(run)
    resting = ablation.seed_jobs(run.changed({"sft.train_vision_tower": False}))
    assert set(resting) == set(tuned[:2]) # the tower of a model whose tower rests is the base's
    summary = json.loads((run.folder / "ablation/ablation.json").read_text())
    assert {arm: len(s["accuracies"]) for arm, s in summary["seeds"].items()} == dict.fromkeys(tuned, 2)


def test_every_seed_is_a_training(run):
    from flowers102_study.core.records import sha256
    from flowers102_study.resnet import network_jobs
    for one, two in (("models/qwen3-vl-4b-sft", "models/qwen3-vl-4b-sft.s1"),
                     ("arms/resnet50/model", "arms/resnet50.s1/model")):
        assert (sha256(run.folder / one / "model.safetensors")
                != sha256(run.folder / two / "model.safetensors"))
    made = {job.name: job for job in network_jobs(run)}
    one, two = made["resnet50"], made["resnet50.s1"]
    assert (two.spec == one.spec | {"seed": 43}
            and not any(".s1" in job.name
                        for job in network_jobs(run.changed({"ablation.retrain": ["sft"]}))))


def test_heads_read_the_language_model_and_their_controls_the_tower(run):
    read = lambda arm: json.loads((run.arm(arm) / "result.json").read_text())
    for head in classifier.bases(run):
        assert (read(head)["chosen"]["layer"] in run.classifier["layers"]
                and 0 not in run.classifier["layers"])
    for control in classifier.controls(run):
        assert (read(control)["chosen"]["layer"], read(control)["chosen"]["pooling"]) == (0, "tower")
    x = classifier.stored_features(run.folder / "features/qwen3-vl-4b",
                                   classifier.features_job(run, "qwen3-vl-4b").spec, 0, "tower")
    # layer 0, and the inner output that Qwen3-VL's first layer is given
    assert x["test"].shape == (24, 2 * 96)
    with pytest.raises(ValueError, match="1 and up"):
        classifier.jobs(run.changed({"classifier.layers": [0, 2]}))


def test_models_of_the_ablations(run):
    from flowers102_study.checking import diagnose
    from flowers102_study.sharing import arm_model
    for arm in ("qwen3-vl-4b-sft-mixcut", "qwen3-vl-4b-sft.lora4"): # trained models of their own
        assert [check.name for check in diagnose(run, arm) if not check.held] == []
    for arm, said in (("qwen3-vl-4b-head.layer2", "keep no model; qwen3-vl-4b-head has one"),
                      ("qwen3-vl-4b-head.shots1.s1", "keep no model"),
                      ("qwen3-vl-4b.brief", "asked in another way; take qwen3-vl-4b")):
        with pytest.raises(ValueError, match=said): arm_model(run, arm)


def test_a_name_with_a_dot_is_compared_with_the_one_before_it(run):
    other = run.changed({"ablation.mixing": [{"mixcut": {"sft.mixed": True}},
                                             {"mixcut.shares": {"sft.mixed": True,
                                                                "augment.label_policy": "shares"}}]})
    assert ([(job.name, reference) for _, job, reference in ablation.pairs(other)["mixing"]]
            == [("qwen3-vl-4b-sft-mixcut", "qwen3-vl-4b-sft"),
                ("qwen3-vl-4b-sft-mixcut.shares", "qwen3-vl-4b-sft-mixcut")])


def test_a_run_without_the_open_question_has_nothing_to_compare(run):
    other = run.changed({"baselines.tasks": ["closed-qa"]})
    assert ablation.jobs(other) == hypotheses.jobs(other) == []


def test_sizes_that_no_network_sees_are_refused(study, monkeypatch):
    monkeypatch.chdir(study)
    size = lambda side: {"ablation.size": [{f"side{side}": {"models.image_size": side}}]}
    names = lambda run: [job.name for _, job in ablation.asked_arms(run, "size")]
    full = {"ablation.models": ["qwen3-vl-4b", "idefics2-8b", "instructblip-flan-t5-xl"],
            "data.source": "drawn"}
    assert names(open_run("paper", overrides=full | size(384))) == ["qwen3-vl-4b.side384",
                                                                    "idefics2-8b.side384"]
    assert names(open_run("paper", overrides=full | size(256))) == ["qwen3-vl-4b.side256"]
    with pytest.raises(SettingsError, match="no network of ablation.models sees what side100 says"):
        names(open_run("paper", overrides=full | size(100)))
