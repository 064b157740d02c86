"""Stages 01 and 03 on the smoke profile: records, processes, a kill, exports, and lmms-eval's log."""
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, call, copy_of_study
from flowers102_study import baselines, data, prompts
from flowers102_study.core import dataset
from flowers102_study.core.jobs import Job
from flowers102_study.core.launch import run_jobs
from flowers102_study.vlm.pocket_models import ARCHITECTURES
from flowers102_study.core.records import content_sum
from flowers102_study.core.settings import open_run


def test_records_of_all_models_and_tasks(smoke):
    for arm in ARCHITECTURES:
        for task in ("", ".closed-qa", ".closed-negative-qa"):
            folder = smoke / "runs/smoke/arms" / f"{arm}{task}"
            result = json.loads((folder / "result.json").read_text())
            table = pd.read_parquet(folder / "predictions.parquet")
            tested = table[table.split == "test"]
            assert (result["n"] == len(tested) == 24 and table.image_id.is_unique
                    and result["correct"] == (tested.label == tested.prediction).sum())
            # resampling biases it
            for key, score in result["scores"].items():
                assert score["interval"][0] <= score["value"] <= score["interval"][1] or key == "ece", (
                    key)
            if task: continue
            assert (set(table.split) == {"validation", "test"}
                    and {"exact", "synonym", "named", "ranked", "top5", "ece", "brier", "no_class"}
                    <= result["scores"].keys())
            log_probs = np.stack(table.log_probs)
            assert (np.allclose(np.exp(log_probs).sum(1), 1, atol=1e-5)
                    and (log_probs.argmax(1) == table.prediction_ranked).all())
            assert (result["parameters"] > 1e6 and result["side"] == 48 and len(result["revision"]) == 64
                    and result["data"] and result["prompts"])


@pytest.fixture(scope="module")
def study(tmp_path_factory, smoke): # with the models that the smoke run has made
    folder, before = copy_of_study(tmp_path_factory.mktemp("baselines")), os.getcwd()
    shutil.copytree(smoke / "runs/.pocket", folder / "runs/.pocket")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def prepared(name: str, **overrides):
    "Open a smoke run whose data, questions and models are there; open questions in 8 parts."
    run = open_run("smoke", name,
                   overrides={"baselines.batch_size": 5, "launch.parallel_jobs": 1} | overrides)
    for job in (data.data_job(run), prompts.prompts_job(run)): run_jobs(run, [job], job.name)
    return run


def test_two_processes_leave_the_record_of_one(study):
    one, two = prepared("one"), prepared("two", **{"launch.num_processes": 2})
    records = []
    for run in (one, two):
        assert baselines.model_job(run, "qwen3-vl-4b").done() # nothing is trained again for another run
        jobs = ([baselines.question_job(run, "qwen3-vl-4b", task) for task in prompts.TASKS]
                + [baselines.question_job(run, "instructblip-flan-t5-xl")])
        jobs.append(Job("flowers102_study.vlm.shards:extract", run.folder / "features",
                        {"model": "pocket", "weights": "",
                         "models": {"image_size": 48, "dtype": "auto", "system_prompt": ""},
                         "question": "Which?", "layers": [0, -1], "pooling": ["last", "mean"],
                         "splits": ["test", "validation"], "batch_size": 7},
                        {"data": data.data_job(run), "model": baselines.model_job(run, "idefics2-8b")}))
        run_jobs(run, jobs, "baselines")
        records.append({f"{job.name}/{p.name}": content_sum(p) for job in jobs for p in job.out.iterdir()
                        if p.name not in ("manifest.json", "result.json")})
        for job in jobs[:4]:
            result = json.loads((job.out / "result.json").read_text())
            records[-1][job.name] = {k: v for k, v in result.items()
                                     if k not in ("measured", "world_size")}
            assert result["world_size"] == (1 if run is one else 2)
    assert records[0] == records[1]
    features = np.load(two.folder / "features/test.npy", mmap_mode="r")
    assert (features.shape[:3] == (24, 2, 2) and np.isfinite(features).all()
            and np.load(two.folder / "features/validation.npy").shape[0] == 12)


def test_a_killed_job_goes_on_from_the_last_part(study, fault):
    run = prepared("killed", **{"baselines.batch_size": 1})
    job = baselines.question_job(run, "idefics2-8b")
    part = "flowers102_study.vlm.shards:write_part"
    run_jobs(run, [job], "whole")
    whole = content_sum(job.out / "predictions.parquet")
    shutil.rmtree(job.out)
    fault(at=part, call=4, do="kill")
    with pytest.raises(RuntimeError, match="ended with status -9"): run_jobs(run, [job], "killed")
    fault(at=part, call=34, do="kill") # three of 36 are there: none is made again
    run_jobs(run, [job], "again")
    assert content_sum(job.out / "predictions.parquet") == whole


