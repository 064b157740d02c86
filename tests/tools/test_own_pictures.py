"""A folder of one's own pictures, as somebody would use the study on it."""
import json
import shutil

import numpy as np
from conftest import call
from PIL import Image
from test_data import class_folders
from test_runs import ARMS, MODELS, TRAINED, WITHOUT, changed, stamps_of

SHORTER = (*(word for table in ("training", "wording", "size")
             for word in ("--set", f"ablation.{table}=[]")), "--set", "classifier.joint_steps=0",
           "--set", "ablation.protocols=[]", "--set", "ablation.base_to_new=false", *WITHOUT,
           "--set", "launch.parallel_jobs=1", "--set", "baselines.tasks=[open-qa]")


def test_own_pictures_and_what_changes_among_them(study, smoke):
    shutil.copytree(smoke / "runs/.pocket", study / "runs/.pocket") # the models are the same
    own = study / "my flowers"
    class_folders(own, classes=3, each=12)
    (own / "class 0").rename(own / "Rose d'été, 東 花")
    (own / "class 2").rename(own / "100% $x_1$ <b>&")
    (own / "empty").mkdir()
    again = lambda *words: call(study, "flowers102-study", "run", *words, "--profile", "smoke", "--data",
                                "my flowers")
    again(*SHORTER) # a shorter study, of every stage
    run = study / "runs/smoke-my-flowers"
    first = stamps_of(run)
    assert ("tell 3 classes of my flowers apart?</h1>" in (run / "index.html").read_text()
            and (run / "paper.pdf").exists())
    books = {p.stem: p.read_text() for p in (run / "notebooks").glob("*.ipynb")}
    assert ("no picture in: empty" in books["00_data"]
            and not any("Glyph" in text for text in books.values()))
    assert (json.loads((run / "data/report.json").read_text())["classes"]
            == ["100% $x_1$ <b>&", "Rose d'été, 東 花", "class 1"])
    (own / "class 1/3.jpg").unlink()
    again("data", "prompts", "resnet", *WITHOUT) # the other stages would take a minute more
    assert (changed(first, stamps_of(run))
            == {"data", "audit", "prompts", "00_data.ipynb", "01_prompts.ipynb", "08_resnet.ipynb",
                *ARMS})
    assert ({*ARMS, *MODELS, *TRAINED[:3]} <= first.keys()
            and (run / "hypotheses/hypotheses.json").exists())
    refused = call(study, "flowers102-study", "run", "--profile", "smoke", "--name", "smoke-my-flowers",
                   check=False)
    assert refused.returncode == 2 and "is of other pictures" in refused.stderr


def refusal(study, classes: int, each: int) -> str:
    class_folders(study / "few", classes, each)
    told = call(study, "flowers102-study", "run", "data", "--profile", "smoke", "--data", "few",
                check=False)
    # it says what to do, before anything has begun
    assert told.returncode == 2 and len(told.stderr.splitlines()) == 1 and not (study / "runs").exists()
    return told.stderr


def test_one_class_is_refused(study):
    assert ("holds pictures of 1 classes, and two are needed: make one folder per class"
            in refusal(study, 1, 9))


def test_two_pictures_a_class_are_refused(study):
    assert "Give at least two classes, with four pictures of some of them" in refusal(study, 4, 2)


def test_a_thousand_classes_are_asked_about(study):
    rng = np.random.default_rng(0)
    for c in range(1000):
        (study / f"many/kind {c:03d}").mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(
                study / f"many/kind {c:03d}/{i}.png")
    call(study, "flowers102-study", "run", "data", "prompts", "--profile", "smoke", "--data", "many",
         "--name", "many")
    report = json.loads((study / "runs/many/data/report.json").read_text())
    assert (len(report["classes"]) == 1000
            and report["counts"] == {"train": 2000, "validation": 1000, "test": 1000})
    assert "tell 1000 classes of many apart?</h1>" in (study / "runs/many/index.html").read_text()


def test_a_recipe_by_number_and_minutes(study, invoke):
    class_folders(study / "few", classes=3, each=12)
    asked = ("run", "data", "--data", "few")
    plan = lambda *words, **how: invoke(study, *asked, "--dry-run", *words, **how)
    run = lambda *words: call(study, "flowers102-study", *asked, *words).stdout
    told = plan().stdout
    assert (told.startswith("36 pictures of 3 classes: the profile photos, with ")
            and "profile photos, data few" in told and not (study / "runs").exists())
    steps = lambda told: int(told.split(" steps of fine-tuning")[0].rpartition(" ")[2].replace(",", ""))
    assert steps(plan("--minutes", "30").stdout) > steps(told)
    refused = plan("--minutes", "2", check=False)
    assert refused.returncode == 2 and "2 minutes are too few for 36 pictures; about" in refused.stderr
    run("--set", "sft.max_steps=7") # what is asked for by itself stands
    kept = json.loads((study / "runs/photos-few/run.json").read_text())
    assert (kept["profile"] == "photos" and kept["overrides"]["sft.max_steps"] == 7
            and kept["overrides"]["resnet.min_steps"] > 7)
    assert steps(plan().stdout) == steps(told) # and only where it is asked for
    longer = run("--minutes", "30")
    assert steps(longer) == steps(plan().stdout) > steps(told) # minutes are remembered
