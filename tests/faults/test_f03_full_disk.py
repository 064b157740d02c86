"""A disk without room ends a run with words, leaves nothing half-made, and the run goes on later."""
import json
import shutil
import subprocess

import pytest
from conftest import call
from faults import LONG
from flowers102_study.core.records import MANIFEST, sealed

# stage, what is taken away before, the point at which the disk is filled, and the bytes that are left
PLACES = {"data": ("data", ["data"], {"at": "flowers102_study.pictures.sources:collect"}, 50_000),
          "checkpoint": ("sft", ["models/qwen3-vl-4b-sft"],
                         {"at": "transformers.trainer:Trainer.training_step", "call": 2}, 500_000),
          "record": ("sft", ["arms/qwen3-vl-4b-sft"],
                     {"at": "flowers102_study.core.records:write", "about": "predictions.parquet"}, 0),
          "figure": ("resnet", ["notebooks/08_resnet.json"],
                     {"at": "flowers102_study.scores.figures:save", "call": 3}, 10_000),
          "page": ("resnet", ["index.html"], {"at": "flowers102_study.page:write_page"}, 1_000)}


@pytest.fixture
def small_disk(study, smoke):
    "A finished smoke run on a disk of its own, which is small."
    place = study / "runs"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(place)],
                          capture_output=True)
    if done.returncode: pytest.skip("a small disk cannot be mounted here: that takes root")
    try:
        shutil.copytree(smoke / "runs", place, dirs_exist_ok=True)
        yield study
    finally: subprocess.run(["umount", "-l", str(place)], check=True)


def prints(study) -> dict: # {folder: fingerprint} of what counts as done
    run = study / "runs/smoke"
    folders = [p.parent for p in (*run.glob(f"*/{MANIFEST}"), *run.glob(f"*/*/{MANIFEST}"))]
    return {str(folder.relative_to(run)): json.loads((folder / MANIFEST).read_text())["fingerprint"]
            for folder in folders if folder.suffix != ".partial"}


@pytest.mark.parametrize("place", [pytest.param(p, marks=[] if p == "page" else LONG) for p in PLACES])
def test_a_full_disk(small_disk, fault, place):
    stage, gone, point, room = PLACES[place]
    before, run = prints(small_disk), small_disk / "runs/smoke"
    for name in gone: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    again = lambda check=True: call(small_disk, "flowers102-study", "run", stage, "--profile", "smoke",
                                    check=check)
    fault(do="fill", disk=str(small_disk / "runs"), room=room, **point)
    told = again(check=False)
    fault()
    assert (run.parent / "ballast").exists(), "the fault has not struck"
    assert told.returncode == 1 and "Traceback" not in told.stderr, told.stderr
    for words in ("not enough room on the disk", "runs/smoke", "needs about", "goes on from here"):
        assert words in told.stderr, told.stderr
    assert "NotJSONError" not in told.stderr
    left = {name: value for name, value in prints(small_disk).items() if value != before[name]}
    assert not left and all(sealed(run / name) for name in prints(small_disk))
    (run.parent / "ballast").unlink()
    again()
    assert prints(small_disk) == before and not list(run.rglob("*.tmp"))
    assert (run / "index.html").exists()
