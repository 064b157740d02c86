"""Whole runs of the smoke profile: what is made, skipped, made again, and what a failure leaves."""
import json
import os
import shutil
import signal
from pathlib import Path

from conftest import call, copy_of_study
from faults import Held, ended

ARMS = ("resnet50", "resnet50.mixcut", "resnet50.s1")
MATCHING = ("siglip2", "siglip2.ensemble", "siglip2-probe", "siglip2-knn")
MODELS = ("qwen3-vl-8b", "qwen3-vl-4b", "idefics2-8b", "instructblip-flan-t5-xl")
TRAINED = ("qwen3-vl-4b-sft", "qwen3-vl-4b-head", "qwen3-vl-4b-sft-head", "qwen3-vl-4b-head.together",
           "qwen3-vl-4b-tower-head", "qwen3-vl-4b-sft-tower-head")
HEADS = ("qwen3-vl-4b-head", "qwen3-vl-4b-sft-head")
VARIED = ("qwen3-vl-4b-sft-mixcut", "qwen3-vl-4b-sft.lora4", "qwen3-vl-4b.brief", "qwen3-vl-4b.side32",
          "qwen3-vl-4b.listed", "qwen3-vl-4b.examples1", "qwen3-vl-4b-sft.base-classes",
          "qwen3-vl-4b-sft.s1", "qwen3-vl-4b-sft-head.s1", "qwen3-vl-4b-sft-tower-head.s1",
          *(f"{head}.{what}" for head in HEADS
            for what in ("layer2", "layer4", "last", "visual", "mean", "linear", "mlp", "shots1",
                         "shots1.s1")))
WITHOUT = ("--set", 'contrastive.siglip2=""') # a contrastive model
ASKED = tuple(f"{model}{task}" for model in MODELS for task in ("", ".closed-qa", ".closed-negative-qa"))


def stamps(folder: Path) -> dict: return stamps_of(folder / "runs/smoke")


def stamps_of(run: Path) -> dict: # of what each job and notebook has made
    parts = [*run.glob("arms/*"), run / "data", run / "audit", run / "prompts",
             *run.glob("notebooks/*.ipynb")]
    return {p.name: (p / "manifest.json" if p.is_dir() else p).stat().st_mtime_ns for p in parts
            if p.exists()}


def changed(before: dict, after: dict) -> set:
    return {name for name in after if before.get(name) != after[name]}


