"""A training that is killed ends with the weights of one that was not; ten kills by tests/kill.py."""
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("stage", ["resnet", "sft"])
def test_two_kills(stage):
    told = subprocess.run([sys.executable, str(Path(__file__).with_name("kill.py")), "2", stage],
                          capture_output=True, text=True)
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    assert told.stdout.count("the same weights") == 2
