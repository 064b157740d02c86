"""Jobs start when their inputs are there, each in a process of its own."""
import os
import signal
import subprocess
import sys

import loaded
import pytest
from faults import ended
from flowers102_study import data, resnet
from flowers102_study.core import forks, launch
from flowers102_study.core.settings import open_run

# no `if __name__ == "__main__"`: nobody who writes a few lines thinks of it
SCRIPT = """
from multiprocessing import forkserver
from pathlib import Path
from flowers102_study import baselines, data, prompts
from flowers102_study.core.launch import run_jobs
from flowers102_study.core.settings import open_run
print("it begins")
run = open_run("smoke", overrides={"launch.parallel_jobs": 2})
jobs = [*baselines.jobs(run)[-2:], baselines.model_job(run, "instructblip-flan-t5-xl"),
        baselines.world_job(run), *prompts.jobs(run), data.data_job(run)]
run_jobs(run, jobs, "script")
print(all(job.done() for job in jobs))
print(Path(f"/proc/{forkserver._forkserver._forkserver_pid}/environ").read_bytes())
"""


@pytest.fixture(autouse=True)
def server_again():
    "Start anew what the jobs and commands of other tests are forked from: a test here ends it."
    yield
    loaded.load()


def test_a_script_runs_jobs_after_their_inputs_and_itself_once(study):
    (study / "script.py").write_text(SCRIPT)
    told = subprocess.run([sys.executable, "script.py"], cwd=study,
                          env=os.environ | {"HF_HOME": "/none"}, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("it begins") == 1 and "\nTrue\n" in told.stdout
    # what jobs are forked from has the user's environment, and ours, from its start
    assert all(word in told.stdout for word in ("HF_HOME=/none", "OMP_NUM_THREADS=1", *launch.KEPT))


class Lane:
    def __init__(self, *jobs): self.jobs = jobs


def test_cores_are_shared_out(study, monkeypatch):
    monkeypatch.chdir(study)
    run = open_run("smoke", overrides={"launch.parallel_jobs": 0})
    monkeypatch.setattr(launch.os, "cpu_count", lambda: 4)
    job = lambda name, *inputs, **kind: launch.Job("m:f", run.folder / name, {},
                                            {i.name: i for i in inputs}, **kind)
    a, wide, single = job("a"), job("wide", threads=2), job("single", single=True)
    after = job("after", a)
    ready = lambda waiting, *busy: [j.name for j in launch.next_jobs(run, waiting, [*map(Lane, busy)])]
    assert ready([a, after, wide, single]) == ["single"] and ready([a, after, wide]) == ["wide"]
    assert ready([after], a) == [] and ready([after]) == ["after"]
    assert ready([job("b")], a, wide) == ["b"] and ready([job("b")], a, a, wide) == []
    assert ready([wide], a, a) == ["wide"] and ready([wide], a, a, a) == []
    few = [a, job("b"), after]
    chosen = lambda processes: [j.name for j in launch.next_jobs(
        run.changed({"launch.num_processes": processes}), few, [])]
    assert chosen(2) == chosen(4) == ["a"] # forked, each by itself
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(launch, "may_fork", lambda run: False)
        assert chosen(2) == ["a"] and chosen(4) == ["a", "b"] # one launcher for both
        alone = run.changed({"launch.parallel_jobs": 1})
        assert [j.name for j in launch.next_jobs(alone, few, [])] == ["a"] # it has no launcher
    monkeypatch.setattr(launch, "devices", lambda: [{"name": "a GPU", "bytes": 1 << 36}])
    assert ready([single, a, after]) == ["single"]
    assert ready([a, job("b"), after, single]) == ["a", "b"] # one launcher for both
    other = launch.Job("m:g", run.folder / "other", {})
    assert ready([a, other, job("b")]) == ["a", "b"] # what only the first process does has no company


def test_a_job_that_leaves_nothing_is_named(study, monkeypatch):
    monkeypatch.chdir(study)
    run = open_run("smoke")
    bad = launch.Job("flowers102_study.core.records:nothing", run.folder / "bad", {})
    with pytest.raises(RuntimeError, match="has no attribute 'nothing'"):
        launch.run_jobs(run, [bad], "bad")


def smoke_data(study, monkeypatch):
    monkeypatch.chdir(study)
    # another test may have loaded the libraries in an environment of its own
    loaded_with = {}
    for module in (forks, launch): monkeypatch.setattr(module, "LOADED_WITH", loaded_with)
    run = open_run("smoke")
    return run, data.data_job(run)


def test_a_folder_that_was_sealed_before_a_kill_takes_its_place(study, monkeypatch):
    run, job = smoke_data(study, monkeypatch)
    launch.run_jobs(run, [job], "data")
    job.out.rename(job.out.with_name("data.partial")) # sealed, and killed before it was renamed
    launch.run_jobs(run, [job], "data")
    assert job.done() and not job.out.with_name("data.partial").exists()


def test_what_libraries_read_once_is_read_again(study, monkeypatch):
    run, _ = smoke_data(study, monkeypatch)
    assert launch.load_ahead(run)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info") # is about words
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "written by PyTorch, in a notebook")
    assert launch.load_ahead(run)
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    assert not launch.load_ahead(run)


