"""Which devices there are is asked of torch, and jobs see those that they are meant to have."""
import json
import os
import sys
from types import SimpleNamespace

import pytest
from flowers102_study.core import devices, launch, processes
from flowers102_study.core.settings import SettingsError, open_run

CARD = {"name": "a GPU", "bytes": 80 << 30, "kind": "cuda"}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    "Stand a machine with GPUs: what torch finds, and what nvidia-smi lists."
    def stand(found: int, listed: int | None = None, kind: str = "cuda"):
        tool = tmp_path / "nvidia-smi"
        if listed is not None:
            lines = "\n".join(f"GPU {k}: NVIDIA H200 (UUID: GPU-{k})" for k in range(listed))
            tool.write_text(f"#!/bin/sh\ncat <<'E'\n{lines}\nE\n")
            tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setattr(devices, "built_for_gpus", lambda: True)
        monkeypatch.setattr(devices, "asked_of_torch", lambda: ([CARD | {"kind": kind}] * found, "told"))
        devices.devices.cache_clear()
        return devices.devices
    yield stand
    devices.devices.cache_clear()


def test_this_torch_is_asked_in_a_process_of_its_own():
    import torch
    found, _ = devices.asked_of_torch()
    assert len(found) == (torch.accelerator.device_count() if torch.accelerator.is_available() else 0)
    if not devices.built_for_gpus(): assert devices.devices() == []


def test_devices_without_nvidia_smi(machine): # slim containers, AMD
    assert len(machine(found=2)()) == 2


def test_a_driver_that_torch_cannot_use_is_said(machine):
    with pytest.raises(SettingsError, match="nvidia-smi lists 8 GPUs, and torch can use none.*told"):
        machine(found=0, listed=8)()


def test_hidden_cards_are_no_disagreement(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert len(machine(found=2, listed=8)()) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,-1,1")
    assert len(machine(found=1, listed=8)()) == 1 # CUDA stops at what is not there
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine(found=0, listed=8)() == []


def test_a_job_of_one_process_sees_one_card(study, monkeypatch):
    monkeypatch.chdir(study)
    monkeypatch.setattr(launch, "devices", lambda: [CARD] * 4)
    run = open_run("smoke", overrides={"launch.num_processes": 1})
    assert launch.environment(run, 1)["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert launch.environment(run, 1)["CUDA_VISIBLE_DEVICES"] == "4"
    whole = open_run("smoke", overrides={"launch.num_processes": 4})
    assert launch.environment(whole, 1)["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    assert launch.environment(whole, 1, single=True)["CUDA_VISIBLE_DEVICES"] == "4"


def test_other_makers_devices(study, monkeypatch):
    monkeypatch.chdir(study)
    monkeypatch.setattr(launch, "devices", lambda: [CARD | {"kind": "xpu"}] * 2)
    assert launch.processes(open_run("smoke")) == 1 and launch.launcher(open_run("smoke")) == []
    with pytest.raises(SettingsError, match="launch.num_processes=1"):
        launch.launcher(open_run("smoke", overrides={"launch.num_processes": 2}))


def test_a_kernel_computes_on_the_cpu(monkeypatch):
    import torch
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="cuda"))
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert devices.compute_device() == "cuda"
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    assert devices.compute_device() == "cpu"


def test_a_job_of_process_1_is_no_orphan(monkeypatch):
    ended = []
    monkeypatch.setattr(processes.os, "getppid", lambda: 1)
    monkeypatch.setattr(processes.os, "_exit", ended.append)
    monkeypatch.setenv(processes.STARTED_BY, "1") # the entry of a container
    processes.with_parent()
    assert not ended
    monkeypatch.setenv(processes.STARTED_BY, "4711")
    processes.with_parent()
    assert ended == [1]


def test_processes_wait_for_hours(monkeypatch):
    import accelerate
    asked = {}
    def joined(**how):
        asked.update(how)
        return SimpleNamespace(num_processes=1)
    monkeypatch.setattr(accelerate, "Accelerator", joined)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes.join_processes()
    assert asked["kwargs_handlers"][0].timeout.total_seconds() >= 3600 * 10


def test_energy_is_the_used_cards_or_is_left_out_with_a_word(monkeypatch, capsys):
    import torch
    from flowers102_study.core.work import Meter
    meter = Meter.__new__(Meter)
    meter.device, meter.before = torch.device("cuda", 0), {}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: SimpleNamespace(uuid="abc"))
    read = SimpleNamespace(nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda name: name,
                           nvmlDeviceGetTotalEnergyConsumption=lambda card: {"GPU-abc": 5000}[card])
    monkeypatch.setitem(sys.modules, "pynvml", read)
    assert meter.energy() == 5
    def refuse(card): raise RuntimeError("Not Supported")
    read.nvmlDeviceGetTotalEnergyConsumption = refuse # a card that is split
    assert meter.energy() is None
    assert "energy is not measured: RuntimeError: Not Supported" in capsys.readouterr().out


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    import errno
    from flowers102_study.core import jobs
    def unknown(*_): raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(jobs.fcntl, "flock", unknown)
    with jobs.alone(tmp_path / "run"): pass
    assert "has no locks (No locks available)" in capsys.readouterr().err
    def taken(*_): raise BlockingIOError(errno.EWOULDBLOCK, "busy")
    monkeypatch.setattr(jobs.fcntl, "flock", taken)
    with pytest.raises(SettingsError, match="another process"), jobs.alone(tmp_path / "run"): pass


def test_memory_goes_back_between_jobs(study, monkeypatch):
    monkeypatch.chdir(study)
    job = {"spec": {}, "key": "", "inputs": {}}
    jobs = [job | {"target": f"lane_jobs:{what}", "out": str(study / what)}
            for what in ("leave", "look")]
    for job in jobs: (study / job["out"]).with_suffix(".partial").mkdir()
    (study / "plan.json").write_text(json.dumps(jobs))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    launch.work(study / "plan.json", 1)
    assert (study / "look" / "seen").read_text() == "gone"
