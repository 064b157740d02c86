"""The package as others install it."""
import configparser
import os
import re
import subprocess
import sys
from importlib.metadata import distributions

from conftest import ROOT
from packaging.specifiers import SpecifierSet


def test_installed_alone(tmp_path):
    source = tmp_path / "source" # pip builds in place; the clone stays clean
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True) if (
        ROOT / ".git").exists() else None
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target",
                    str(tmp_path / "site"), str(source)], check=True, capture_output=True)
    away = tmp_path / "away"
    away.mkdir()
    ask = lambda code: subprocess.run([sys.executable, "-c", code], cwd=away,
                                      env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
                                      capture_output=True, text=True)
    told = ask("import flowers102_study, flowers102_study.core.settings as s; "
               "print(flowers102_study.__file__); print(s.read_profile('paper')['data']['image_size'])")
    assert str(tmp_path / "site") in told.stdout and "448" in told.stdout, told.stderr
    assert (tmp_path / "site/flowers102_study/lmms_eval/utils.py").exists()
    assert len((tmp_path / "site/flowers102_study/flowers102.txt").read_text().splitlines()) > 102
    refused = ask("import sys; sys.argv = ['flowers102-study', 'run']; "
                  "from flowers102_study.commands import main; main()")
    assert refused.returncode == 2 and "no notebooks here" in refused.stderr


def test_what_is_installed_takes_the_oldest_python():
    "Debian 12 has 3.11.2, and pip does not say which package wants a newer one."
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    oldest = settings["DEFAULT"]["min_python"] + ".0"
    wanted = {f"{made.name} {made.version}": made.metadata["Requires-Python"]
              for made in distributions()}
    assert len(wanted) > 100
    assert {name: python for name, python in wanted.items()
            if python and oldest not in SpecifierSet(python)} == {}


def test_what_stands_beside_the_tests_finds_them():
    "As make starts it: nothing here is on its path but what it puts there itself."
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    path = re.search(r"PYTHONPATH=(\S+) .* -m tests.rehearsal", (ROOT / "Makefile").read_text())[1]
    found = lambda code, **more: subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare | more,
                                                capture_output=True, text=True)
    told = found("import tests.rehearsal.__main__, tests.rehearsal.kills", PYTHONPATH=path)
    assert told.returncode == 0, told.stderr
    begin = "import sys; from pathlib import Path; ROOT = Path.cwd()"
    for script in sorted((ROOT / "benchmarks").glob("*.py")):
        lines = script.read_text().splitlines()
        if not any("from conftest import" in line for line in lines): continue
        places = next(line for line in lines if line.startswith("sys.path[:0]"))
        told = found(f"{begin}; {places}; import conftest")
        assert told.returncode == 0, f"{script.name}: {told.stderr}"
