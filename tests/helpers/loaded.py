"""The command line in a process that finds the libraries loaded, as the notebooks of one run do.

Loading them takes seconds of a core, and the tests ask for a hundred short runs. What such a run cannot
show: that a command imports all that it needs, and what it does as Python ends. The run that tests share
is a command as users call it, and so are those with an environment of their own, and of every other
command, in each process of the tests, the first that succeeds and those before it.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from flowers102_study.core import notebooks
from flowers102_study.core.forks import LOADED_WITH, started
from flowers102_study.core.kernels import kernels_ahead, share_server
from flowers102_study.core.launch import environment
from flowers102_study.core.settings import open_run


BEFORE = {} # the environment in which the libraries were loaded
OWN = ("FAULT", "PYTEST_CURRENT_TEST") # read whenever they are asked for


def around() -> dict: return {k: v for k, v in os.environ.items() if k not in OWN}


def load(root: Path): # the repository
    "Start this process's server; what is forked from it finds the libraries loaded."
    BEFORE.update(BEFORE or around())
    folder = os.getcwd()
    os.chdir(root)
    try: kernels_ahead(environment(open_run("smoke"), threads=1))
    finally: os.chdir(folder)


def fits() -> bool: # whether a command would find what it would have loaded itself
    "Compare the environment with that in which they were loaded; one fault strikes as they are."
    return around() == BEFORE and "flock" not in os.environ.get("FAULT", "")


def write_to(log: Path, stream: int): os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), stream)


def become_command(words: list, folder: Path, settings: dict, loaded_with: dict, logs: tuple):
    "Turn a process that was just forked into a command in a folder."
    for stream, log in enumerate(logs, 1): write_to(log, stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(settings)
    tempfile.tempdir = None
    share_server(loaded_with)
    sys.argv = words
    forked = notebooks.forked_kernels
    notebooks.forked_kernels = lambda run, wanted=True: forked(run) # a single stage's kernel, too
    from flowers102_study.commands import main
    main()


def command(folder: Path, words: list, root: Path) -> subprocess.CompletedProcess:
    "Run `flowers102-study` with some words in a folder."
    load(root) # a test may have ended it
    with tempfile.TemporaryDirectory() as place:
        logs = Path(place) / "stdout", Path(place) / "stderr"
        how = words, folder, dict(os.environ), dict(LOADED_WITH), logs
        process = started("forkserver", become_command, how)
        process.join()
        said = [log.read_text() if log.exists() else "" for log in logs]
    return subprocess.CompletedProcess(words, process.exitcode, *said)
