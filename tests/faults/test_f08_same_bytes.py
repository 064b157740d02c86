"""Two runs in different surroundings leave the same bytes, but for what is measured."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMOKE, call, copy_of_study
from faults import LONG
from flowers102_study.core.records import content_sum
from flowers102_study.publishing import typeset

MEASURED = ("hypotheses_cost",) # figures that show seconds
PARTS = ("data", "audit", "arms", "figures", "prompts", "augment", "models", "features", "ablation",
         "hypotheses", "../.pocket")


def files(run: Path) -> dict: # {name: sum of what two runs share}
    return {path.relative_to(run).as_posix(): content_sum(path) for part in PARTS
            for path in sorted((run / part).rglob("*"))
            if path.is_file() and path.name != "manifest.json" and path.stem not in MEASURED}


def page_of(run: Path) -> str: # without its mark, times, and the figure that shows seconds
    text = re.sub(r"^<!--.*?-->$", "", (run / "index.html").read_text(), count=1, flags=re.M)
    text = re.sub(r"<h2>Where the time went</h2>.*?(?=<h2>)", "", text, flags=re.S)
    cost = next(p for p in MEASURED)
    from flowers102_study.page import captions
    shown = rf'<img alt="{re.escape(captions()[cost])}[^"]*" src="[^"]*">'
    assert re.search(shown, text)
    return re.sub(shown, "", text)


def paper_of(study: Path, like: Path) -> bytes: # like: the study whose measured parts are put in
    "Set a study's paper with what another one measured."
    call(study, "flowers102-study", "publish", "--name", "smoke")
    records, other = (root / "report/results/smoke" for root in (study, like))
    shutil.copy(other / "seconds.json", records)
    for path in records.glob("*.json"):
        record = json.loads(path.read_text())
        if "measured" not in record: continue
        record["measured"] = json.loads((other / path.name).read_text())["measured"]
        path.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    for name in MEASURED:
        shutil.copy(like / f"figures/smoke/{name}.svg", study / f"figures/smoke/{name}.svg")
    return typeset(study, "smoke")


def elsewhere(study: Path, umask: int = 0o022, cores: tuple = (), **around):
    "Run the study as another user would, on other cores."
    def become():
        os.umask(umask)
        if cores: os.sched_setaffinity(0, cores)
    program = Path(sys.executable).with_name("flowers102-study")
    words = [program, "run", "--profile", "smoke", *SMOKE]
    done = subprocess.run(words, cwd=study, env=os.environ | around, preexec_fn=become,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not umask & (study / "runs/smoke/index.html").stat().st_mode


ONE = (min(os.sched_getaffinity(0)),) # core
WAYS = {"all at once": {"umask": 0o077, "cores": ONE, "LC_ALL": "C", "LANG": "C", "LANGUAGE": "de",
                        "TZ": "Pacific/Auckland", "PYTHONHASHSEED": "77"},
        "another folder": {}, "another umask": {"umask": 0o077}, "another locale": {"LC_ALL": "C"},
        "another time zone": {"TZ": "Asia/Kathmandu"}, "one core": {"cores": ONE}}


SHORT = "all at once"


@pytest.mark.parametrize("way", [pytest.param(w, marks=[] if w == SHORT else LONG) for w in WAYS])
def test_other_surroundings_and_the_same_bytes(smoke, tmp_path, way):
    one, two = (copy_of_study(tmp_path / name) for name in ("one", "another folder, with a longer name"))
    shutil.copytree(smoke / "runs", one / "runs")
    elsewhere(two, **WAYS[way])
    first, second = (root / "runs/smoke" for root in (one, two))
    sums, others = files(first), files(second)
    assert sums.keys() == others.keys() and [name for name in sums if sums[name] != others[name]] == []
    assert page_of(first) == page_of(second)
    call(one, "flowers102-study", "publish", "--name", "smoke")
    assert paper_of(two, like=one) == (one / "report/smoke.pdf").read_bytes()
