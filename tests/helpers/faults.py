"""What the rows of the table share: how a fault is set, and the table, printed after the tests."""
import json
import multiprocessing.connection
import os
import select
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from loaded import Command, fits, forget_written

# the long form of a row: `make faults` has it, `make test` does not
LONG = pytest.mark.long


@pytest.fixture
def fault(monkeypatch):
    "Return a function that sets what goes wrong in processes that start from now on; nothing ends it."
    def set_fault(**what):
        if not what: return monkeypatch.delenv("FAULT")
        monkeypatch.setenv("FAULT", json.dumps({"call": 1} | what))
    return set_fault


def begun(study: Path, words: list, fault: str): # a subprocess.Popen
    "Start a command as users do: a process that is forked from no other one."
    # a shell may have started the tests deaf to Ctrl-C
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(words, cwd=study, env=os.environ | {"FAULT": fault}, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=listen,
                               start_new_session=True)
    process.sentinel = os.pidfd_open(process.pid)
    return process


class Held:
    "A command that is held at a point until it is let go."
    every = [] # of a test

    def __init__(self, study: Path, words: tuple, at: str, call: int = 1, about: str = "",
                 program: str = "flowers102-study", forked: bool = True):
        self.there, self.go = study / "there", study / "go"
        for pipe in (self.there, self.go): os.mkfifo(pipe)
        fault = json.dumps({"at": at, "call": call, "about": about, "do": "hold",
                            "there": str(self.there), "go": str(self.go)})
        words = [str(Path(sys.executable).with_name(program)), *words]
        forget_written()
        self.process = (Command(study, words, FAULT=fault) if forked and fits()
                        else begun(study, words, fault))
        self.every.append(self)
        self.pid = self.reached()

    def reached(self) -> int: # the process that is held
        "Wait until the point is reached; raise the command's words where it ends before."
        there = os.open(self.there, os.O_RDONLY | os.O_NONBLOCK)
        ready = multiprocessing.connection.wait([there, self.process.sentinel])
        if there not in ready: raise AssertionError(self.process.communicate()[1])
        os.set_blocking(there, True)
        with open(there) as pipe: return int(pipe.read())

    def let_go(self) -> int: # the status
        self.go.write_text("go")
        self.said = self.process.communicate()[1]
        return self.process.returncode


@pytest.fixture(autouse=True)
def nobody_waits():
    "End what a test that failed has left waiting."
    yield
    while Held.every: Held.every.pop().process.kill()


def ended(pid: int):
    "Wait until a process is gone that somebody else has started."
    try: handle = os.pidfd_open(pid)
    except ProcessLookupError: return
    select.select([handle], [], [])
    os.close(handle)


def pytest_collection_modifyitems(config, items):
    "Leave out what `make faults` alone runs."
    if config.getoption("--table"): return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def row_of(report) -> str: # "F1"; "" for a test that is no row's
    name = report.nodeid.rpartition("/")[2]
    return f"F{int(name[6:8])}" if name.startswith("test_f") else ""


def pytest_terminal_summary(terminalreporter, config):
    "Print a line a row: what was done, how often, how often it held."
    if not config.getoption("--table"): return
    tried, held, skipped, notes = (defaultdict(kind) for kind in (int, int, set, list))
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            row = row_of(report)
            if not row: continue
            noted = dict(report.user_properties)
            times = noted.get("times", 1)
            if "note" in noted: notes[row].append(noted["note"])
            if outcome == "skipped": skipped[row].add(report.longrepr[2].removeprefix("Skipped: "))
            else: tried[row] += times
            if outcome == "passed": held[row] += times
    terminalreporter.section("faults")
    for row in sorted({*tried, *skipped}, key=lambda r: int(r[1:])):
        terminalreporter.write_line(f"{row:4} {TITLES[row]}: {held[row]} of {tried[row]} held"
                                    + "".join(f"; {words}" for words in notes[row])
                                    + "".join(f"; left out: {why}" for why in sorted(skipped[row])))


TITLES = {"F1": "killed at a random step, 15 after a checkpoint or later; the same bytes in the end",
          "F2": "a file of the newest checkpoint missing, cut short, one bit flipped; the one before",
          "F3": "the disk full, in data, checkpoint, record, figure, page; said, and gone on from",
          "F4": "a notebook's kernel killed; only what is missing is done again",
          "F5": "hostile archives, pictures and names; nothing outside, each named",
          "F6": "a token in environment, cell, address, error; found nowhere",
          "F7": "wrong keys, values, types, names, folders; refused with the nearest right one",
          "F8": "another folder, umask, locale, time zone, one core; the same bytes",
          "F9": "each key of the profile changed; its descendants alone run again",
          "F10": "libraries, network, home that are absent, broken or read-only; works, or says why not",
          "F11": "two at once; one waits or is refused, a dead one holds nobody",
          "F12": "clock set back, no locks, a run moved, copied, half deleted; goes on, or says so"}
