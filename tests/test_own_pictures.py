"""A folder of one's own pictures, as somebody would use the study on it."""
import shutil

from conftest import call
from test_data import class_folders
from test_runs import ARMS, MODELS, TRAINED, changed, stamps_of


def test_own_pictures_and_what_changes_among_them(study, smoke):
    shutil.copytree(smoke / "runs/.pocket", study / "runs/.pocket") # the models are the same
    class_folders(study / "my flowers", classes=3, each=12)
    again = lambda *words: call(study, "flowers102-study", "run", *words, "--profile", "smoke", "--data", "my flowers")
    again(*(word for table in ("training", "wording", "size") for word in ("--set", f"ablation.{table}=[]")), "--set", "classifier.together=0", "--set", "launch.lanes=1", "--set", "baselines.tasks=[open-qa]") # a shorter study, of every stage
    first = stamps_of(study / "runs/smoke-my-flowers")
    (study / "my flowers/class 1/3.jpg").unlink()
    again("data", "prompts", "resnet") # the other stages would take a minute more
    assert changed(first, stamps_of(study / "runs/smoke-my-flowers")) == {"data", "audit", "prompts", "00_data.ipynb", "01_prompts.ipynb", "08_resnet.ipynb", *ARMS}
    assert {*ARMS, *MODELS, *TRAINED[:3]} <= first.keys() and (study / "runs/smoke-my-flowers/hypotheses/hypotheses.json").exists()
    refused = call(study, "flowers102-study", "run", "--profile", "smoke", "--name", "smoke-my-flowers", check=False)
    assert refused.returncode == 2 and "is of other pictures" in refused.stderr
