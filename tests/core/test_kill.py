"""A training that is killed ends with the weights of one that was not; ten kills by helpers/kill.py."""
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.parametrize("stage", ["resnet", "sft"])
def test_two_kills(stage):
    told = subprocess.run([sys.executable, str(ROOT / "tests/helpers/kill.py"), "2", stage],
                          capture_output=True, text=True)
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    assert told.stdout.count("the same weights") == 2
