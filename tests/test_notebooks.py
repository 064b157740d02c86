"""Each notebook's own tests, one test each; cells flagged slow or gpu are left out."""
import pytest
from conftest import ROOT, call
from house import notebooks


@pytest.mark.parametrize("path", notebooks(ROOT),
                         ids=lambda p: p.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_notebook(path):
    told = call(ROOT, "nbdev_test", "--path", path, "--n_workers", "0", check=False, OMP_NUM_THREADS="1")
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
