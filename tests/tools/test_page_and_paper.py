"""What people read: a run's page, rendered notebooks, the paper, the terminal, a first cell."""
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import yaml
from conftest import ROOT, at_work, call, copy_of_study


class Links(HTMLParser): # whatever a browser would load, and where a link leads
    def __init__(self, text):
        super().__init__()
        self.loaded, self.leads, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "a": self.leads.append(found.get("href", ""))
        else:
            self.loaded += [v for k, v in found.items()
                            if k in ("src", "srcset", "href", "data", "action")]


def loaded_from_elsewhere(text: str) -> list:
    return ([v for v in Links(text).loaded if not v.startswith("data:")]
            + re.findall(r"@import|url\((?!['\"]?data:)", text))


def test_the_check_would_notice():
    assert (loaded_from_elsewhere('<script src="https://x.org/a.js"></script><style>@import '
                                  '"x"</style><img src="data:,">') == ["https://x.org/a.js", "@import"])


def test_a_run_has_a_page_that_needs_nothing_else(smoke):
    run = smoke / "runs/smoke"
    for page in (run / "index.html", *sorted((run / "notebooks").glob("*.html"))):
        text = page.read_text()
        assert (loaded_from_elsewhere(text) == [] and "prefers-color-scheme: dark" in text and
                "width=device-width" in text)
        for lead in Links(text).leads:
            if not lead.startswith(("http", "#")):
                assert (page.parent / lead).exists(), (page.name, lead)
        assert str(smoke) not in text
    text = (run / "index.html").read_text()
    judged = json.loads((run / "hypotheses/hypotheses.json").read_text())
    for name, said in judged["hypotheses"].items():
        assert (f"{name}: {said['claim']}</strong><span class=\"verdict "
                f"{said['verdict'].replace(' ', '-')}\">{said['verdict']}" in text)
    for arm in ("resnet50", "qwen3-vl-4b-sft-head"):
        result = json.loads((run / "arms" / arm / "result.json").read_text())
        assert (f"<td>{arm}</td><td>{100 * result['accuracy']:.1f} %" in text and
                f"{result['correct']:,} of {result['n']:,}" in text)
    assert ("Drawn flowers" in text and text.count("<i style=") == 9
            and len(list((run / "notebooks").glob("*.html"))) == 9)
    # each figure once, and two strips of test pictures
    assert text.count("<figure><img alt=") == len(list((run / "figures").glob("*.svg")))
    assert text.count('<div class="strip">') == 2 and "flowers102-study demo --name smoke" in text


def test_a_page_is_written_again_when_it_would_be_another(smoke, tmp_path):
    study = copy_of_study(tmp_path)
    shutil.copytree(smoke / "runs", study / "runs")
    page, paper = study / "runs/smoke/index.html", study / "runs/smoke/paper.pdf"
    before = page.stat().st_mtime_ns, paper.stat().st_mtime_ns
    code = ("from flowers102_study.core.settings import open_run; from flowers102_study.page import "
            "write_page; write_page(open_run('smoke'))")
    call(study, "python", "-c", code)
    assert (page.stat().st_mtime_ns, paper.stat().st_mtime_ns) == before
    book = study / "runs/smoke/notebooks/08_resnet.json"
    book.write_text(json.dumps(json.loads(book.read_text()) | {"with_jobs": 4321.}))
    call(study, "python", "-c", code)
    assert "72:01" in page.read_text() and page.stat().st_mtime_ns != before[0]


def published(smoke, tmp_path):
    study = copy_of_study(tmp_path)
    shutil.copytree(smoke / "runs", study / "runs")
    call(study, "flowers102-study", "publish", "--name", "smoke")
    return study


def test_the_paper_is_the_same_bytes_and_follows_the_verdicts(smoke, tmp_path):
    from flowers102_study.publishing import typeset
    study = published(smoke, tmp_path)
    paper = (study / "report/smoke.pdf").read_bytes()
    assert (paper.startswith(b"%PDF")
            and typeset(study, "smoke") == paper == (smoke / "runs/smoke/paper.pdf").read_bytes())
    records = study / "report/results/smoke"
    told = json.loads((records / "hypotheses.json").read_text())
    made = {paper}
    for verdict in ("supported", "not supported", "undecided", "no verdict"):
        for row in (*told["comparisons"], *told["hypotheses"].values()): row["verdict"] = verdict
        (records / "hypotheses.json").write_text(json.dumps(told))
        made.add(typeset(study, "smoke"))
    assert len(made) >= 4 # one of the four may be what the run said
    index = (json.loads((records / "index.json").read_text())
             | {"profile": "paper", "source": "oxford", "label": ""})
    (records / "index.json").write_text(json.dumps(index))
    (records / "hypotheses.json").write_text(json.dumps(told
                                                        | {"drawn": False, "seeded": ["sft", "resnet"]}))
    (records / "ablation.json").write_text(json.dumps(json.loads((records / "ablation.json").read_text())
                                                      | {"tables": {}}))
    assert typeset(study, "smoke") not in made # the real one, from the same source
    for row, said in zip(told["comparisons"], ("supported", "not supported", "supported", "undecided")):
        row["verdict"] = said
    told["hypotheses"]["H2"]["verdict"] = "not supported"
    (records / "hypotheses.json").write_text(json.dumps(told))
    assert typeset(study, "smoke") not in made


