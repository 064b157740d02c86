"""What the command line says to what it does not know, before it imports anything heavy."""
import re
import subprocess
import sys

import pytest
from conftest import ROOT

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "datasets", "papermill", "scipy")


def test_refusing_imports_nothing_heavy():
    code = ("import sys, flowers102_study.commands, flowers102_study.data, flowers102_study.prompts, "
            "flowers102_study.baselines, flowers102_study.ablation, flowers102_study.hypotheses, "
            f"flowers102_study.resnet; print([m for m in {HEAVY} if m in sys.modules])")
    assert (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           cwd=ROOT).stdout.strip() == "[]")


def test_the_list_of_commands_cuts_no_sentence(study, invoke):
    told = invoke(study, "--help").stdout.partition("Commands:")[2]
    assert len(told.split("\n  ")) > 12 and "..." not in told


def test_plan_of_the_paper(study, invoke):
    told = invoke(study, "run", "--profile", "paper", "--dry-run",
                "--verbose").stdout
    # 102 outputs, as counted for torchvision's too
    assert "microsoft/resnet-50@34c2154c194f" in told and "23,717,030 parameters" in told
    assert "Qwen/Qwen3-VL-4B-Instruct@ebb281ec70b0" in told and "4,437,815,808 parameters" in told
    assert "in all: disk" in told and "core.launch" not in told # nothing to type without a launcher
    told = invoke(study, "run", "--profile", "paper", "--dry-run", "--set",
                "launch.num_processes=2", "resnet").stdout
    assert ("torch.distributed.run --standalone --nproc_per_node=2" in told
            and "flowers102_study.core.launch import child" in told)
    assert not (study / "runs").exists()


def test_plan_of_every_profile(study, invoke):
    for profile in ("smoke", "photos", "pocket"):
        told = invoke(study, "run", "--profile", profile, "--dry-run").stdout
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
def test_what_does_not_fit_is_refused_with_what_does(study, invoke, gpus, said):
    told = invoke(study, "run", "--profile", "paper", "--dry-run", "--gpus", gpus,
                check=False)
    assert bool(told.returncode) == bool(said), told.stderr
    if said: assert re.search(said, told.stderr) and "GPU memory" in told.stderr
    several = int(gpus[0]) > 1
    assert ("fsdp2.yaml" in told.stdout) == several and ("gpu.yaml" in told.stdout) != several


def test_planned_minutes_are_called_planned(study, invoke):
    told = invoke(study, "run", "--profile", "paper", "--dry-run", "--gpus",
                "1xH200:141")
    minutes = int(re.search(r"planned, not measured: (\d+) minutes", told.stdout)[1])
    assert 30 < minutes <= 60
    told = invoke(study, "run", "--profile", "paper", "--gpus", "1x24", check=False)
    assert told.returncode == 2 and "with --dry-run" in told.stderr


def test_a_rehearsal_says_so_on_every_table(study, monkeypatch):
    from flowers102_study.core.settings import label_of, open_run
    monkeypatch.chdir(study)
    run = open_run("paper")
    assert label_of(run) == ""
    monkeypatch.setenv("FLOWERS102_REHEARSAL", "random weights")
    assert label_of(run) == "random weights"
