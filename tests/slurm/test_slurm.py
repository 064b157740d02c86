"""The study on a real SLURM: two nodes on this machine that are lost, hidden, drained, and come back."""
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cluster as loopback
import numpy as np
import pytest
from conftest import call, copy_of_study
from faults import LONG, Held
from flowers102_study import resnet
from flowers102_study.core import launch
from flowers102_study.core.cluster import longest_first
from flowers102_study.core.jobs import Job
from flowers102_study.core.launch import run_jobs
from flowers102_study.core.settings import SettingsError, open_run

ON = {"launch.engine": "slurm", "cluster.nodes": 2, "cluster.poll_seconds": .5, "cluster.minutes": 10,
      "cluster.gigabytes": 4, "cluster.wait_minutes": 5,
      "cluster.setup": ["export GLOO_SOCKET_IFNAME=lo"]}
STEP = "flowers102_study.vlm.cnn:step_once"
# the first network alone, as a notebook would have it made
TRAIN = """
import json, sys
from flowers102_study import resnet
from flowers102_study.core.launch import run_jobs
from flowers102_study.core.settings import open_run
run = open_run("smoke", overrides=json.loads(sys.argv[1]))
run_jobs(run, resnet.network_jobs(run)[:1], "resnet")
"""


@pytest.fixture(scope="module")
def daemons():
    if not loopback.there(): pytest.skip("SLURM is not installed, or may not be started")
    made = loopback.Cluster()
    yield made
    made.stop()


@pytest.fixture
def nodes(daemons):
    yield daemons
    daemons.restore()


@pytest.fixture
def home(tmp_path, smoke, monkeypatch): # a study with its data
    study = copy_of_study(tmp_path / "a study, 100 %d")
    for part in ("data", "audit"):
        shutil.copytree(smoke / "runs/smoke" / part, study / "runs/smoke" / part)
    (study / "train.py").write_text(TRAIN)
    monkeypatch.chdir(study)
    monkeypatch.setattr(launch, "ASSUMED", [])
    return study


def opened(**more): return open_run("smoke", overrides=ON | more)


def train(run): # the first network
    job = resnet.network_jobs(run)[0]
    run_jobs(run, [job], "resnet")
    return job


def record_of(folder: Path) -> dict:
    record = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in record.items() if key != "measured"}


def history(run) -> list:
    entries = json.loads((run.arm("resnet50") / "history.json").read_text())
    return [entry[key] for entry in entries for key in ("loss", "validation_loss")]


def held(study: Path, call: int = 8, **more): # in the second epoch, behind the first one's checkpoint
    words = ("train.py", json.dumps(ON | more))
    return Held(study, words, STEP, call, program="python")


def test_a_stage_leaves_what_one_machine_leaves(home, nodes, smoke):
    run = opened(**{"cluster.at_most": 2})
    jobs = resnet.network_jobs(run)
    run_jobs(run, jobs, "resnet")
    said = (run.logs / "queue.log").read_text() # which a terminal follows
    assert "» resnet50 | 0/1 | running on n" in said
    for job in jobs:
        one = smoke / "runs/smoke/arms" / job.name
        for name in ("predictions.parquet", "model/model.safetensors"):
            assert (job.out / name).read_bytes() == (one / name).read_bytes()
        assert record_of(job.out) == record_of(one)
        measured = json.loads((job.out / "result.json").read_text())["measured"]
        assert set(measured["nodes"]) <= {"n0", "n1"} and measured["queued_seconds"] >= 0


@pytest.mark.parametrize("config", ["ddp", pytest.param("fsdp2", marks=LONG)])
def test_two_nodes_take_the_steps_of_one(home, nodes, config):
    plain = {"resnet.freeze_backbone": True, "resnet.compare": ["mixcut"],
             "resnet.augmentation": "mixcut"}
    one = open_run("smoke", overrides=plain)
    train(one)
    alone = history(one)
    two = opened(**plain, **{"launch.num_processes": 2, "launch.accelerate_config": config})
    shutil.rmtree(one.arm("resnet50"))
    measured = json.loads((train(two).out / "result.json").read_text())
    assert measured["world_size"] == 2 and measured["measured"]["nodes"] == ["n[0-1]"]
    assert np.allclose(alone, history(two), atol=1e-5)


