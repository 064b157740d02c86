"""Names, answers and files that others have made are shown, and never obeyed."""
import ast
import os
import pickle
import re
import shlex
import string
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from flowers102_study import fragments, page
from flowers102_study.core.masking import masked
from flowers102_study.core.settings import (LONGEST, SettingsError, folder_name, open_run, run_name)
from flowers102_study.pictures.sources import plain
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some

HARMFUL = {"script", "svg", "iframe", "object", "embed", "form", "style", "link", "meta", "base"}
MARKUP = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
          "[a](javascript:alert(1))", "![](http://example.org/x.png)", "`</pre><script>`",
          "| a | b |\n|---|---|\n| <b onclick=x> | |",
          '"><svg onload=alert(1)>', "<!--", "&lt;script&gt;", "$x$ \\input{/etc/passwd}",
          '#read("/etc/passwd")', "http://example.org", "<a href='data:text/html,x'>")
TEXTS = some.one_of(some.text(max_size=60), some.sampled_from(MARKUP),
                    some.lists(some.sampled_from(MARKUP), max_size=3).map(" ".join))
quickly = settings(max_examples=150, deadline=None, derandomize=True, database=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture])


class Tags(HTMLParser): # what a browser would obey
    def __init__(self, text):
        super().__init__()
        self.found = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)
        for name, value in attributes:
            if name.startswith("on"): self.found.add(name)
            runs = re.match(r"\s*(javascript|data:text|vbscript)", value or "", re.I)
            leaves = name == "src" and not (value or "").startswith("data:image/")
            if leaves or name == "href" and runs: self.found.add(f"{name}={value}")


def obeyed(text: str) -> set:
    tags = Tags(text).found
    return {tag for tag in tags if tag in HARMFUL or "=" in tag or tag.startswith("on")}


def test_the_check_would_notice():
    for text in MARKUP[:2] + (MARKUP[6],): assert obeyed(text), text


@quickly
@given(TEXTS, TEXTS)
def test_the_demo_shows_names(name, other):
    said = {"arm": other, "words": name, "seconds": 0., "top": [{"name": name, "probability": .5}]}
    told = {"prediction": -1, "confidence": .5, "answer": other}
    row, picture = {"label": 0, "image_id": other, "arm": told}, np.zeros((2, 2, 3), np.uint8)
    for text in (fragments.answer_card(said, {"accuracy": .5, "interval": [0, 1], "n": 9}),
                 fragments.strip([picture], [name]), fragments.refusal(name), fragments.named(name),
                 fragments.cards([], name), fragments.familiar_words(False, {"value": .5, "n": 9,
                                                                            "interval": [0, 1]}, name),
                 fragments.test_picture(picture, row, ["arm"], [name])):
        assert obeyed(text) == set()


@quickly
@given(TEXTS, TEXTS)
def test_a_table_shows_names(name, other):
    assert obeyed(page.as_table([{name + "a": other, other + "b": name}])) == set()
    assert obeyed(page.framed(name, "")) - {"meta", "style"} == set()


@quickly
@given(TEXTS, some.sampled_from(["text/markdown", "text/plain", "text/html", "stream", "traceback"]))
def test_a_notebooks_output_shows_answers(text, kind):
    output = {"stream": {"text": text}, "traceback": {"traceback": [text]}}.get(kind,
                                                                               {"data": {kind: text}})
    assert obeyed(page.rendered_output(output)) == set()


@quickly
@given(TEXTS)
def test_a_verdict_and_a_caption_show_claims(text):
    judged = {"hypotheses": {"H1": {"claim": text, "verdict": "supported"}}, "comparisons": [
        {"hypothesis": "H1", "one": text, "two": text, "effect": 0., "interval": [0, 0], "holm_p": 1.}]}
    assert obeyed(page.as_cards(judged)) == set()
    assert obeyed(page.as_picture(Path("/nothing.svg"), text)) == set()


@quickly
@given(some.text(max_size=80))
@example("rose\x00\n\u202e\u2066\udcff")
def test_a_name_stays_on_its_line(text):
    shown = plain(text)
    assert len(shown.splitlines()) <= 1 and plain(shown) == shown
    assert shown.encode() is not None # no half characters
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"
    assert not set(shown) & set(turning + "\x00\x1b\n\r")


@quickly
@given(some.text(max_size=200), some.sampled_from(["pocket", "photos", "x.yaml"]))
@example("../../etc", "pocket")
@example("/", "pocket")
@example("東" * 100, "pocket")
def test_a_runs_name_leads_nowhere_else(data, profile):
    name = run_name(profile, data)
    assert Path(name).name == name not in ("", ".", "..") and len(os.fsencode(name)) <= LONGEST


@quickly
@given(some.text(max_size=200))
def test_a_folders_name_is_one(text):
    try: name = folder_name(text, "an arm's")
    except SettingsError: return
    assert Path(name).name == name not in ("", ".", "..") and "/" not in name


