"""What nobody knows is refused before anything is made, with the nearest that is known."""
import subprocess
import time

import pytest
from conftest import ROOT, call, copy_of_study
from faults import LONG

# the command line's words, and what must be said
REFUSED = [
    (["run", "resnt"], "unknown stage 'resnt'; did you mean 'resnet'?"),
    (["run", "--profile", "pockt"], "unknown profile 'pockt'; did you mean 'pocket'?"),
    (["run", "--set", "resnet.epoch=3"],
     "unknown profile key 'resnet.epoch'; did you mean 'resnet.epochs'?"),
    (["run", "--set", "resnet.epochs=many"], "resnet.epochs must be an integer"),
    (["run", "--set", "resnet.epochs"], "KEY=VALUE"),
    (["run", "--data", "no/such/folder"], "no folder at"),
    (["run", "--data", "hub:foo"], "wants OWNER/NAME"),
    (["run", "--set", "resnet.min_steps=3", "resnet.epochs=3"], "repeat the option"),
    (["run", "--data", "drwn"], "did you mean 'drawn'?"),
    (["run", "--name", "../elsewhere"], "a run's name"),
    (["run", "--set", "resnet.augmentation=mixcat"],
     "unknown augmentation mode 'mixcat'; did you mean 'mixcut'?"),
    (["run", "--set", "data.unreadable=refus"], "did you mean 'refuse'?"),
    (["run", "--set", "resnet.mixup_alpha=0.0"], "must be above 0"),
    (["run", "--set", "resnet.epochs=0"], "must be at least 1"),
    (["run", "--set", "prompts.wording=plane"], "unknown wording 'plane'; did you mean 'plain'?"),
    (["run", "--set", "prompts.options=1"], "must be from 2 to"),
    (["run", "--set", "baselines.tasks=[open]"], "did you mean 'open-qa'?"),
    (["run", "--set", "models.dtype=float16"], "value of models.dtype"),
    (["run", "--set", "augment.method=mixap"], "did you mean 'mixup'?"),
    (["run", "--set", "sft.rate=1", "--set", "resnet.mode=none"],
     "sft.rate is sft.learning_rate now; resnet.mode is resnet.augmentation now"),
    (["run", "--set", "sft.learning_rate=-1e-3"], "must be above 0"),
    (["run", "--set", "ablation.training={half: {sft.learning_rate: 0.1}}"],
     "ablation.training takes no mapping: write a list"),
    (["run", "--set", "augment.fraction=0.0"], "augment.fraction is a share"),
    (["run", "--set", "ablation.mixing=[mixcut]"], "must be a list, like [{'mixcut'"),
    (["run", "--set", "ablation.mixing=[{mixcut: true}]"], "is a list of entries like"),
    (["run", "--set", "ablation.training=[{lora9: {sft.rnk: 9}}]"], "did you mean 'sft.lora_rank'?"),
    (["run", "--set", "ablation.training=[{other: {resnet.epochs: 9}}]"],
     "unknown block that ablation.training may change 'resnet'"),
    (["run", "--set", "ablation.wording=[{same: {prompts.wording: plain}}]"],
     "changes nothing that its arm uses"),
    (["run", "--set", "ablation.models=[qwen3-vl-4]"], "did you mean 'qwen3-vl-4b'?"),
    (["run", "--set", "ablation.training=[{s1: {sft.learning_rate: 0.1}}]", "--set",
      "ablation.retrain=[sft]"],
     "would be called qwen3-vl-4b-sft.s1"),
    (["run", "--set", "ablation.size=[{brief: {models.image_size: 32}}]"],
     "would be called qwen3-vl-4b.brief"),
    (["run", "--set", "ablation.training=[{a.old: {sft.learning_rate: 0.1}}]"],
     "must be words of small letters"),
    (["run", "--set", "ablation.seeds=[42, 43]"], "must differ from each other"),
    (["run", "--set", "sft.shots=4", "--set", "sft.max_steps=0", "--set", "sft.epochs=2"],
     "ablation.mixing, mixcut: sft.shots"),
    (["run", "--set", "ablation.retrain=[head]"], "unknown training (ablation.retrain) 'head'"),
    (["run", "--set", "classifier.layers=[0, 2]"], "1 and up"),
    (["run", "--profile", "photos", "--minutes", "5"], "a profile that is named is taken as it is"),
    (["run", "--minutes", "5"], "--minutes is for pictures of your own"),
    (["run", "--data", "oxford", "--minutes", "5"], "--minutes needs a folder"),
    (["versus", "one.parquet", "qwen3-vl-4b"], "no file at one.parquet"),
    (["run", "--profil", "smoke"], "--profile"),
    (["rum"], "run"),
    (["results", "--name", "pockets"], "no run yet"),
    (["publish"], "no run yet"),
    (["run", "--profile", "no/such.yaml"], "no profile at"),
    (["run", "12_more"], "unknown stage '12_more'"),
    (["run", "--name", "a/b"], "a run's name"),
    (["run", "--name", ".hidden"], "a run's name"),
    (["run", "--name", "x" * 130],
     "at most 120 bytes"),
    (["run", "--set", "data.split=offical"], "did you mean 'official'?"),
    (["run", "--set", "seed=first"], "seed must be an integer"),
    (["run", "--set", "sft.method=lors"], "did you mean 'lora'?"),
    (["run", "--set", "resnet.learning_rate=fast"], "must be a number"),
    (["run", "--set", "sft.mixed=perhaps"], "must be true or false"),
    (["run", "--set", "data=drawn"], "unknown profile key 'data'"),
    (["run", "--set", "launch.accelerate_config=dpp", "--profile", "paper", "--gpus", "4x80",
      "--dry-run"],
     "did you mean 'ddp'?"),
    (["run", "--set", "launch.accelerate_config=dpp"], "did you mean 'ddp'?"),
    (["run", "--gpus", "4x80"], "with --dry-run"),
    (["run", "--dry-run", "--gpus", "many"], "NUMBERxGIGABYTES"),
    (["run", "--set", "models.qwen3-vl-9b=pocket"], "did you mean 'models.qwen3-vl-8b'?"),
    (["run", "--set", "contrastive.neighbours=[0]"], "contrastive.neighbours"),
    (["run", "--set", "classifier.penalties=[]"],
     "classifier.layers, pooling and penalties need values"),
    (["run", "--set", "pocket.image_size=50"], "multiple of 16"),
    (["run", "--set", "sft.base=qwen3-vl-4"], "did you mean 'qwen3-vl-4b'?"),
    (["results", "--name", "nothing"], "no run yet"),
    (["verify", "--name", "pockett"], "no run yet"),
    (["predict", "x.jpg", "--name", "smoke"], "no run yet"),
    (["results", "--nam", "x"], "--nam")]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory): return copy_of_study(tmp_path_factory.mktemp("refused"))