def test_a_node_is_lost(home, nodes, smoke):
    one = smoke / "runs/smoke/arms/resnet50"
    other = nodes.occupy("n1")
    waiting = held(home)
    number = nodes.named("smoke.resnet50")[-1]
    nodes.lose("n0")
    nodes.wait_for(lambda: nodes.queued(number) > 1)
    nodes.ask("scancel", other)
    waiting.said = waiting.process.communicate()[1]
    assert waiting.process.returncode == 0, waiting.said
    assert (home / "runs/smoke/arms/resnet50/model/model.safetensors").read_bytes() == (
        one / "model/model.safetensors").read_bytes()
    measured = json.loads((home / "runs/smoke/arms/resnet50/result.json").read_text())["measured"]
    assert measured["nodes"] == ["n0", "n1"] and measured["queued_seconds"] > 0 # of both attempts


def undisturbed(home, **more) -> bytes:
    run = open_run("smoke", overrides=more)
    return (train(run).out / "model/model.safetensors").read_bytes()


def test_the_limit_is_near(home, nodes):
    "SLURM's word before the limit: a checkpoint, another place in the queue, and the same weights."
    longer = {"resnet.epochs": 3}
    expected = undisturbed(home, **longer)
    shutil.rmtree(home / "runs/smoke/arms/resnet50")
    waiting = held(home, **longer)
    number = nodes.named("smoke.resnet50")[-1]
    nodes.ask("scancel", "--batch", "--signal=USR2", number)
    nodes.wait_for(lambda: list(home.glob("runs/smoke/slurm/*.leave")))
    assert waiting.let_go() == 0, waiting.said
    assert nodes.facts(number)["Restarts"] == "1"
    assert "goes on when it is its turn" in next(home.glob("runs/smoke/logs/*resnet50.log")).read_text()
    assert (home / "runs/smoke/arms/resnet50/model/model.safetensors").read_bytes() == expected


def test_preempted(home, nodes, smoke):
    "With a word before: a checkpoint. Without: the last one. In either case the same weights."
    word = "SlurmctldParameters=preempt_send_user_signal\n"
    one = (smoke / "runs/smoke/arms/resnet50/model/model.safetensors").read_bytes()
    for spoken in (True, False):
        waiting = held(home)
        number = nodes.named("smoke.resnet50")[-1]
        if not spoken: nodes.configure(nodes.text.replace(word, ""))
        nodes.ask("sbatch", "--partition=urgent", "--nodes=2", "--wrap", "true")
        if spoken: nodes.wait_for(lambda: list(home.glob("runs/smoke/slurm/*.leave")))
        status = waiting.let_go() if spoken else waiting.process.communicate() and (
            waiting.process.returncode)
        assert status == 0, waiting.said
        assert nodes.facts(number)["Restarts"] == "1"
        assert (home / "runs/smoke/arms/resnet50/model/model.safetensors").read_bytes() == one
        shutil.rmtree(home / "runs/smoke/arms/resnet50")
        for pipe in (waiting.there, waiting.go): pipe.unlink()


def test_cancelled_near_the_limit_stays_cancelled(home, nodes):
    waiting = held(home)
    number = nodes.named("smoke.resnet50")[-1]
    nodes.ask("scancel", "--batch", "--signal=USR2", number)
    nodes.wait_for(lambda: list(home.glob("runs/smoke/slurm/*.leave")))
    nodes.ask("scancel", number)
    assert "somebody or something cancelled it" in waiting.process.communicate()[1]
    assert (nodes.facts(number)["JobState"], nodes.facts(number)["Restarts"]) == ("CANCELLED", "0")


@LONG
def test_over_the_limit(home, nodes, smoke):
    "A job that does not come to a checkpoint before its limit is put into the queue as it is."
    waiting = held(home, **{"cluster.minutes": 1}) # and nobody lets it go
    assert waiting.process.communicate() and waiting.process.returncode == 0
    assert nodes.facts(nodes.named("smoke.resnet50")[-1])["Restarts"] == "1"
    one, two = (root / "runs/smoke/arms/resnet50/model/model.safetensors" for root in (smoke, home))
    assert one.read_bytes() == two.read_bytes()


