"""The command line in a process that finds the libraries loaded, as the notebooks of one run do.

Loading them takes seconds of a core, and the tests ask for a hundred short runs.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from flowers102_study.core.kernels import kernels_ahead, share_server
from flowers102_study.core.launch import LOADED_WITH, environment, started
from flowers102_study.core.settings import open_run


def load(root: Path): # the repository
    "Start this process's server, once; what is forked from it finds the libraries loaded."
    before = os.getcwd()
    os.chdir(root)
    try: kernels_ahead(environment(open_run("smoke"), threads=1))
    finally: os.chdir(before)


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
    from flowers102_study.commands import main
    main()


def command(folder: Path, words: list, settings: dict) -> subprocess.CompletedProcess:
    "Run `flowers102-study` with some words in a folder."
    with tempfile.TemporaryDirectory() as place:
        logs = Path(place) / "stdout", Path(place) / "stderr"
        process = started("forkserver", (words, folder, settings, dict(LOADED_WITH), logs),
                          become_command)
        process.join()
        said = [log.read_text() if log.exists() else "" for log in logs]
    return subprocess.CompletedProcess(words, process.exitcode, *said)
