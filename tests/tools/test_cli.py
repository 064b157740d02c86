"""What the command line says to what it does not know, before it imports anything heavy."""
import re
import subprocess
import sys

import pytest
from conftest import ROOT, call

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "datasets", "papermill", "scipy")


@pytest.mark.parametrize("words, told",
                         [(["run", "resnt"], "unknown stage 'resnt'; did you mean 'resnet'?"),
                          (["run", "--profile", "pockt"],
                           "unknown profile 'pockt'; did you mean 'pocket'?"),
                          (["run", "--set", "resnet.epoch=3"],
                           "unknown profile key 'resnet.epoch'; did you mean 'resnet.epochs'?"),
                          (["run", "--set", "resnet.epochs=many"], "resnet.epochs must be an integer"),
                          (["run", "--set", "resnet.epochs"], "KEY=VALUE"),
                          (["run", "--data", "no/such/folder"], "no folder at"),
                          (["run", "--data", "hub:foo"], "wants OWNER/NAME"),
                          (["run", "--set", "resnet.min_steps=3", "resnet.epochs=3"],
                           "repeat the option"), (["run", "--data", "drwn"], "did you mean 'drawn'?"),
                          (["run", "--name", "../elsewhere"], "a run's name"),
                          (["run", "--set", "resnet.augmentation=mixcat"],
                           "unknown augmentation mode 'mixcat'; did you mean 'mixcut'?"),
                          (["run", "--set", "data.unreadable=refus"], "did you mean 'refuse'?"),
                          (["run", "--set", "resnet.mixup_alpha=0.0"], "must be above 0"),
                          (["run", "--set", "resnet.epochs=0"], "must be at least 1"),
                          (["run", "--set", "prompts.wording=plane"],
                           "unknown wording 'plane'; did you mean 'plain'?"),
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
                          (["run", "--set", "ablation.mixing=[mixcut]"],
                           "must be a list, like [{'mixcut'"),
                          (["run", "--set", "ablation.mixing=[{mixcut: true}]"],
                           "is a list of entries like"),
                          (["run", "--set", "ablation.training=[{lora9: {sft.rnk: 9}}]"],
                           "did you mean 'sft.lora_rank'?"),
                          (["run", "--set", "ablation.training=[{other: {resnet.epochs: 9}}]"],
                           "unknown block that ablation.training may change 'resnet'"),
                          (["run", "--set", "ablation.wording=[{same: {prompts.wording: plain}}]"],
                           "changes nothing that its arm uses"),
                          (["run", "--set", "ablation.models=[qwen3-vl-4]"],
                           "did you mean 'qwen3-vl-4b'?"),
                          (["run", "--set", "ablation.training=[{s1: {sft.learning_rate: 0.1}}]",
                            "--set", "ablation.retrain=[sft]"], "would be called qwen3-vl-4b-sft.s1"),
                          (["run", "--set", "ablation.size=[{brief: {models.image_size: 32}}]"],
                           "would be called qwen3-vl-4b.brief"),
                          (["run", "--set", "ablation.training=[{a.old: {sft.learning_rate: 0.1}}]"],
                           "must be words of small letters"),
                          (["run", "--set", "ablation.seeds=[42, 43]"], "must differ from each other"),
                          (["run", "--set", "sft.shots=4", "--set", "sft.max_steps=0", "--set",
                            "sft.epochs=2"],
                           "ablation.mixing, mixcut: sft.shots"),
                          (["run", "--set", "ablation.retrain=[head]"],
                           "unknown training (ablation.retrain) 'head'"),
                          (["run", "--set", "classifier.layers=[0, 2]"], "1 and up"),
                          (["run", "--profile", "photos", "--minutes", "5"],
                           "a profile that is named is taken as it is"),
                          (["run", "--minutes", "5"], "--minutes is for pictures of your own"),
                          (["run", "--data", "oxford", "--minutes", "5"], "--minutes needs a folder"),
                          (["versus", "one.parquet", "qwen3-vl-4b"], "no file at one.parquet"),
                          (["run", "--profil", "smoke"], "--profile"), (["rum"], "run"),
                          (["results", "--name", "pockets"], "no run yet"), (["publish"], "no run yet")])
def test_refuses_and_names_the_nearest(study, words, told):
    answer = call(study, "flowers102-study", *words, check=False, COLUMNS="200")
    assert answer.returncode == 2 and told in answer.stderr
    assert not (study / "runs").exists()


