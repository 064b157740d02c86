"""What the tests share: a copy of the study in a folder of its own, and its command line."""
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flowers102_study.core.work import Work
from loaded import ROOT, command, fits, forget_written, load

PHOTOS = ROOT.parent / "shared" / "flowers102"
pytest_plugins = ["faults"]
# every process that a test starts can be told to go wrong
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "tests/faults/points"),
                                                         os.environ.get("PYTHONPATH")]))


def pytest_addoption(parser):
    parser.addoption("--table", action="store_true", help="the faults whole, with a line a row")


SMOKE = ("--set", "launch.parallel_jobs=1") # of the run that tests share
# made up: what no file of a run may hold
SECRETS = {"HF_TOKEN": "hf_" + "Zq7" * 9, "THEIR_API_KEY": "made-up-key-91x7",
           "A_PASSWORD": "pa55w0rd-made-up"}
# each of its jobs says one of them, as a library might
LEAK = {"at": "flowers102_study.core.progress:progress", "call": 1, "do": "print",
        "words": f"signed in with {SECRETS['HF_TOKEN']}"}


def copy_of_study(folder: Path) -> Path:
    "Copy what a run needs: notebooks, settings.ini and the paper's source, not the package itself."
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "settings.ini", folder)
    for name in ("paper.typ", "references.bib", "results/original.json"):
        (folder / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "report" / name, folder / "report" / name)
    return folder


PLACE = [] # a folder that all processes of the tests share


def call(folder: Path, *words, check: bool = True, **environment):
    "Run a program of the environment, as a process or forked from one that has the libraries loaded."
    program = [str(Path(sys.executable).with_name(words[0])), *map(str, words[1:])]
    forget_written()
    own = words[0] == "flowers102-study" and words[1].isalpha() # no option, and no name to be refused
    ran = PLACE[0] / f"{words[1]}.ran" if own else None # as a process that imports what it needs, before
    if own and (words[1] == "run" or ran.exists()) and not environment and fits():
        done = command(folder, program)
    else:
        done = subprocess.run(program, cwd=folder, env=os.environ | environment, capture_output=True,
                              text=True)
        if own and not done.returncode: ran.touch()
    if check and done.returncode:
        printed = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        raise AssertionError(f"{' '.join(map(str, words))}\n{printed}")
    return done


class Said:
    "What a command line that ran in this process has said, as subprocess tells it."
    def __init__(self, returncode, printed):
        self.returncode, (self.stdout, self.stderr) = returncode, printed


@pytest.fixture
def invoke(monkeypatch, capsys):
    "Return a function that runs the command line in this process, where nothing is to be computed."
    def run(folder: Path, *words, check: bool = True):
        from flowers102_study.commands import main
        from flowers102_study.core.devices import ASSUMED, devices
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["flowers102-study", *map(str, words)])
        capsys.readouterr()
        try: main()
        except SystemExit as end: status = end.code
        finally:
            ASSUMED.clear()
            devices.cache_clear()
        if isinstance(status, str): status, _ = 1, print(status, file=sys.stderr)
        said = Said(status or 0, capsys.readouterr())
        assert not check or not said.returncode, said.stderr
        return said
    return run


def at_work(job, folder: Path | None = None) -> Work: # folder: to be filled; None: the job's own
    "Stand a job before its function as the launcher does."
    return Work(job.spec, {name: made.out for name, made in job.inputs.items()}, folder or job.out)


def pytest_collection_modifyitems(items):
    "Let one process make the smoke run and go on with the longest file that needs it; long files first."
    needs = {item.path for item in items if "smoke" in item.fixturenames}
    # of those that need it; test_slurm.py waits, mostly; files that are not listed are short
    order = ("test_runs.py", "test_slurm.py", "test_own_pictures.py", "test_sft.py", "test_demo.py",
             "test_f08_same_bytes.py")
    place = lambda path: order.index(path.name) if path.name in order else len(order)
    items.sort(key=lambda item: (item.path.name != order[0], item.path in needs, place(item.path)))


@pytest.fixture(scope="session", autouse=True)
def libraries(): # for the jobs and runs of all tests of this process
    import torch
    load()
    torch.set_num_threads(1) # as jobs have; tests run side by side, and threads that wait spin


@pytest.fixture(scope="session", autouse=True)
def shared_place(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    PLACE.append(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(autouse=True)
def forgotten(): forget_written() # of the tests before


@pytest.fixture
def study(tmp_path): return copy_of_study(tmp_path)


@pytest.fixture(scope="session")
def smoke(shared_place): # a finished smoke run, made once for all test processes; tests only read it
    folder = PLACE[0] / "smoke"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.with_suffix(".done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            # a process less to start, and other tests want cores, too
            words = ("flowers102-study", "run", "--profile", "smoke", *SMOKE)
            call(copy_of_study(folder), *words, **SECRETS, FAULT=json.dumps(LEAK))
            folder.with_suffix(".done").touch()
    return folder
