"""The rules of the house hold, and the checks would notice if they did not."""
import json
import re
import shutil

import pytest
from conftest import ROOT, call
import house


@pytest.fixture
def whole(tmp_path): # a copy of everything that is committed and matters here
    for name in ("nbs", "flowers102_study", "report"):
        shutil.copytree(ROOT / name, tmp_path / name,
                        ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "README.md", "setup.py", "ruff.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def contents(folder, pattern):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob(pattern))
            if "__pycache__" not in p.parts}


def plant(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def unclean(root):
    before = contents(root / "nbs", "*.ipynb")
    call(root, "nbdev_clean", "--fname", "nbs")
    after = contents(root / "nbs", "*.ipynb")
    return [name for name in before if before[name] != after[name]]


def stale(root):
    before = contents(root / "flowers102_study", "*.py")
    call(root, "nbdev_export")
    after = contents(root / "flowers102_study", "*.py")
    return [name for name in before | after if before.get(name) != after.get(name)]


def test_notebooks_are_clean(whole):
    assert unclean(whole) == []
    book = json.loads((whole / "nbs/00_data.ipynb").read_text())
    book["cells"][1]["metadata"]["scrolled"] = True
    (whole / "nbs/00_data.ipynb").write_text(json.dumps(book))
    assert unclean(whole) == ["00_data.ipynb"]


def test_exports_are_fresh(whole):
    assert stale(whole) == []
    plant(whole / "flowers102_study/scores/metrics.py", "return", "return  ")
    assert stale(whole) == ["scores/metrics.py"]


def test_lines_and_cells_end_where_a_reader_does(whole):
    assert house.unruly(ROOT) == [] and house.long_cells(whole) == []
    path = whole / "nbs/00_data.ipynb"
    book = json.loads(path.read_text())
    long = ["#| export\n", *(f"a{k} = {k}\n" for k in range(26)), f"wide = {'1' * 105}\n", "import json"]
    book["cells"].append(book["cells"][-1] | {"cell_type": "code", "id": "planted", "source": long,
                                              "outputs": [], "execution_count": None})
    path.write_text(json.dumps(book))
    assert house.long_cells(whole) == ["00_data.ipynb: 29 lines, a0 = 0"]
    assert [re.search(r" ([A-Z]+\d+) ", line)[1] for line in house.unruly(whole)] == ["E501", "F401"]


def test_every_module_has_its_notebook(whole):
    assert house.without_notebook(whole) == []
    (whole / "flowers102_study/extra.py").write_text("")
    (whole / "nbs/scores/metrics.ipynb").unlink()
    assert house.without_notebook(whole) == ["extra", "scores.metrics"]


def test_no_import_runs_upwards(whole):
    assert house.upward_imports(whole) == []
    with open(whole / "flowers102_study/scores/metrics.py", "a") as file:
        file.write("\nfrom flowers102_study.resnet import train\n")
    with open(whole / "flowers102_study/data.py", "a") as file:
        file.write("\nfrom .resnet import train\n")
    with open(whole / "flowers102_study/core/records.py", "a") as file:
        file.write("\nfrom ..vlm.ranking import rank\n")
    with open(whole / "flowers102_study/core/settings.py", "a") as file:
        file.write("\nfrom .launch import run_jobs\n")
    found = house.upward_imports(whole)
    assert "scores.metrics imports resnet" in found and "data imports resnet" in found
    assert any("in a circle" in line for line in found)
    assert "core.records imports vlm.ranking" in found


def test_the_map_is_the_tree(whole):
    assert house.drawn_map(whole) == [*house.LAYERS, "chapters", "tools"]
    for tree in ("nbs", "flowers102_study"):
        folders = {p.name for p in (whole / tree).iterdir() if p.is_dir()}
        assert set(house.LAYERS) <= folders
    assert {m.split(".")[0] for m in house.exported(whole) if "." in m} == set(house.LAYERS)


def test_readme_numbers_are_measured(whole):
    assert house.readme_numbers(whole) == []
    assert len(house.numbers((whole / "README.md").read_text())) > 20
    told = house.told_numbers(whole)
    untold = next(n for n in (f"{v / 10:.1f}" for v in range(100, 999)) if n not in told)
    with open(whole / "README.md", "a") as file: file.write(f"\nOur network reaches {untold} %.\n")
    assert house.readme_numbers(whole) == [untold]


def test_readme_is_the_front_page_executed_on_the_committed_results(whole):
    before = (whole / "README.md").read_text()
    (whole / "README.md").unlink()
    call(whole, "flowers102-study", "notebooks", "index")
    call(whole, "flowers102-study", "readme")
    assert (whole / "README.md").read_text() == before


def test_committed_notebooks_are_small_and_name_no_machine():
    assert house.committed_sizes(ROOT) == []
    for path in house.notebooks(ROOT):
        cells = json.loads(path.read_text())["cells"]
        outputs = json.dumps([{k: v for k, v in (o.get("data") or o).items()
                               if not k.startswith("image/")} for c in cells
                              for o in c.get("outputs", [])])
        if path.name[:2].isdigit():
            assert "image/png" in json.dumps(cells) and "not run yet" not in outputs, (
                f"{path.name} is not executed")
        assert not re.search(r"/(home|root|Users|work)/|/tmp/(?!tmp_example)", outputs), path.name


def test_stages_share_one_stem():
    import yaml
    schema = yaml.safe_load((ROOT / "flowers102_study/profiles/pocket.yaml").read_text())
    for module, path in house.exported(ROOT).items():
        if path.name[:2].isdigit(): assert path.stem[3:] == module and module in schema


def test_shipped_profiles_are_whole():
    import yaml
    from flowers102_study.core.settings import flat, read_profile
    schema = flat(yaml.safe_load((ROOT / "flowers102_study/profiles/pocket.yaml").read_text()))
    paper = flat(yaml.safe_load((ROOT / "flowers102_study/profiles/paper.yaml").read_text()))
    assert paper.keys() == schema.keys() # a paper's setting never comes from the pocket unnoticed
    for path in (ROOT / "flowers102_study/profiles").glob("*.yaml"): read_profile(path.stem)