def test_ctrl_c_cancels_its_own_and_a_kill_nothing(home, nodes, smoke):
    other = nodes.occupy("n1")
    whole = ("run", "resnet", "--profile", "smoke", "--set", 'contrastive.siglip2=""')
    settings = [word for key, value in ON.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    waiting = Held(home, (*whole, *settings), STEP) # on the other node
    waiting.process.send_signal(signal.SIGINT)
    assert "interrupted" in waiting.process.communicate()[1]
    for name in ("resnet50", "resnet50.mixcut", "resnet50.s1"):
        number = nodes.named(f"smoke.{name}")[-1]
        nodes.wait_for(lambda: nodes.facts(number)["JobState"] == "CANCELLED")
    assert nodes.facts(other)["JobState"] == "RUNNING"
    nodes.ask("scancel", other)
    for pipe in (waiting.there, waiting.go): pipe.unlink()
    waiting = held(home, call=2)
    waiting.process.kill()
    waiting.process.wait()
    last = nodes.named("smoke.resnet50")[-1] # SLURM forgets those that ended long ago
    again = subprocess.Popen([sys.executable, "train.py", json.dumps(ON)], cwd=home,
                             stdout=subprocess.PIPE, text=True)
    assert any("running on" in line for line in iter(again.stdout.readline, ""))
    waiting.go.write_text("go")
    again.communicate()
    assert again.returncode == 0 and nodes.named("smoke.resnet50")[-1] == last
    one, two = (root / "runs/smoke/arms/resnet50/model/model.safetensors" for root in (smoke, home))
    assert one.read_bytes() == two.read_bytes()


def test_a_failing_jobs_own_words(home, nodes, fault):
    fault(at="flowers102_study.core.progress:progress", do="say", words="not today")
    with pytest.raises(RuntimeError, match="(?s)did not finish: FAILED.*not today") as found:
        train(opened())
    assert "runs/smoke/logs/resnet.arms.resnet50.log" in str(found.value)


def test_what_a_cluster_has_not_is_refused(home, nodes, monkeypatch):
    with pytest.raises(SettingsError, match="unknown partition 'mein'; did you mean 'main'"):
        train(opened(**{"cluster.partition": "mein"}))
    with pytest.raises(SettingsError, match="unknown launch.engine 'slrum'; did you mean 'slurm'"):
        train(opened(**{"launch.engine": "slrum"}))
    nodes.ask("scontrol", "update", "nodename=n[0-1]", "state=drain", "reason=mended")
    with pytest.raises(SettingsError, match="has waited in the queue .* Ask for less"):
        train(opened(**{"cluster.wait_minutes": .02}))
    assert not nodes.ask("squeue", "--noheader", "--states=pending").strip()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", "/nowhere")
        with pytest.raises(SettingsError, match="there is no squeue here"): train(opened())


def test_a_node_that_does_not_see_the_folder(home, nodes):
    nodes.hide("n1", home)
    with pytest.raises(RuntimeError, match="n1 does not see the folder of the study"):
        train(opened(**{"launch.num_processes": 2}))


def test_what_takes_longest_comes_first(tmp_path):
    job = lambda name, *inputs: Job("m:f", tmp_path / name, {}, {i.name: i for i in inputs})
    first, short, long = job("first"), job("short"), job("long")
    last = job("last", first)
    seconds = {"first": 1, "short": 5, "long": 7, "last": 9}
    needs = {j.out: {"host": 1, "seconds": seconds[j.name]} for j in (first, short, long, last)}
    found = [j.name for j in longest_first([short, last, first, long], needs)]
    assert found == ["first", "last", "long", "short"]


def read_by_accelerate(script: str): # what torchrun is told on the second node
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env
    line = next(part for part in script.splitlines() if "accelerate.commands.launch" in part)
    for name, value in (("SLURM_NODEID", "1"), ("address", "the-first"), ("port", "29444")):
        line = line.replace(f'"${name}"', value)
    line = re.sub(r"\$\(.*?\)", "false", line)
    words = shlex.split(shlex.split(line)[-1])
    options = [word for word in words if word.startswith("--")]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args([*options, "x"]))
    prepare_multi_gpu_env(args)
    return args


def test_scripts_of_the_paper(study, monkeypatch):
    settings = ("launch.engine=slurm", "cluster.nodes=2", "cluster.gpus_per_node=8",
                "cluster.partition=gpu", 'cluster.setup=["module load cuda"]')
    words = ("run", "sft", "classifier", "--profile", "paper", "--dry-run")
    told = call(study, "flowers102-study", *words,
                *(word for setting in settings for word in ("--set", setting))).stdout
    scripts = told.split("#!/bin/bash\n")[1:]
    train, ask = scripts[0], scripts[1]
    assert all(line in train for line in (
        "#SBATCH --nodes=2\n", "#SBATCH --gpus-per-node=8\n", "#SBATCH --partition=gpu\n",
        "#SBATCH --signal=B:USR2@300\n", "module load cuda\n",
        'fsdp2.yaml --num_processes=16 --num_machines=2 --machine_rank="$SLURM_NODEID"'))
    meeting = read_by_accelerate(train)
    assert (meeting.rdzv_backend, meeting.rdzv_endpoint) == ("c10d", "the-first:29444")
    assert (meeting.nnodes, meeting.nproc_per_node, meeting.node_rank) == ("2", "8", 1)
    assert "qwen3-vl-4b-sft" in ask and "CUDA_VISIBLE_DEVICES" not in told
    for script in scripts: # what bash does not understand no node will
        path = study / "x.sh"
        path.write_text(script.split("exit $status")[0])
        assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