def test_refusing_imports_nothing_heavy():
    code = ("import sys, flowers102_study.commands, flowers102_study.data, flowers102_study.prompts, "
            "flowers102_study.baselines, flowers102_study.ablation, flowers102_study.hypotheses, "
            f"flowers102_study.resnet; print([m for m in {HEAVY} if m in sys.modules])")
    assert (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           cwd=ROOT).stdout.strip() == "[]")


def test_plan_of_the_paper(study):
    told = call(study, "flowers102-study", "run", "--profile", "paper", "--dry-run",
                "--verbose").stdout
    # 102 outputs, as counted for torchvision's too
    assert "microsoft/resnet-50@34c2154c194f" in told and "23,717,030 parameters" in told
    assert "Qwen/Qwen3-VL-4B-Instruct@ebb281ec70b0" in told and "4,437,815,808 parameters" in told
    assert "in all: disk" in told and "core.launch" not in told # nothing to type without a launcher
    told = call(study, "flowers102-study", "run", "--profile", "paper", "--dry-run", "--set",
                "launch.num_processes=2", "resnet").stdout
    assert ("torch.distributed.run --standalone --nproc_per_node=2" in told
            and "flowers102_study.core.launch import child" in told)
    assert not (study / "runs").exists()


def test_plan_of_every_profile(study):
    for profile in ("smoke", "photos", "pocket"):
        told = call(study, "flowers102-study", "run", "--profile", profile, "--dry-run").stdout
        assert "08_resnet: " in told and "in all: disk" in told and len(told.splitlines()) < 24


def test_plan_for_gpus(study, monkeypatch):
    from flowers102_study.core import launch
    from flowers102_study.core.settings import open_run
    monkeypatch.chdir(study)
    card = {"name": "a GPU", "bytes": 80 << 30, "kind": "cuda"}
    monkeypatch.setattr(launch, "devices", lambda: [card] * 4)
    run = open_run("paper", overrides={"launch.accelerate_config": "fsdp2"})
    words = launch.command(run, study / "lane.json")
    assert ("--num_processes=4" in words and any(w.endswith("fsdp2.yaml") for w in words)
            and launch.lanes(run) == 1)
    with pytest.raises(launch.SettingsError, match="there are 4 GPUs"):
        launch.command(open_run("paper", overrides={"launch.num_processes": 8}), study / "x")
    with pytest.raises(launch.SettingsError, match="did you mean 'fsdp2'"):
        launch.command(open_run("paper", overrides={"launch.accelerate_config": "fsdp"}), study / "x")
    monkeypatch.setenv("NUM_MACHINES", "2")
    monkeypatch.setenv("MACHINE_RANK", "1")
    monkeypatch.setenv("MAIN_PROCESS_IP", "10.0.0.1")
    assert ({"--num_machines=2", "--machine_rank=1", "--main_process_ip=10.0.0.1"}
            <= set(launch.command(open_run("paper", overrides={"launch.num_processes": 8}),
                                  study / "x")))


@pytest.mark.parametrize("gpus, said", [("1x24", "this fits|no setting"), ("1x80", "this fits: --set"),
                                        ("4x40", ""), ("8x80", ""), ("1x141", "")])
def test_what_does_not_fit_is_refused_with_what_does(study, gpus, said):
    told = call(study, "flowers102-study", "run", "--profile", "paper", "--dry-run", "--gpus", gpus,
                check=False)
    assert bool(told.returncode) == bool(said), told.stderr
    if said: assert re.search(said, told.stderr) and "GPU memory" in told.stderr
    several = int(gpus[0]) > 1
    assert ("fsdp2.yaml" in told.stdout) == several and ("gpu.yaml" in told.stdout) != several


def test_planned_minutes_are_called_planned(study):
    told = call(study, "flowers102-study", "run", "--profile", "paper", "--dry-run", "--gpus",
                "1xH200:141")
    minutes = int(re.search(r"planned, not measured: (\d+) minutes", told.stdout)[1])
    assert 30 < minutes <= 60
    told = call(study, "flowers102-study", "run", "--profile", "paper", "--gpus", "1x24", check=False)
    assert told.returncode == 2 and "with --dry-run" in told.stderr


def test_a_rehearsal_says_so_on_every_table(study, monkeypatch):
    from flowers102_study.core.settings import label_of, open_run
    monkeypatch.chdir(study)
    run = open_run("paper")
    assert label_of(run) == ""
    monkeypatch.setenv("FLOWERS102_REHEARSAL", "random weights")
    assert label_of(run) == "random weights"
