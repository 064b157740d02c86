"""The rules of the house, as functions of a project's root that return what breaks them."""
import ast
import json
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

# rules of the house, too
from flowers102_study.verifying import numbers, readme_numbers, told_numbers # noqa: F401

STAGE = re.compile(r"\d\d_(\w+)")


def notebooks(root: Path) -> list:
    return sorted(p for p in (root / "nbs").rglob("*.ipynb")
                  if not any(part.startswith(".") for part in p.relative_to(root).parts))


def code_of(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def exported(root: Path) -> dict: # {"core.records": notebook}
    found = {}
    for path in notebooks(root):
        for module in re.findall(r"^#\|\s*default_exp\s+(\S+)", code_of(path), re.M):
            found[module] = path
    return found


def without_notebook(root: Path) -> list:
    "Modules that no notebook exports, and notebooks whose module is not there."
    package = root / "flowers102_study"
    # what lmms-eval calls is no notebook's
    modules = {p.relative_to(package).with_suffix("").as_posix().replace("/", ".")
               for p in package.rglob("*.py")
               if not p.name.startswith("_") and "lmms_eval" not in p.relative_to(package).parts}
    return sorted(modules ^ set(exported(root)))


def package_imports(source: str, module: str) -> set: # "core.records", …
    "The package's modules that a module imports; nbdev writes relative imports."
    found, base = set(), ["flowers102_study", *module.split(".")]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            source = ".".join([*(base[:-node.level] if node.level else []),
                               *filter(None, [node.module])])
            found |= ({f"{source}.{a.name}" for a in node.names} if source == base[0] else {source})
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
    return {m.removeprefix("flowers102_study.") for m in found if m.startswith("flowers102_study.")}


LAYERS = ("core", "scores", "pictures", "vlm") # each may import those before it; then come the stages
# parts of chapters 06 and 08 with a notebook of their own, which the chapter imports
PARTS = {"protocols": 5.5, "contrastive": 7.5}


def layer(module: str, number: dict) -> float: # number: of the stages
    first = module.split(".")[0]
    if first in LAYERS: return LAYERS.index(first) - len(LAYERS)
    return number.get(module, PARTS.get(module, 99)) # what uses the stages comes last


def upward_imports(root: Path) -> list:
    "Imports of what comes later: by folder, then by stage; and circles."
    package = root / "flowers102_study"
    number = {m: int(p.name[:2]) for m, p in exported(root).items() if STAGE.match(p.name)}
    graph = {m: package_imports((package / (m.replace(".", "/") + ".py")).read_text(), m)
             for m in exported(root)}
    bad = [f"{m} imports {i}" for m, imports in graph.items() for i in imports
           if layer(i, number) > layer(m, number)]
    try: TopologicalSorter(graph).prepare()
    except CycleError as error: bad.append(f"{' imports '.join(error.args[1])}, in a circle")
    return bad


def drawn_map(root: Path) -> list: # in the order of the arrows
    "Names of the folders and parts in the map that the index draws."
    cells = json.loads((root / "nbs" / "index.ipynb").read_text())["cells"]
    chart = next(text for text in map("".join, (c["source"] for c in cells)) if "flowchart" in text)
    line = next(line for line in chart.splitlines() if "-->" in line)
    return [part.strip().split("[")[0] for part in line.split("-->")]


LONGEST = 25 # lines of a cell


def long_cells(root: Path) -> list:
    "Cells that do not fit a screen; a class may be longer, since it cannot be told in parts."
    found = []
    for path in notebooks(root):
        for cell in json.loads(path.read_text())["cells"]:
            lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
            named = re.search(r"^\s*class \w+", "".join(cell["source"]), re.M)
            if cell["cell_type"] == "code" and len(lines) > LONGEST and not named:
                found.append(f"{path.relative_to(root / 'nbs')}: {len(lines)} lines, {lines[1].strip()}")
    return found


def unruly(root: Path) -> list:
    "What ruff has to say of notebooks, tests and benchmarks: the rules are in ruff.toml."
    words = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    said = subprocess.run(words, cwd=root, capture_output=True, text=True).stdout.splitlines()
    return [line for line in said if re.search(r":\d+:\d+: ", line)]


def committed_sizes(root: Path) -> list:
    return [p.name for p in notebooks(root) if p.stat().st_size > 1_000_000]
