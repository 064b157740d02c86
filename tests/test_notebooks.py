"""Each notebook's own tests, one test each; cells flagged slow or gpu are left out.

They run in processes that are forked from one that has loaded the libraries, as the kernels of a run
are: loading them sixty times would take longer than the tests.
"""
import os
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT
from flowers102_study.core.forks import LOADED_WITH, started
from flowers102_study.core.kernels import share_server
from house import notebooks
from loaded import load, write_to


def try_notebook(path: Path, log: Path, loaded_with: dict):
    "Run a notebook's tests as nbdev_test does, in this process, and end with their status."
    for stream in (1, 2): write_to(log, stream)
    os.environ |= {"OMP_NUM_THREADS": "1"}
    tempfile.tempdir = None
    share_server(loaded_with)
    from nbdev.config import get_config
    from nbdev.test import test_nb
    os.chdir(ROOT / "nbs")
    held, _ = test_nb(path, skip_flags=get_config().tst_flags.split(), basepath=ROOT)
    sys.exit(0 if held else 1)


@pytest.mark.parametrize("path", notebooks(ROOT),
                         ids=lambda p: p.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_notebook(path, tmp_path):
    load() # a test may have ended it
    process = started("forkserver", try_notebook, (path, tmp_path / "log", dict(LOADED_WITH)))
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-3000:]
