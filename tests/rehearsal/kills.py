"""Kill a rehearsal in a download, in a training, while publishing and while pushing, and let it go on.

    python -m tests.rehearsal.kills HOME     HOME: of a finished rehearsal, runs/rehearsal for make's

Each time what the killed part makes is taken away, the rehearsal is killed there, and started again: it
must end, with the same records as before.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT

NAME = "rehearsal-paper"
# what is taken away before: of the home, with what its stages make anew
TAKEN = {"download": ["hf/hub/models--Qwen--Qwen3-VL-8B-Instruct",
                      f"study/runs/{NAME}/arms/qwen3-vl-8b"],
         "training": [f"study/runs/{NAME}/models/qwen3-vl-4b-sft", f"study/runs/{NAME}/logs/sft.log"],
         "publishing": [f"study/report/results/{NAME}", f"study/figures/{NAME}",
                        f"study/report/{NAME}.pdf"],
         "pushing": [f"study/runs/{NAME}/push"]}


def records(home: Path) -> dict: # {file: content without what is measured}
    "Read what a rehearsal has found and published."
    study = home / "study"
    found = {}
    for path in sorted([*study.glob(f"runs/{NAME}/*/*/manifest.json"),
                        *study.glob(f"report/results/{NAME}/*.json")]):
        if path.name == "seconds.json": continue # all of it is measured
        content = json.loads(path.read_text())
        found[str(path.relative_to(home))] = (content["fingerprint"] if path.name == "manifest.json"
                                              else bare(content))
    return found


def bare(value):
    "Leave out what may differ between two equal runs."
    if isinstance(value, dict):
        return {k: bare(v) for k, v in value.items() if k not in ("measured", "commit", "seconds")}
    return [bare(v) for v in value] if isinstance(value, list) else value


def start(home: Path, *words) -> int: # the status
    "Run the rehearsal in a home."
    command = [sys.executable, "-m", "tests.rehearsal", "--home", str(home), *words]
    log = open(home / "kills.log", "a")
    found = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.run(command, cwd=ROOT, env=found, stdout=log, stderr=log).returncode


def main():
    home = Path(sys.argv[1]).resolve()
    before, held = records(home), True
    for moment, taken in TAKEN.items():
        for name in taken:
            path = home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        killed, begun = start(home, "--stop-at", moment), time.time()
        again = start(home)
        after = records(home)
        other = [name for name in before if after.get(name) != before[name]]
        right = killed == -signal.SIGKILL and not again and not other
        held &= right
        same = f"{len(before) - len(other)} of {len(before)} records the same"
        print(f"{moment}: killed (status {killed}), gone on with (status {again}) in "
              f"{time.time() - begun:.0f} s, {same}", "" if right else f"NOT HELD {other[:5]}",
              flush=True)
    sys.exit(not held)


if __name__ == "__main__": main()