def test_libraries_are_loaded_where_a_stage_can_begin(study, monkeypatch, capsys):
    run, job = smoke_data(study, monkeypatch)
    loads = []
    monkeypatch.setattr(launch, "load_ahead", loads.append)
    launch.open_stage(run, "resnet")
    assert "(data); run: flowers102-study run data" in capsys.readouterr().out and not loads
    launch.run_jobs(run, [job], "data")
    capsys.readouterr()
    launch.open_stage(run, "resnet")
    assert not capsys.readouterr().out and loads == [run]


def test_commands_are_forked_after_libraries_have_left_their_words():
    "What makes the tests quick, and would be missed by none of them."
    import sklearn # noqa: F401
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    cache_dir()
    assert {"TORCHINDUCTOR_CACHE_DIR"} <= {*os.environ} and not loaded.fits()
    loaded.forget_written()
    assert loaded.fits()


def test_where_nothing_can_be_forked_a_job_is_started(study, monkeypatch):
    from flowers102_study import baselines
    run, job = smoke_data(study, monkeypatch)
    def too_long(run): raise OSError("AF_UNIX path too long")
    monkeypatch.setattr(launch, "load_ahead", too_long)
    jobs = [job, *baselines.jobs(run)[:2]]
    launch.run_jobs(run, jobs, "spawned")
    assert all(job.done() for job in jobs)


def test_a_lane_whose_parent_dies_leaves_nothing_behind(study, monkeypatch, fault):
    from multiprocessing import forkserver
    run, job = smoke_data(study, monkeypatch)
    launch.run_jobs(run, [job], "data")
    job = launch.Job("flowers102_study.resnet:train", run.arm("resnet50"),
                     resnet.network_jobs(run)[0].spec | {"resnet": run.resnet | {"epochs": 500}},
                     {"data": job})
    launch.prepare(job)
    there, go = study / "there", study / "go" # where nobody ever writes
    for pipe in (there, go): os.mkfifo(pipe)
    fault(at="flowers102_study.core.progress:progress", do="hold", there=str(there), go=str(go))
    launch.load_ahead(run)
    lane = launch.start_lane(run, [job], "lane", launch.Board([]))
    assert int(there.read_text()) == lane.pid # at work
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    lane.join()
    with pytest.raises(RuntimeError, match="ended with status"):
        launch.check_ended(lane, run.logs / "lane.log")
    ended(lane.pid)


@pytest.mark.parametrize("profile", ["smoke", "pocket", "photos", "paper"])
def test_jobs_have_titles_of_their_own_and_depend_on_what_they_are_given(study, monkeypatch, profile):
    from flowers102_study.core.keys import reached
    from flowers102_study.core.notebooks import stage_module
    from flowers102_study.core.settings import stages
    monkeypatch.chdir(study)
    run = open_run(profile, overrides={"data.source": "drawn"})
    for stage in stages():
        jobs = stage_module(stage).jobs(run)
        assert len({job.title for job in jobs}) == len(jobs), stage
        for target in {job.target for job in jobs}:
            assert "flowers102_study.core.work:Work" in reached(target), target