@pytest.mark.parametrize("words, told", REFUSED)
def test_refuses_and_names_the_nearest(untouched, invoke, words, told):
    answer = invoke(untouched, *words, check=False)
    assert answer.returncode == 2 and told in answer.stderr, answer.stderr
    assert not (untouched / "runs").exists()


@LONG
def test_refuses_in_a_process_of_its_own(untouched, record_property, capsys):
    slowest = 0
    for words, told in REFUSED:
        begun = time.time()
        answer = call(untouched, "flowers102-study", *words, check=False, COLUMNS="200")
        slowest = max(slowest, time.time() - begun)
        assert answer.returncode == 2 and told in answer.stderr, (words, answer.stderr)
    assert not (untouched / "runs").exists()
    record_property("times", len(REFUSED))
    record_property("note", f"the slowest took {slowest:.1f} s")


@pytest.mark.parametrize("words, told", [(["PROFILE=pockt"], "did you mean 'pocket'?"),
                                         (["DATA=no/such/folder"], "no folder at"),
                                         (["NAME=a/b"], "a run's name"),
                                         (["SET=resnet.epoch=3"], "did you mean 'resnet.epochs'?")])
def test_make_refuses(words, told):
    if not (ROOT / ".venv/installed").exists(): pytest.skip("no environment that make has set up")
    before = set((ROOT / "runs").glob("*"))
    answer = subprocess.run(["make", "study", *words], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode and told in answer.stderr, answer.stderr
    assert set((ROOT / "runs").glob("*")) == before


@LONG
@pytest.mark.parametrize("words, told", [(["-p", "profil", "smoke"], "did you mean 'profile'"),
                                         (["-p", "profile", "smok"], "did you mean 'smoke'"),
                                         (["-p", "profile", "smoke", "-p", "data", "no/such"],
                                          "no folder at"),
                                         (["-p", "profile", "smoke", "-y", "overrides: {sft.rate: 1}"],
                                          "sft.rate is sft.learning_rate now"),
                                         (["-p", "profile", "smoke", "-p", "overrides", "much"],
                                          "the parameter overrides must be a dict")])
def test_papermill_refuses(study, words, told):
    answer = call(study, "papermill", "nbs/01_prompts.ipynb", "out.ipynb", *words, check=False)
    assert answer.returncode and told in answer.stderr, answer.stderr[-2000:]
    assert not (study / "runs").exists()
