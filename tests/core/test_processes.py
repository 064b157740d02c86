"""One process, two processes, and two that share the weights; on a CPU, over gloo."""
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from faults import ended
from flowers102_study import data, resnet
from flowers102_study.core import dataset, launch
from flowers102_study.core.launch import CHILD, run_jobs
from flowers102_study.core.settings import open_run


def opened(frozen: bool, processes: int, config: str):
    return open_run("smoke", f"{frozen}-{processes}-{config}",
                    overrides={"resnet.freeze_backbone": frozen, "resnet.compare": ["mixcut"],
                               "resnet.augmentation": "mixcut", "launch.num_processes": processes,
                               "launch.accelerate_config": config, "launch.parallel_jobs": 1})


@pytest.fixture(scope="session")
def trained(tmp_path_factory): # {(frozen, processes, config): Run}, all on the same data
    from conftest import copy_of_study
    study, before, runs = copy_of_study(tmp_path_factory.mktemp("processes")), os.getcwd(), {}
    os.chdir(study)
    try:
        for processes, config in ((1, "ddp"), (2, "ddp"), (2, "fsdp2")):
            jobs = []
            for frozen in (True, False):
                run = runs[frozen, processes, config] = opened(frozen, processes, config)
                made = next(iter(runs.values())).data_folder # by the first of them
                if made.exists(): shutil.copytree(made, run.data_folder)
                run_jobs(run, [data.data_job(run)], "data")
                jobs += resnet.network_jobs(run)[:1]
            run_jobs(run, jobs, "resnet") # both in one launch
    finally: os.chdir(before)
    return runs


def history(run) -> list: return json.loads((run.arm("resnet50") / "history.json").read_text())


def losses(run) -> list: return [h[k] for h in history(run) for k in ("loss", "validation_loss")]


def weights(run) -> dict:
    from safetensors.numpy import load_file
    return load_file(run.arm("resnet50") / "model" / "model.safetensors")


def test_the_world_is_recorded_and_nothing_is_predicted_twice(trained):
    for (frozen, processes, _), run in trained.items():
        assert json.loads((run.arm("resnet50") / "result.json").read_text())["world_size"] == processes
        table = pd.read_parquet(run.arm("resnet50") / "predictions.parquet")
        assert table.image_id.is_unique and len(table) == 36


@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_without_batch_statistics_two_processes_take_the_steps_of_one(trained, config):
    one, two = trained[True, 1, "ddp"], trained[True, 2, config]
    assert np.allclose(losses(one), losses(two), atol=1e-5)
    for name, value in weights(one).items():
        assert np.allclose(value, weights(two)[name], atol=1e-4), name


def test_batch_statistics_differ_between_processes(trained):
    one, two, sharded = (losses(trained[False, *k]) for k in ((1, "ddp"), (2, "ddp"), (2, "fsdp2")))
    assert not np.allclose(one, two, atol=1e-5) # each process normalises with its own half of the batch
    assert np.allclose(one, two, rtol=.2) # and yet it is the same training
    # sharded weights have another memory layout; Adam's first steps magnify rounding
    assert np.allclose(two, sharded, rtol=.02)


@pytest.fixture
def pair(study, monkeypatch): # a run whose jobs have two processes, and one of them
    monkeypatch.chdir(study)
    run = opened(True, 2, "ddp")
    run_jobs(run, [data.data_job(run)], "data")
    return run, resnet.network_jobs(run)[0]


@pytest.mark.parametrize("what, words", [({"do": "kill", "rank": 1}, "of several processes was killed"),
                                         ({"do": "say", "words": "not today"}, "not today")],
                         ids=["one is killed", "one fails"])
def test_of_two_the_one_that_failed_is_told_of(pair, fault, monkeypatch, what, words):
    run, job = pair
    methods, start = [], launch.started
    monkeypatch.setattr(launch, "started", lambda how, *rest: methods.append(how) or start(how, *rest))
    fault(at="flowers102_study.vlm.cnn:step_once", **what)
    with pytest.raises(RuntimeError, match=words) as found: run_jobs(run, [job], "pair")
    assert methods == ["forkserver"] and "SignalException" not in str(found.value)