def test_a_model_answers_all_its_tasks_before_the_next_is_loaded(study):
    run = prepared("order", **{"launch.parallel_jobs": 1})
    assert ([j.name for j in baselines.question_jobs(run)][:3]
            == ["qwen3-vl-8b", "qwen3-vl-8b.closed-qa", "qwen3-vl-8b.closed-negative-qa"])
    loads = [job.inputs["model"].name for job in baselines.question_jobs(run)]
    assert sum(a != b for a, b in zip(loads, loads[1:])) == 3


def test_another_table_of_variants_is_another_score(study, monkeypatch):
    run = prepared("variants")
    before = {t: baselines.question_job(run, "idefics2-8b", t).key() for t in prompts.TASKS}
    monkeypatch.setattr(baselines, "name_variants", lambda: ({"rose": [("rosa", 1)]}, {1: "?"}))
    after = {t: baselines.question_job(run, "idefics2-8b", t).key() for t in prompts.TASKS}
    assert [t for t in prompts.TASKS if before[t] != after[t]] == ["open-qa"]


def test_shipped_profiles_pin_what_they_load():
    import yaml
    for path in (ROOT / "flowers102_study/profiles").glob("*.yaml"):
        models = yaml.safe_load(path.read_text()).get("models", {})
        assert not [m for m in models.values() if isinstance(m, str) and "/" in m and "@" not in m]


def trained_from_elsewhere(folder):
    """Read the export as LLaMA-Factory (whose tags are these by default) and ms-swift do."""
    from datasets import load_dataset
    from PIL import Image
    told = json.loads((folder / "dataset_info.json").read_text())["open-qa-train"]
    assert told["formatting"] == "sharegpt"
    tags = {"sharegpt": (told["columns"]["messages"], "from", "value", ["human", "gpt"]),
            "ms-swift": ("messages", "role", "content", ["user", "assistant"])}
    files = {"sharegpt": told["file_name"], "ms-swift": "ms-swift/open-qa.train.jsonl"}
    read = {}
    for form, (column, role, content, roles) in tags.items():
        rows = load_dataset("json", data_files=str(folder / files[form]), split="train",
                            cache_dir=str(folder.parent / "cache"))
        assert set(rows.column_names) == {column, "images"} and len(rows) == 96
        for row in rows:
            texts = [turn[content] for turn in row[column]]
            assert [turn[role] for turn in row[column]] == roles
            assert "".join(texts).count("<image>") == len(row["images"]) == 1
            assert Image.open(folder / row["images"][0]).size == (24, 24)
        read[form] = [[turn[content] for turn in row[column]] for row in rows]
    assert read["sharegpt"] == read["ms-swift"]


