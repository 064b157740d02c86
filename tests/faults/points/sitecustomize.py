"""Something goes wrong at a named point: Python reads this file as it starts, if it is on PYTHONPATH.

FAULT, a JSON object in the environment, says what: {"at": "flowers102_study.core.records:write",
"call": 3, "do": "kill"} ends the process at the third call. "about": count only calls with this text
among their arguments; "rank": only in this process of several. What can be done:

    kill    SIGKILL, before the function's work is done
    hold    open the named pipe "there" (somebody waits for it), then wait for the named pipe "go"
    fill    fill the disk of the folder "disk" but for "room" bytes, and go on
    unable  raise the error of a file system that cannot do this
    say     raise an error with the text "words"
    print   print "words", and go on
"""
import errno
import importlib.machinery
import json
import os
import signal
import sys

# functions that a fault may name; a method as Class.method
POINTS = {"flowers102_study.core.records": ("write", "seal"),
          "flowers102_study.core.progress": ("progress",),
          "flowers102_study.core.jobs": ("prepare", "take_place", "finish"),
          "flowers102_study.core.launch": ("open_stage", "run_jobs", "work"),
          "flowers102_study.page": ("write_page",),
          "flowers102_study.scores.figures": ("save",),
          "flowers102_study.publishing": ("collect",),
          "flowers102_study.pictures.sources": ("collect", "append"),
          "flowers102_study.vlm.cnn": ("step_once",),
          "flowers102_study.vlm.pretraining": ("step",),
          "flowers102_study.vlm.shards": ("write_part",),
          "transformers.trainer": ("Trainer.training_step",)}
COUNTED = {}


def strike(fault: dict):
    "Do what goes wrong."
    if fault["do"] == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if fault["do"] == "hold":
        with open(fault["there"], "w") as there: there.write(str(os.getpid()))
        with open(fault["go"]) as go: go.read() # nobody may ever write there
    if fault["do"] == "fill": fill(fault["disk"], fault["room"])
    if fault["do"] == "unable": raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    if fault["do"] == "say": raise RuntimeError(fault["words"])
    if fault["do"] == "print": print(fault["words"], flush=True)


def fill(folder: str, room: int):
    "Take a disk's room away."
    found = os.statvfs(folder)
    with open(os.path.join(folder, "ballast"), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize - room))


def wrapped(name: str, function):
    "Count the calls of a function, and strike at the one that is asked for."
    def at_a_point(*positional, **named):
        fault = json.loads(os.environ.get("FAULT", "{}"))
        if fault.get("at") == name and int(os.environ.get("RANK", 0)) == fault.get("rank", 0):
            if fault.get("about", "") in repr((positional, named)):
                COUNTED[name] = COUNTED.get(name, 0) + 1
                late = fault.get("every") and COUNTED[name] > fault["call"] # from that call on
                if COUNTED[name] == fault["call"] or late: strike(fault)
        return function(*positional, **named)
    at_a_point.__wrapped__, at_a_point.__name__, at_a_point.__doc__ = (function, function.__name__,
                                                                       function.__doc__)
    at_a_point.__module__, at_a_point.__qualname__ = function.__module__, function.__qualname__
    return at_a_point


class Loader(importlib.machinery.SourceFileLoader):
    "Loads a module and puts its points in their place."
    def exec_module(self, module):
        super().exec_module(module)
        for name in POINTS[module.__name__]:
            *classes, last = name.split(".")
            owner = module
            for part in classes: owner = getattr(owner, part)
            setattr(owner, last, wrapped(f"{module.__name__}:{name}", getattr(owner, last)))


class Finder:
    "Finds the modules that have points."
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in POINTS: return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.origin: spec.loader = Loader(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder)
if "FAULT" in os.environ:
    import fcntl
    fcntl.flock = wrapped("fcntl:flock", fcntl.flock)
