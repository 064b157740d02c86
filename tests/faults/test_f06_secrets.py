"""A token in the environment, in a cell, in an address, in an error: nobody finds it afterwards."""
import json
import sqlite3

import pytest
from conftest import SECRETS, call
from faults import LONG

TOKENS = [value.encode() for value in SECRETS.values()]


def leaks(folder) -> list: # files that hold a token, in whatever form
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))
            if path.is_file() and any(token in path.read_bytes() for token in TOKENS)]


def test_a_whole_run_holds_none(smoke, record_property):
    "The smoke run is made with tokens in its environment, and its jobs say one of them."
    assert "signed in with •••" in (smoke / "runs/smoke/logs/data.log").read_text()
    assert leaks(smoke / "runs") == []
    files = [p for p in (smoke / "runs").rglob("*") if p.is_file()]
    kinds = {path.suffix for path in files}
    assert {".ipynb", ".html", ".log", ".json", ".pdf", ".svg", ".db"} <= kinds
    for path in (p for p in files if p.suffix == ".db"): # curves, and what trackio notes beside them
        told = "\n".join(sqlite3.connect(path).iterdump())
        assert not any(token.decode() in told for token in TOKENS)
    record_property("times", len(files))


def test_the_check_would_notice(tmp_path):
    (tmp_path / "x").write_text(f"invalid token {SECRETS['HF_TOKEN']}")
    assert leaks(tmp_path) == ["x"]


def said_by(done) -> bytes: return (done.stdout + done.stderr).encode()


CELL = """import os
print(os.environ["HF_TOKEN"])
raise RuntimeError(f"refused: {os.environ['THEIR_API_KEY']}")"""


def with_cell(study): # a failing cell behind the first ones
    path = study / "nbs/00_data.ipynb"
    book = json.loads(path.read_text())
    book["cells"].insert(4, {"cell_type": "code", "id": "planted", "metadata": {}, "outputs": [],
                             "execution_count": None, "source": CELL.splitlines(True)})
    path.write_text(json.dumps(book))


def test_a_failing_cell_shows_none(study):
    with_cell(study)
    told = call(study, "flowers102-study", "run", "data", "--profile", "smoke", check=False, **SECRETS)
    assert told.returncode == 1 and "refused: •••" in told.stderr
    assert "•••" in (study / "runs/smoke/notebooks/00_data.ipynb").read_text()
    assert leaks(study / "runs") == [] and not any(t in said_by(told) for t in TOKENS)


@LONG
@pytest.mark.parametrize("where", ["an address", "a job's error"])
def test_an_address_and_an_error_show_none(study, fault, where):
    words, around = ["run", "data", "--profile", "smoke"], dict(SECRETS)
    if where == "an address":
        password = SECRETS["A_PASSWORD"]
        words += ["--data", "oxford"]
        around["FLOWERS102_MIRROR"] = f"http://somebody:{password}@127.0.0.1:9"
        del around["A_PASSWORD"] # known by its place in the address alone
    else:
        fault(at="flowers102_study.core.progress:progress", do="say", words=f"not {SECRETS['HF_TOKEN']}")
    told = call(study, "flowers102-study", *words, check=False, **around)
    assert told.returncode == 1 and "•••" in told.stderr, told.stderr
    assert leaks(study / "runs") == [] and not any(t in said_by(told) for t in TOKENS)