def test_the_paper_on_photographs_has_a_section_on_drawings(smoke, tmp_path):
    from flowers102_study.publishing import typeset
    study = published(smoke, tmp_path)
    for kind in ("figures", "report/results"):
        shutil.copytree(study / kind / "smoke", study / kind / "photos")
    index = study / "report/results/photos/index.json"
    index.write_text(json.dumps(json.loads(index.read_text())
                                | {"profile": "photos", "source": "oxford", "label": ""}))
    alone = typeset(study, "photos")
    for kind in ("figures", "report/results"):
        shutil.copytree(study / kind / "smoke", study / kind / "pocket")
    both = typeset(study, "photos")
    assert both != alone and typeset(study, "photos") == both
    told = study / "report/results/pocket/hypotheses.json"
    rows = json.loads(told.read_text())
    rows["comparisons"][0]["effect"] += .1 # a number of the drawn run that the section shows
    told.write_text(json.dumps(rows))
    assert typeset(study, "photos") != both


def test_no_number_of_a_run_is_typed_in_the_paper():
    text = re.sub(r"//.*", "", (ROOT / "report/paper.typ").read_text().split("// ---------- front")[1])
    prose = re.sub(r"#\w+[^\n]*?\(.*?\)|\d+(\.\d+)?(pt|cm|em|%\))", "", text)
    assert not re.findall(r"\d+\.\d+ ?%", prose)
    told = {f"{100 * r['effect']:.1f}"
            for r in json.loads((ROOT / "report/results/pocket/hypotheses.json").read_text())[
                "comparisons"]}
    assert not told & set(re.findall(r"\d+\.\d", prose))


def test_the_committed_paper_is_what_would_be_set_now():
    from flowers102_study.publishing import paper_run, typeset
    assert (ROOT / "report/paper.pdf").read_bytes() == typeset(ROOT, paper_run(ROOT, "pocket"))


def test_the_terminal_for_people_programs_and_nobody(smoke, tmp_path):
    study = copy_of_study(tmp_path)
    shutil.copytree(smoke / "runs", study / "runs")
    again = lambda *words: call(study, "flowers102-study", "run", "data", "--profile", "smoke", *words)
    shutil.rmtree(study / "runs/smoke/data")
    people = again().stdout
    assert (re.search(r"\[1/1\] 00_data \.\.\. 0:\d\d so far, about 0:\d\d to go\n", people)
            and re.search(r"data +█+ +132/132", people))
    assert "smoke: data finished in" in people and "so far: runs/smoke/index.html" in people
    events = [json.loads(line) for line in again("--json").stdout.splitlines()]
    assert ([(e["event"], e["state"]) for e in events] == [("stage", "done before"), ("run", "finished")]
            and Path(events[-1]["page"]).exists())
    quiet = again("--quiet")
    assert quiet.stdout == "" == quiet.stderr


def test_the_first_cell_says_what_is_missing(smoke, study, monkeypatch, capsys):
    def first_cells(path):
        names = {"__name__": "notebook"}
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or source.startswith("#|"): continue
            exec(source.replace('profile = "pocket"', 'profile = "smoke"'), names)
            if "notebook_run" in source: return capsys.readouterr().out
    monkeypatch.chdir(smoke)
    books = sorted((smoke / "nbs").glob("0*.ipynb"))
    assert [first_cells(path) for path in books] == [""] * 9
    monkeypatch.chdir(study / "nbs") # where JupyterLab is; nothing has been run there
    told = [first_cells(path) for path in books]
    assert (told[0] == ""
            and all(line.count("\n") == 1 and "run: flowers102-study run data" in line
                    for line in told[1:]))


def test_who_is_to_be_cited_and_what_changed():
    from flowers102_study import __version__
    card = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (card["version"] == __version__
            and {"cff-version", "message", "title", "authors", "license"} <= card.keys()
            and len(card["references"]) == 2)
    assert (f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text() and
            "MIT License" in (ROOT / "LICENSE").read_text())


def test_a_link_between_committed_pages_leads_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "nbs").rglob("[!.]*.ipynb"))]
    for page in pages:
        texts = ([page.read_text()] if page.suffix == ".md"
                 else ["".join(c["source"]) for c in json.loads(page.read_text())["cells"]
                       if c["cell_type"] == "markdown"])
        for lead in re.findall(r"\]\(([^)\s]+)\)", "\n".join(texts)):
            if not lead.startswith(("http", "#")):
                assert (page.parent / lead).exists(), (page.name, lead)
    chapters = sorted((ROOT / "nbs").glob("0*.ipynb"))
    for page, following in zip(chapters, chapters[1:]): # a story: each ends with a pointer to the next
        assert following.name in "".join(json.loads(page.read_text())["cells"][-1]["source"])


def test_the_method_that_contributing_shows_leaves_a_record(tmp_path):
    import numpy as np
    from flowers102_study.core.dataset import read_index
    from flowers102_study.core.jobs import Job
    from flowers102_study.core.settings import Run
    from flowers102_study.core.work import Work
    from flowers102_study.data import data_job
    from flowers102_study.scores.metrics import score_predictions
    from flowers102_study.tiny import tiny_study
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]
    names = {thing.__name__: thing
             for thing in (read_index, Job, Run, Work, data_job, score_predictions)} | {"np": np}
    exec(code, names)
    run, made = tiny_study(tmp_path / "tiny")
    job, = names["jobs"](run)
    names["guess"](at_work(job))
    told = json.loads((job.out / "result.json").read_text())
    assert (told["arm"], told["n"], told["model"]) == ("guess", 12, "a guess")
    assert told["correct"] == 4 and told["data"] and told["settings"]["data"]["species"] == 3