@quickly
@given(some.text(string.printable, max_size=40), some.floats(.1, 1))
@example("'; rm -rf ~; '", .5)
@example("$(touch x) `ls` \n | cat", .5)
def test_a_printed_command_means_itself(text, rate):
    run = open_run("smoke", overrides={"prompts.thing": text, "sft.learning_rate": rate})
    words = shlex.split(run.command())
    assert words[:2] == ["flowers102-study", "run"]
    from flowers102_study.cli import overrides_from
    assert overrides_from([w for before, w in zip(words, words[1:]) if before == "--set"]) == (
        run.asked["overrides"])


@quickly
@given(some.text(string.ascii_letters + string.digits + "/+=-_ \"\\&é", min_size=8, max_size=40).filter(
    lambda text: len(text.strip()) >= 8), some.text(max_size=30), some.text(max_size=30))
def test_a_secret_is_masked_in_every_form(monkeypatch, secret, before, after):
    import json
    from urllib.parse import quote
    monkeypatch.setenv("SOME_API_TOKEN", secret)
    for form in (secret.strip(), quote(secret.strip(), safe=""), json.dumps(secret.strip())[1:-1]):
        assert form not in masked(f"{before}|{form}|{after}")


@quickly
@given(some.lists(some.text("<>#*_$\\\"'`@[]{}()&/", min_size=1, max_size=12), min_size=2, max_size=4))
def test_typst_shows_names(names):
    "Names come to the paper as JSON: they are text there, whatever they hold."
    import json
    import typst
    source = '#let names = json("names.json")\n#for name in names [#name #parbreak()]\n#names.len()'
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "names.json").write_text(json.dumps(names))
        (Path(folder) / "x.typ").write_text(source)
        made = typst.compile(f"{folder}/x.typ", root=folder, ignore_system_fonts=True)
        assert made.startswith(b"%PDF")


def test_the_paper_reads_data_and_evaluates_nothing():
    source = (ROOT / "report/paper.typ").read_text()
    assert not re.search(r"\beval\(|\bplugin\(|@preview", source)


class Evil:
    def __init__(self, mark): self.mark = mark

    def __reduce__(self): return (Path.touch, (self.mark,))


def test_a_pickle_in_a_checkpoint_is_not_obeyed(tmp_path):
    "Even where its sums are right: weights, moments and random states are read as data."
    import torch
    from flowers102_study.core.records import read_checkpoint, write_checkpoint
    from flowers102_study.vlm.cnn import load_state
    mark = tmp_path / "obeyed"
    write_checkpoint(tmp_path / "checkpoints", 1, pickle.dumps(Evil(mark)))
    assert read_checkpoint(tmp_path / "checkpoints")
    work = type("Work", (), {"checkpoints": tmp_path / "checkpoints"})
    with pytest.raises(pickle.UnpicklingError): load_state(work, None, None, [], [])
    torch.save({"state": Evil(mark)}, tmp_path / "optimizer.pt")
    with pytest.raises(pickle.UnpicklingError): torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_trainer_obeys_no_pickle_of_a_checkpoint(tmp_path, name):
    import numpy as np
    import torch
    from flowers102_study.vlm.training import arguments, line_up, train_along
    net, mark = torch.nn.Linear(3, 1), tmp_path / "obeyed"
    block = {"learning_rate": .1, "warmup_ratio": .1, "weight_decay": 0.,
             "gradient_checkpointing": False}
    how = lambda: arguments(tmp_path / "out", block, 4, 2, 1, 0, "cpu")
    class Net(torch.nn.Module):
        def __init__(self): super().__init__(); self.net = net
        def forward(self, x, labels=None): return {"logits": self.net(x)}
    collate = lambda rows: {"x": torch.ones(len(rows), 3), "labels": torch.ones(len(rows), 1)}
    loss = lambda outputs, labels, num_items_in_batch=None: ((outputs["logits"] - labels) ** 2).mean()
    from transformers import TrainerCallback
    class Save(TrainerCallback):
        def on_step_end(self, args, state, control, **rest):
            control.should_save = state.global_step == 2
    line = line_up(8, 4, 2, 0)
    train_along(Net(), line, collate, loss, how(), [Save()], None)
    place = tmp_path / "out/checkpoint-2"
    assert isinstance(line, np.ndarray)
    torch.save(Evil(mark), place / name)
    with pytest.raises(Exception): train_along(Net(), line, collate, loss, how(), [], place)
    assert not mark.exists()


def calls(tree, name: str): # of a function or method
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name: yield node


def test_nothing_in_the_code_trusts_files():
    "No code of others, no pickle, no object array: in package and notebooks alike."
    for path in (ROOT / "flowers102_study").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                 for alias in node.names}
        assert not names & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                assert getattr(node.value, "value", True) is False, (path, node.arg)
        for call in calls(tree, "load"):
            if ast.unparse(call.func) == "torch.load":
                said = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
                assert said.get("weights_only") is True, path
        for name in ("eval", "exec", "system", "read_pickle"):
            for call in calls(tree, name): # a module's .eval() is a mode, not an evaluation
                assert isinstance(call.func, ast.Attribute) and not call.args, (path, ast.unparse(call))