def test_two_processes_end_with_their_agent(pair, fault):
    import psutil
    run, job = pair
    launch.prepare(job)
    there, go = run.folder / "there", run.folder / "go" # where nobody ever writes
    for pipe in (there, go): os.mkfifo(pipe)
    fault(at="flowers102_study.vlm.cnn:step_once", do="hold", there=str(there), go=str(go))
    lane = launch.start_lane(run, [job], "pair", launch.Board([]))
    held, both = int(there.read_text()), [child.pid for child in psutil.Process(lane.pid).children()]
    assert held in both and len(both) == 2
    os.kill(lane.pid, signal.SIGKILL)
    for pid in both: ended(pid)
    lane.join()


def test_where_two_cannot_be_forked_a_launcher_starts_them(pair, monkeypatch):
    run, job = pair
    monkeypatch.setattr(launch, "may_fork", lambda run: False)
    run_jobs(run, [job], "pair")
    assert json.loads((job.out / "result.json").read_text())["world_size"] == 2


GRADIENTS = """
import sys, torch
from transformers.modeling_outputs import ImageClassifierOutput
from flowers102_study.core.processes import join_processes, leave_together
from flowers102_study.resnet import tensors, train_epoch, whole, wrap
accelerator = join_processes()
torch.manual_seed(0)
class Net(torch.nn.Module): # keeps no batch statistics
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8),
                                        torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
    def forward(self, x): # FSDP2 looks for tensors in known containers only
        return ImageClassifierOutput(logits=self.body(x))
pictures, targets = torch.randn(13, 3, 8, 8), torch.eye(5)[torch.arange(13) % 5]
block = {'learning_rate': 0., 'weight_decay': 0., 'warmup_ratio': 0., 'epochs': 1,
         'freeze_backbone': False, 'label_smoothing': .1, 'ema_decay': 0.}
model, optimizer = wrap(accelerator, Net(), block)
grads = {}
class Peek:
    param_groups = optimizer.param_groups
    def step(self):
        grads.update({n.removeprefix('module.'): whole(p.grad) for n, p in model.named_parameters()})
    def zero_grad(self, set_to_none): pass
make = lambda rows: (pictures[rows], targets[rows])
import numpy as np
average = [t.detach().clone() for t in tensors(model)]
batches = [np.arange(13)] # does not divide by two
train_epoch(accelerator, model, Peek(), average, batches, make, 0, 1, block)
if accelerator.is_main_process: torch.save(grads, sys.argv[1])
leave_together()
"""


def gradients(folder, name: str, *launcher, sharded: str = "false") -> dict: # of each parameter
    "Run the script above, under a launcher where one is given."
    import torch
    script, made = folder / f"{name}.py", folder / f"{name}.pt"
    script.write_text(GRADIENTS)
    told = subprocess.run([sys.executable, *launcher, script, made], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": sharded})
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-6000:]
    return torch.load(made)


@pytest.fixture(scope="module")
def gradients_of_one(tmp_path_factory): return gradients(tmp_path_factory.mktemp("gradients"), "one")


@pytest.mark.parametrize("sharded", ["false", "true"], ids=["ddp", "fsdp2"])
def test_gradients_of_two_processes_are_those_of_one(gradients_of_one, tmp_path, sharded):
    import torch
    launcher = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"
    one, two = gradients_of_one, gradients(tmp_path, "two", *launcher, sharded=sharded)
    assert one.keys() == two.keys() and len(one) == 6
    for name in one:
        assert one[name].abs().max() > 0 and torch.allclose(one[name], two[name], atol=1e-6), name


def test_what_is_saved_by_two_processes_is_what_was_scored(trained):
    import torch
    from transformers import AutoModelForImageClassification
    from flowers102_study.pictures.views import normalised, to_input
    run = trained[False, 2, "ddp"]
    model = AutoModelForImageClassification.from_pretrained(run.arm("resnet50") / "model").eval()
    table = pd.read_parquet(run.arm("resnet50") / "predictions.parquet").query("split == 'test'")
    with torch.no_grad():
        again = model(normalised(to_input(torch.from_numpy(np.array(
                                                               dataset.read_pixels(
                                                                   run.data_folder,
                                                                   "test")))))).logits.log_softmax(
            1).numpy()
    assert np.allclose(np.stack(table.log_probs), again, atol=1e-4)


def test_asking_for_two_and_getting_one_is_an_error(tmp_path):
    (tmp_path / "lane.json").write_text("[]")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2",
               "--no_python", sys.executable, "-c", CHILD, str(tmp_path / "lane.json"), "2"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode and "2 processes were asked for, and 1 started" in told.stderr
