"""The rules of the house, as functions of a project's root that return what breaks them."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

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
    def reach(m, seen=()):
        return any(m == i or (i not in seen and reach_from(m, i, (*seen, i))) for i in graph.get(m, ()))
    def reach_from(m, i, seen):
        return any(j == m or (j not in seen and reach_from(m, j, (*seen, j))) for j in graph.get(i, ()))
    return bad + [f"{m} imports itself in a circle" for m in graph if reach(m)]


def drawn_map(root: Path) -> list: # in the order of the arrows
    "Names of the folders and parts in the map that the index draws."
    cells = json.loads((root / "nbs" / "index.ipynb").read_text())["cells"]
    chart = next(text for text in map("".join, (c["source"] for c in cells)) if "flowchart" in text)
    line = next(line for line in chart.splitlines() if "-->" in line)
    return [part.strip().split("[")[0] for part in line.split("-->")]


def numbers(text: str) -> set:
    return set(re.findall(r"\d+\.\d+(?= ?%|\b)", text))


def told_numbers(root: Path) -> set:
    "Every decimal that a committed score or test, or the original, can stand behind."
    found = set()
    for path in (root / "report" / "results").glob("*/*.json"):
        result = json.loads(path.read_text())
        for g in result.get("groups", []):
            found |= {f"{100 * g[k]:.1f}" for k in ("before", "after") if g[k] is not None}
        for g in result.get("told", []):
            found |= {f"{100 * g[k]:.1f}" for k in ("before", "after") if g[k] is not None}
        for values in result.get("network", {}).get("accuracies", {}).values(): # of every training
            found |= {f"{100 * v:.1f}" for v in values}
        tests = [*result.get("comparisons", []), *([result["network"]] if "network" in result else []),
                 *result.get("matching", [])]
        for r in tests: found |= {f"{100 * abs(v):.1f}" for v in (r["effect"], *r["interval"])}
        chances = [r.get("holm_p", r["p"]) for r in tests]
        found |= ({"0.001" if p < .001 else f"{p:.2g}" for p in chances}
                  | {f"{result['level']}" for _ in chances if "level" in result})
        for score in (result.get("scores") or {}).values():
            found |= {f"{100 * v:.1f}" for v in (score["value"], *score["interval"])}
    original = json.loads((root / "report" / "results" / "original.json").read_text())
    from flowers102_study.scores.metrics import wilson
    found |= {number for arm in original["arms"] for number in numbers(arm["reported"])}
    found |= {number for other in original["others"] for number in numbers(other["reported"])}
    for arm in original["arms"]:
        found |= {f"{100 * v:.1f}" for v in wilson(arm["correct"], original["n"])}
    return found


def readme_numbers(root: Path) -> list:
    "Decimals in the README that stand in no committed result (versions of Python are no result)."
    text = (root / "README.md").read_text()
    return sorted(numbers(text) - told_numbers(root) - {"3.11"})


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
