"""The command line in a process that finds the libraries loaded, as the notebooks of one run do.

Loading them takes seconds of a core, and the tests ask for a hundred short runs. What such a run cannot
show: that a command imports all that it needs, starts a server of its own and a single stage's kernel,
and what it does as Python ends. Commands as users call them are the run that tests share, those that
`conftest.call` gives an environment of their own, of every other command the first that succeeds and
those before it, and what is held with `forked=False`.
"""
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from flowers102_study.core import notebooks
from flowers102_study.core.forks import (LOADED_WITH, end_with_parent, load_libraries, started,
                                         surroundings)
from flowers102_study.core.kernels import INLINE, SHOWING, Forked, share_server
from flowers102_study.core.launch import environment
from flowers102_study.core.settings import open_run

ROOT = Path(__file__).resolve().parents[2]
# what commands and notebooks' own tests load besides; the first of each command shows that it does
MORE = ["nbdev.test", "datasets", "flowers102_study.page", "flowers102_study.commands"]
BEFORE = {} # the environment in which the libraries were loaded
# read whenever they are asked for
OWN = ("FAULT", "PYTEST_CURRENT_TEST", "SLURM_CONF", "GRADIO_TEMP_DIR")
# by scikit-learn and PyTorch, into the environment of whatever process has loaded them
WRITTEN = ("KMP_", "TORCHINDUCTOR_")


def around() -> dict: return {k: v for k, v in os.environ.items() if k not in OWN}


def forget_written():
    "Leave the environment as a user's is, not as libraries have left it in this process."
    for name in {*os.environ} - {*BEFORE}:
        if name.startswith(WRITTEN): del os.environ[name]


def load():
    "Start this process's server; what is forked from it finds the libraries loaded."
    BEFORE.update(BEFORE or around())
    folder = os.getcwd()
    os.chdir(ROOT)
    try:
        with surroundings(os.environ | notebooks.QUIET): # as a run does for its kernels
            settings = environment(open_run("smoke"), threads=1)
            load_libraries(settings | INLINE, [*SHOWING, *MORE])
    finally: os.chdir(folder)


def fits() -> bool: # whether a command would find what it would have loaded itself
    "Compare the environment with that in which they were loaded; one fault strikes as they are."
    return around() == BEFORE and "flock" not in os.environ.get("FAULT", "")


def write_to(log: Path, stream: int): os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), stream)


def become_command(words: list, folder: Path, settings: dict, loaded_with: dict, logs: tuple):
    "Turn a process that was just forked into a command, or a script of Python's, in a folder."
    os.setsid() # as a group of its own it can be killed, and ends with the tests
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler) # a shell may have started the tests deaf
    for stream, log in enumerate(logs, 1): write_to(log, stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(settings)
    tempfile.tempdir = None
    share_server(loaded_with)
    forked = notebooks.forked_kernels
    notebooks.forked_kernels = lambda run, wanted=True: forked(run) # a single stage's kernel, too
    program, *sys.argv = words
    if Path(program).name == "python": return runpy.run_path(sys.argv[0], run_name="__main__")
    sys.argv = words
    from flowers102_study.commands import main
    main()


class Command(Forked):
    "A command that was forked, as subprocess shows one that was started."
    def __init__(self, folder: Path, words: list, **settings):
        load() # a test may have ended it
        self.place = tempfile.TemporaryDirectory()
        self.logs = tuple(Path(self.place.name) / name for name in ("stdout", "stderr"))
        how = words, folder, os.environ | settings, dict(LOADED_WITH), self.logs
        super().__init__(started("forkserver", become_command, how))
        self.sentinel = self.lane.sentinel

    @property
    def returncode(self): return self.poll()

    def communicate(self) -> list: # what it has said, to each of the streams
        self.wait()
        said = [log.read_text() if log.exists() else "" for log in self.logs]
        self.place.cleanup()
        return said


def command(folder: Path, words: list) -> subprocess.CompletedProcess:
    "Run `flowers102-study` with some words in a folder."
    done = Command(folder, words)
    said = done.communicate()
    return subprocess.CompletedProcess(words, done.returncode, *said)