def edit(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_makes_everything(smoke):
    run = smoke / "runs/smoke"
    for arm in (*ARMS, *MATCHING):
        result = json.loads((run / "arms" / arm / "result.json").read_text())
        low, high = result["interval"]
        assert (low <= result["accuracy"] <= high and result["n"] == 24
                and result["correct"] == round(result["accuracy"] * 24))
        assert (result["world_size"] == 1 and result["split"] == "study"
                and result["measured"]["seconds"] > 0)
        import pandas as pd
        table = pd.read_parquet(run / "arms" / arm / "predictions.parquet")
        assert table.image_id.is_unique and set(table.split) == {"validation", "test"}
        assert (table[table.split == "test"].eval("label == prediction").sum()) == result["correct"]
    from datasets import load_from_disk
    data = load_from_disk(run / "data/dataset")
    assert (set(data) == {"train", "validation", "test"}
            and set(data["train"].features) == {"image", "label", "image_id", "genus"})
    assert {p.suffix for p in (run / "figures").iterdir()} == {".svg", ".png"}
    for path in (run / "notebooks").glob("*.ipynb"):
        kinds = [o["output_type"] for c in json.loads(path.read_text())["cells"]
                 for o in c.get("outputs", [])]
        assert "error" not in kinds and kinds


def test_every_figure_has_a_caption(smoke):
    from flowers102_study.page import captions
    drawn = {path.stem for path in (smoke / "runs/smoke/figures").glob("*.svg")}
    assert len(drawn) > 30 and drawn <= set(captions())


def test_says_results(smoke):
    table = call(smoke, "flowers102-study", "results", "--name", "smoke").stdout
    assert table.startswith("drawn flowers") and "resnet50.mixcut" not in table and "/24" in table
    assert "resnet50.mixcut" in call(smoke, "flowers102-study", "results", "--name", "smoke",
                                     "--variants").stdout
    records = json.loads(call(smoke, "flowers102-study", "results", "--name", "smoke", "--json").stdout)
    assert {r["arm"] for r in records} == {*ARMS, *MATCHING, *ASKED, *TRAINED, *VARIED}


def test_second_run_does_nothing(smoke):
    before = stamps(smoke)
    told = call(smoke, "flowers102-study", "run", "--profile", "smoke").stdout
    assert told.count("done before") == 9 and stamps(smoke) == before


def test_reruns_what_a_change_touches_and_no_more(smoke, tmp_path):
    study = copy_of_study(tmp_path)
    for part in ("data", "audit", "arms/resnet50", "arms/resnet50.mixcut", "arms/resnet50.s1",
                 "notebooks", "figures"):
        shutil.copytree(smoke / "runs/smoke" / part, study / "runs/smoke" / part)
    again = lambda *words: call(study, "flowers102-study", "run", "data", "resnet", "--profile", "smoke",
                                *WITHOUT, *words)
    first = stamps(study)
    edit(study / "nbs/08_resnet.ipynb", "What the training loss can and cannot say",
         "What a training loss can say")
    (study / "runs/smoke/arms/resnet50.mixcut/predictions.parquet").write_bytes(b"spoilt")
    again()
    second = stamps(study)
    # prose is shown again, what was spoilt is made again, and no more
    assert changed(first, second) == {"08_resnet.ipynb", "resnet50.mixcut"}
    again("--set", "resnet.compare=[basic]", "--set", "resnet.epochs=1")
    third = stamps(study)
    assert changed(second, third) == {"08_resnet.ipynb", "resnet50", "resnet50.s1"}
    one = ("--set", "resnet.compare=[basic]", "--set", "resnet.epochs=1")
    again(*one, "--set", "data.near_duplicate_bits=7")
    fourth = stamps(study)
    # another threshold retrains nothing
    assert changed(third, fourth) == {"audit", "00_data.ipynb", "08_resnet.ipynb"}
    told = call(study, "flowers102-study", "run", "resnet", "--profile", "smoke", *WITHOUT, *one,
                "--set", "data.image_size=16", check=False)
    # no arm on stale data
    assert (told.returncode == 1
            and "made with other settings; first run: flowers102-study run data" in told.stderr)


def test_publishes_a_finished_run_only(smoke, tmp_path):
    study = copy_of_study(tmp_path)
    call(study, "flowers102-study", "run", "data", "--profile", "smoke")
    told = call(study, "flowers102-study", "publish", "--name", "smoke", check=False)
    assert (told.returncode == 2
            and "is not finished (01_prompts, 02_augment, 03_baselines, 04_sft, 05_classifier, "
                "06_ablation, 07_hypotheses, 08_resnet)" in told.stderr
            and not (study / "figures").exists())
    shutil.rmtree(study / "runs")
    shutil.copytree(smoke / "runs", study / "runs")
    call(study, "flowers102-study", "publish", "--name", "smoke")
    assert ((study / "report/results/smoke/qwen3-vl-4b.json").exists()
            and (study / "figures/smoke/baselines_scores.svg").exists())
    assert ((study / "figures/smoke/resnet_modes.svg").exists()
            and (study / "figures/smoke/hypotheses_effects.svg").exists())
    published = {p.stem for p in (study / "report/results/smoke").iterdir()}
    # its numbers are in ablation.json
    assert ({"ablation", "hypotheses", "audit", "data", "qwen3-vl-4b-sft-mixcut"} <= published
            and "qwen3-vl-4b-head.layer2" not in published)
    assert json.loads((study / "report/results/smoke/resnet50.json").read_text())["n"] == 24


def test_plain_papermill(study, smoke):
    early = call(study, "papermill", "nbs/08_resnet.ipynb", "out.ipynb", "-p", "profile", "smoke",
                 check=False)
    assert early.returncode and "flowers102-study run data" in early.stderr # what to run first
    call(study, "papermill", "nbs/00_data.ipynb", "out.ipynb", "-p", "profile", "smoke")
    for part in ("arms", "features", "hypotheses"):
        shutil.copytree(smoke / "runs/smoke" / part, study / "runs/smoke" / part)
    shutil.copytree(smoke / "runs/.pocket", study / "runs/.pocket")
    shutil.rmtree(study / "runs/smoke/arms/resnet50")
    call(study, "papermill", "nbs/08_resnet.ipynb", "out.ipynb", "-p", "profile", "smoke")
    assert (study / "runs/smoke/arms/resnet50/result.json").exists()
    typo = call(study, "papermill", "nbs/00_data.ipynb", "out.ipynb", "-p", "profil", "smoke",
                check=False)
    assert typo.returncode and "did you mean 'profile'" in typo.stderr


def test_failure_keeps_what_happened(study):
    bad = study / "pictures"
    for name in ("a", "b"):
        (bad / name).mkdir(parents=True)
        for i in range(6): (bad / name / f"{i}.jpg").write_bytes(b"no picture")
    told = call(study, "flowers102-study", "run", "--profile", "smoke", "--data", "pictures", "--set",
                "data.unreadable=refuse", check=False)
    assert told.returncode == 1 and "a/0.jpg: not a picture" in told.stderr
    executed = json.loads((study / "runs/smoke-pictures/notebooks/00_data.ipynb").read_text())
    assert "did not finish" in executed["cells"][0]["source"][0]
    assert any(o["output_type"] == "error" for c in executed["cells"] for o in c.get("outputs", []))
    assert not (study / "runs/smoke-pictures/data").exists()
    assert not list(study.glob("runs/.pocket/*-*")) # nor models for what cannot be


def test_killed_run_leaves_no_job_and_goes_on(smoke, tmp_path):
    study = copy_of_study(tmp_path)
    for part in ("data", "audit"):
        shutil.copytree(smoke / "runs/smoke" / part, study / "runs/smoke" / part)
    words = ("run", "resnet", "--profile", "smoke", *WITHOUT)
    # in the second epoch, behind the first one's checkpoint
    held = Held(study, words, "flowers102_study.vlm.cnn:step_once", call=8, forked=False)
    os.killpg(held.process.pid, signal.SIGKILL) # the runner; kernels and jobs have sessions of their own
    held.process.wait()
    ended(held.pid) # the job does not outlive it
    assert list(study.glob("runs/smoke/arms/*.partial/checkpoints/*.sha256"))
    call(study, "flowers102-study", *words)
    from flowers102_study.core.records import sha256
    for arm in ARMS:
        one, two = (root / "runs/smoke/arms" / arm / "model/model.safetensors"
                    for root in (smoke, study))
        assert sha256(one) == sha256(two)
    assert not list(study.glob("runs/smoke/arms/*.partial"))


def printed(path: Path) -> str: # what a notebook's cells have written
    return json.dumps([o for c in json.loads(path.read_text())["cells"] for o in c.get("outputs", [])])


def test_the_final_table_is_shown_once_its_arms_are_there(smoke, tmp_path):
    study = copy_of_study(tmp_path)
    shutil.copytree(smoke / "runs", study / "runs")
    aside = study / "aside"
    arm = study / "runs/smoke/arms/qwen3-vl-4b-sft-head"
    page = study / "runs/smoke/notebooks/08_resnet.ipynb"
    alone = lambda: call(study, "flowers102-study", "run", "resnet", "--profile", "smoke").stdout
    assert "exact McNemar p" in printed(page)
    arm.rename(aside)
    assert "done before" not in alone() and "has not been recorded yet" in printed(page)
    assert "done before" in alone()
    aside.rename(arm)
    assert "done before" not in alone() and "exact McNemar p" in printed(page)
