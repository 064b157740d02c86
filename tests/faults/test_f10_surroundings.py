"""Libraries, network, home that are absent, broken or read-only: it works, or says in a line why not."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import call
from faults import LONG

STAGES = ("data", "prompts", "baselines")
RUN = ("flowers102-study", "run", *STAGES, "--profile", "smoke", "--set", "baselines.tasks=[open-qa]")


def torchvision(folder: Path, source: str) -> str: # for PYTHONPATH
    "Put a library in the way that would be taken for torchvision."
    package = folder / "site/torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    about = folder / "site/torchvision-0.28.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    return os.pathsep.join([str(package.parent), os.environ["PYTHONPATH"]])


BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")' # as PyPI's on a CPU's torch


def without(*names) -> dict: return {k: v for k, v in os.environ.items() if k not in names}


def run_in(study, around: dict, words=RUN, before=()):
    program = [*before, str(Path(sys.executable).with_name(words[0])), *words[1:]]
    return subprocess.run(program, cwd=study, env=around, capture_output=True, text=True)


@pytest.mark.parametrize("source", [BROKEN, "import nothing_that_is_there"])
def test_a_broken_torchvision(study, tmp_path, source):
    told = run_in(study, os.environ | {"PYTHONPATH": torchvision(tmp_path, source)})
    assert told.returncode == 2 and "pip uninstall torchvision" in told.stderr, told.stderr
    assert len(told.stderr.splitlines()) == 1


@LONG
def test_no_network(study):
    "A machine without any but its own loopback."
    alone = ("unshare", "--net", "--map-root-user")
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("no network of its own can be had here")
    alone = (*alone, sys.executable, "-c", LOOPBACK)
    told = run_in(study, dict(os.environ), before=alone)
    assert told.returncode == 0, told.stderr
    told = run_in(study, dict(os.environ), ("flowers102-study", "run", "data", "--profile", "smoke",
                                            "--data", "oxford"), before=alone)
    assert told.returncode == 1 and "choose data=drawn" in told.stderr, told.stderr


# kernels are spoken to over it: set its flag IFF_UP (SIOCSIFFLAGS), and go on as what is named behind
LOOPBACK = """import fcntl, os, socket, struct, sys
with socket.socket() as s: fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 1))
os.execv(sys.argv[1], sys.argv[1:])"""
HOMES = ("none", "gone", "a file", "read-only", "another disk")


@LONG
@pytest.mark.parametrize("kind", HOMES)
def test_homes(study, tmp_path, kind):
    home = tmp_path / "home"
    if kind in ("read-only", "another disk"):
        home.mkdir()
        way = ["-t", "tmpfs", "-o", "ro" if kind == "read-only" else "size=50m", "tmpfs", str(home)]
        if subprocess.run(["mount", *way], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here: that takes root")
    if kind == "a file": home.write_text("")
    around = without("HOME", "HF_HOME", "XDG_CACHE_HOME")
    if kind != "none": around["HOME"] = str(home)
    try: told = run_in(study, around)
    finally:
        if home.is_mount(): subprocess.run(["umount", "-l", str(home)], check=True)
    assert told.returncode == 0, told.stderr


@LONG
def test_process_one(study):
    "As in a container, whose first process the study is."
    alone = ("unshare", "--pid", "--fork", "--mount-proc", "--map-root-user")
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("no processes of its own can be had here")
    told = run_in(study, dict(os.environ), before=alone)
    assert told.returncode == 0, told.stderr
    assert (study / "runs/smoke/arms/qwen3-vl-4b/result.json").exists()


@LONG
def test_a_project_that_cannot_be_written_to(study):
    if subprocess.run(["mount", "--bind", str(study), str(study)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here: that takes root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(study)], check=True)
        told = call(study, "flowers102-study", "run", "data", "--profile", "smoke", check=False)
    finally: subprocess.run(["umount", "-l", str(study)], check=True)
    assert told.returncode == 1 and "Read-only file system" in told.stderr
    assert "Traceback" not in told.stderr and len(told.stderr.splitlines()) < 4
