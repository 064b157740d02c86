"""A checkpoint that is not whole is not gone on from: the one before it is, and the log says so."""
import shutil
from pathlib import Path

import pytest
from faults import LONG
from flowers102_study.core.launch import run_jobs
from flowers102_study.core.records import fingerprint, read_checkpoint
from flowers102_study.vlm.training import newest
from test_f01_kills import KINDS, run, undisturbed # noqa: F401 (a fixture)


def missing(path: Path): path.unlink()


def cut_short(path: Path): path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def flipped(path: Path): # one bit in the middle
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = (missing, cut_short, flipped)
# files of the newest; the call at which the training is killed
LAST = {"cnn": ("00000002.*", 60), "full": ("checkpoint-40/*", 45)}
KEPT = {} # {kind: (folder with two checkpoints, expected fingerprint)}


@pytest.fixture(params=["cnn", "full"])
def broken_off(request, run, fault, tmp_path_factory): # noqa: F811
    "A training that was killed behind its second checkpoint: kind, run, job, a copy of its folder, sum."
    kind = request.param
    job_of, point, _ = KINDS[kind]
    run = run.changed({"launch.num_processes": 1}) # noqa: F811
    job = job_of(run)
    if kind not in KEPT:
        expected = undisturbed(run, job, (kind, 1))
        fault(at=point, call=LAST[kind][1], do="kill")
        with pytest.raises(RuntimeError): run_jobs(run, [job], "killed")
        fault()
        kept = tmp_path_factory.mktemp("broken-off") / "partial"
        job.out.with_name(job.name + ".partial").rename(kept)
        KEPT[kind] = kept, expected
    return kind, run, job, *KEPT[kind]


def damaged(kept: Path, kind: str): # yields (folder with one damage, its words)
    for path in sorted((kept / "checkpoints").glob(LAST[kind][0])):
        for damage in DAMAGES:
            folder = kept.with_name("damaged")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(kept, folder)
            damage(folder / path.relative_to(kept))
            yield folder, f"{path.name} {damage.__name__}"


def test_the_one_before_is_taken(broken_off, capsys, record_property):
    kind, _, _, kept, _ = broken_off
    times = 0
    for folder, what in damaged(kept, kind):
        parts, times = folder / "checkpoints", times + 1
        if kind == "full": assert newest(parts).name == "checkpoint-20", what
        else: assert read_checkpoint(parts) == (kept / "checkpoints/00000001.state").read_bytes(), what
        # nobody misses what was never said to be there
        if what != "00000002.state missing": assert "damaged" in capsys.readouterr().out, what
    assert times == {"cnn": 6, "full": 3 * len(list(kept.glob("checkpoints/checkpoint-40/*")))}[kind]
    record_property("times", times)


@LONG
def test_it_ends_with_the_same_bytes(broken_off, record_property):
    kind, run, job, kept, expected = broken_off # noqa: F811
    for times, (folder, what) in enumerate(damaged(kept, kind), 1):
        shutil.copytree(folder, job.out.with_name(job.name + ".partial"))
        (run.logs / "again.log").unlink(missing_ok=True)
        run_jobs(run, [job], "again")
        assert fingerprint(job.out) == expected, what
        if what != "00000002.state missing": assert "damaged" in (run.logs / "again.log").read_text()
        shutil.rmtree(job.out)
    record_property("times", times)