def test_exported_questions_can_be_trained_from(smoke, tmp_path):
    told = call(smoke, "flowers102-study", "prompts", "--name", "smoke", "--out",
                tmp_path / "export").stdout
    assert "transformers/open-qa.train.jsonl" in told
    from PIL import Image
    from flowers102_study.vlm.models import load
    vlm = load(str(next((smoke / "runs/.pocket").glob("idefics2-8b-*"))), 48)
    for form, key in (("transformers", lambda c: c["path"]),
                      ("lmms-engine", lambda c: c["image_url"]["url"])):
        text = (tmp_path / "export" / form / "open-qa.train.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        assert len({r["id"] for r in rows}) == len(rows) == 96
        for row in rows[:5]:
            assert (Image.open(tmp_path / "export" / key(row["messages"][0]["content"][0])).size
                    == (24, 24))
        if form == "transformers":
            assert (rows[0]["messages"][1]["content"][0]["text"]
                    in vlm.processor.apply_chat_template(rows[0]["messages"], tokenize=False))
    trained_from_elsewhere(tmp_path / "export")
    again = call(smoke, "flowers102-study", "prompts", "--name", "smoke", "--out", tmp_path / "export",
                 check=False)
    assert again.returncode == 2 and "is not empty" in again.stderr
    wrong = call(smoke, "flowers102-study", "prompts", "--name", "smoke", "--task", "open", "--out",
                 tmp_path / "new", check=False)
    assert wrong.returncode == 2 and "did you mean 'open-qa'" in wrong.stderr


def test_compares_with_a_log_of_lmms_eval(smoke, tmp_path):
    table = pd.read_parquet(smoke / "runs/smoke/arms/qwen3-vl-4b/predictions.parquet").query(
        "split == 'test'")
    images = dataset.read_index(smoke / "runs/smoke/data", "test").image_id.tolist()
    said = dict(zip(table.image_id, table.answer))
    rows = [{"doc_id": i, "target": "?", "filtered_resps": [said[image] if i else "something else"],
             "exact": 0.} for i, image in enumerate(images)]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = call(smoke, "flowers102-study", "compare", tmp_path / "samples.jsonl", "--name",
                "smoke").stdout
    # by what a model of two steps says
    assert ("24 pictures; same answer 23, neither names a class 1" in told or
            "24 pictures; same answer 23, other class 1" in told)
    assert (f"{images[0]}: lmms-eval 'something else'" in told and
            "not alike: pictures were seen at 48 pixels here" in told and
            "not alike: numbers were float32 here" in told)
    (tmp_path / "other.jsonl").write_text("no JSON")
    refused = call(smoke, "flowers102-study", "compare", tmp_path / "other.jsonl", "--name", "smoke",
                   check=False)
    assert refused.returncode == 2 and "is not a samples file" in refused.stderr


@pytest.fixture
def task_for_lmms_eval(smoke, monkeypatch):
    """Load a task's file as lmms-eval does: what it includes, and the functions that it names."""
    import importlib.util
    import yaml
    folder = ROOT / "flowers102_study" / "lmms_eval"
    spec = importlib.util.spec_from_file_location("utils", folder / "utils.py")
    utils = importlib.util.module_from_spec(spec); spec.loader.exec_module(utils)
    class Loader(yaml.SafeLoader): pass
    Loader.add_constructor("!function", lambda loader, node: getattr(
        utils, loader.construct_scalar(node).removeprefix("utils.")))
    monkeypatch.chdir(smoke / "runs/smoke")
    def loaded(name):
        task = yaml.load((folder / f"{name}.yaml").read_text(), Loader)
        return loaded(task.pop("include").removesuffix(".yaml")) | task if "include" in task else task
    return loaded


def test_the_open_task_for_lmms_eval_reads_a_run(task_for_lmms_eval, monkeypatch):
    import datasets
    task = task_for_lmms_eval("flowers102_open_qa")
    rows = datasets.load_from_disk(task["dataset_path"])[task["test_split"]]
    row, names = rows[3], rows.features["label"].names
    name = names[row["label"]]
    assert task["doc_to_target"](row) == name and "flower" in task["doc_to_text"](row)
    score = task["process_results"]
    assert score(row, [name.upper() + "."]) == {"exact": 1., "synonym": 1., "named": 1.}
    assert score(row, [f"I see a {name} here"]) == {"exact": 0., "synonym": 0., "named": 1.}
    monkeypatch.setenv("FLOWERS102_SIDE", "64")
    assert task["doc_to_visual"](row)[0].size == (64, 64)
    assert {m["metric"] for m in task["metric_list"]} == set(score(row, ["x"]))


@pytest.mark.parametrize("kind", ["closed-qa", "closed-negative-qa"])
def test_closed_tasks_for_lmms_eval_score_as_the_study(task_for_lmms_eval, kind):
    import datasets
    task = task_for_lmms_eval(f"flowers102_{kind.replace('-', '_')}")
    assert task["task"] == f"flowers102_{kind.replace('-', '_')}"
    assert {m["metric"] for m in task["metric_list"]} == {"exact"}
    asked = {r["image_id"]: r for r in map(json.loads, Path(f"prompts/{kind}.jsonl").open())}
    right = (lambda row, read: read == row["label"]) if kind == "closed-qa" else (
        lambda row, read: read == -1)
    forms = set()
    for row in datasets.load_from_disk(task["dataset_path"])[task["test_split"]]:
        mine = asked[row["image_id"]]
        forms.add("options" in mine)
        assert task["doc_to_text"](row) == mine["question"]
        assert task["doc_to_target"](row) == mine["answer"]
        for answer in (mine["answer"], "A", "B.", "yes", "No.", "rose"):
            ours = right(row, baselines.chosen_class(mine, answer))
            assert task["process_results"](row, [answer]) == {"exact": float(ours)}, (mine, answer)
        assert task["process_results"](row, [mine["answer"]]) == {"exact": 1.}
    assert forms == ({True} if kind == "closed-qa" else {True, False})


def test_compares_closed_answers_with_a_log_of_lmms_eval(smoke, tmp_path):
    arm = "qwen3-vl-4b.closed-negative-qa"
    table = pd.read_parquet(smoke / f"runs/smoke/arms/{arm}/predictions.parquet").set_index("image_id")
    images = dataset.read_index(smoke / "runs/smoke/data", "test").image_id.tolist()
    rows = [{"doc_id": i, "filtered_resps": [table.answer[image]],
             "exact": float(table.prediction[image] == -1)} for i, image in enumerate(images)]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = call(smoke, "flowers102-study", "compare", tmp_path / "samples.jsonl", "--name", "smoke",
                "--arm", arm).stdout
    assert "24 pictures; same answer 24" in told
