"""The whole pocket study of another revision against this one's, and whether the records are the same.

    BEFORE=<commit> python benchmarks/study.py [PROFILE]

One JSON line. Both run from nothing, in turn, in folders of their own with the same installed packages;
what is compared are all records but for what is measured, and the predictions to the byte.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROFILE, REPEATS = (sys.argv[1:] or ["pocket"])[0], int(os.environ.get("REPEATS", 1))


def copied(revision: str) -> Path: # "": the files as they are
    "Copy a revision of the study, without its runs."
    folder = Path(tempfile.mkdtemp())
    source = ["git", "archive", revision] if revision else ["git", "ls-files", "-z"]
    found = subprocess.run(source, cwd=ROOT, capture_output=True, check=True).stdout
    if revision: subprocess.run(["tar", "x", "-C", folder], input=found, check=True)
    else:
        for name in found.decode().split("\0")[:-1]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(folder: Path) -> float: # seconds
    "Run the study from nothing."
    shutil.rmtree(folder / "runs", ignore_errors=True)
    begun = time.perf_counter()
    code = "from flowers102_study.commands import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "run", "--profile", PROFILE, "--quiet"],
                          cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(folder)})
    if done.returncode: sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - begun


def records(folder: Path) -> dict: # {file: content}
    "Read what two equal runs share."
    found, base = {}, folder / "runs" / PROFILE
    for path in sorted([*base.glob("arms/*/result.json"), *base.glob("hypotheses/*.json")]):
        content = json.loads(path.read_text())
        if isinstance(content, dict): # a key is of the code
            for name in ("measured", "commit", "key"): content.pop(name, None)
        found[path.relative_to(base).as_posix()] = json.dumps(content, sort_keys=True)
    return found | {path.relative_to(base).as_posix(): path.read_bytes()
                    for path in sorted(base.glob("arms/*/predictions.parquet"))}


def main():
    if not os.environ.get("BEFORE"):
        return print("P22: BEFORE=<commit> python benchmarks/study.py compares two revisions")
    folders = {"now": copied(""), "before": copied(os.environ["BEFORE"])}
    seconds = {name: [] for name in folders}
    for _ in range(REPEATS):
        for name, folder in folders.items(): seconds[name].append(run(folder))
    now, before = (records(folder) for folder in folders.values())
    other = sorted(name for name in before if before[name] != now.get(name))
    middle = {name: statistics.median(took) for name, took in seconds.items()}
    each = {name: ", ".join(f"{one:.0f}" for one in took) for name, took in seconds.items()}
    note = (f"{each['now']} s against {each['before']} s; {len(before) - len(other)} of "
            f"{len(before)} records and predictions are the same"
            + (f"; not {', '.join(other[:5])}" if other else ""))
    print(json.dumps({"name": f"P22: {PROFILE}, this revision against {os.environ['BEFORE']}",
                      "ratio": round(middle["before"] / middle["now"], 2), "goal": 1.3,
                      "equal": not other and now.keys() >= before.keys(), "n": REPEATS, "note": note}))
    sys.exit(bool(other))


if __name__ == "__main__": main()
