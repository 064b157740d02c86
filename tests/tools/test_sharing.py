"""Trained models: predicted with, checked, exported, pushed to a server; and others' models asked."""
import base64
import http.server
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading

import numpy as np
import pandas as pd
import pytest
from conftest import call, copy_of_study
from flowers102_study import checking, sharing
from flowers102_study.core.dataset import read_pixels
from flowers102_study.core.settings import SettingsError, open_run
from PIL import Image
from safetensors.numpy import load_file, save_file

WORDS, HEAD = "qwen3-vl-4b-sft", "qwen3-vl-4b-sft-head"


@pytest.fixture(scope="module")
def study(tmp_path_factory, smoke): # a copy of the finished run, in which things may be broken
    folder, before = copy_of_study(tmp_path_factory.mktemp("sharing")), os.getcwd()
    shutil.copytree(smoke / "runs", folder / "runs")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture
def run(study): return open_run("smoke")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def broken(run): # a function: changes files of a folder for one test
    kept = []
    def change(folder):
        kept.append((folder, folder.with_name(folder.name + "-kept")))
        shutil.copytree(*kept[-1])
        return folder
    yield change
    for folder, copy in kept: shutil.rmtree(folder); copy.rename(folder)


def failed(run, arm: str) -> dict:
    return {c.name: c.saw for c in checking.diagnose(run, arm) if not c.held}


@pytest.mark.parametrize("arm",
                         [WORDS, "qwen3-vl-4b", "instructblip-flan-t5-xl", "qwen3-vl-4b-head", HEAD,
                          "qwen3-vl-4b-head.together", "resnet50"])
def test_a_sound_model_passes_every_check(run, arm):
    checks = checking.diagnose(run, arm)
    assert (not failed(run, arm)
            and {"files", "loads", "known pictures", "batch"} <= {c.name for c in checks})
    if arm == WORDS:
        assert ({"weights", "finite", "difference", "prompt", "image grid", "pixels", "labels",
                 "processor"} <= {c.name for c in checks})
    if arm == HEAD: assert {"label map", "prompt", "image grid", "processor"} <= {c.name for c in checks}


def test_a_swapped_label_map_is_named(run, broken):
    path = broken(run.arm(HEAD) / "model") / "config.json"
    config = json.loads(path.read_text())
    config["id2label"]["0"], config["id2label"]["1"] = config["id2label"]["1"], config["id2label"]["0"]
    path.write_text(json.dumps(config))
    assert "0 is" in failed(run, HEAD)["label map"] and "config.json" in failed(run, HEAD)["files"]


def test_a_missing_weight_is_named(run, broken):
    path = broken(run.folder / "models" / WORDS) / "model.safetensors"
    weights = load_file(path)
    name = next(n for n in weights if "layers.2.mlp" in n)
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    found = failed(run, WORDS)
    assert name in found["weights"] and "lacks 1 of its weights" in found["loads"]


def test_a_weight_that_is_no_number_is_named(run, broken):
    path = broken(run.arm(HEAD) / "model") / "model.safetensors"
    weights = load_file(path)
    weights["head.bias"][0] = np.nan
    save_file(weights, path, metadata={"format": "pt"})
    assert failed(run, HEAD)["finite"] == "not finite: head.bias"


def test_a_changed_chat_template_is_named(run, broken):
    path = broken(run.folder / "models" / WORDS) / "chat_template.jinja"
    # as one of the original's tools did
    path.write_text(path.read_text().replace("<|vision_end|>", "<|vision_end|>\n"))
    assert ("the chat template" in failed(run, WORDS)["prompt"] and
            "the chat template" in failed(run, HEAD)["prompt"])


def test_another_image_size_is_named(run, broken):
    path = broken(run.folder / "models" / WORDS) / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["size"] = {"shortest_edge": 64 * 64, "longest_edge": 64 * 64}
    path.write_text(json.dumps(config))
    assert ("another image size" in failed(run, WORDS)["image grid"] and
            "another image size" in failed(run, HEAD)["image grid"])


def test_a_lost_tokenizer_is_the_processors_fault(run, broken):
    (broken(run.folder / "models" / WORDS) / "tokenizer.json").unlink()
    assert "could not load" in failed(run, WORDS)["processor"]


def test_an_adapter_that_was_never_merged_is_named(run, broken):
    folder = broken(run.folder / "models" / WORDS)
    shutil.copy(next((run.folder.parent / ".pocket").glob("qwen3-vl-4b-*")) / "model.safetensors",
                folder / "model.safetensors")
    assert "never merged" in failed(run, WORDS)["difference"]


def test_the_command_line_says_what_failed(study, run, broken):
    path = broken(run.arm("resnet50") / "model") / "config.json"
    path.write_text(path.read_text().replace('"0": ', '"0": "not ', 1).replace('"not "', '"not ', 1))
    told = call(study, "flowers102-study", "diagnose", "resnet50", "--name", "smoke", check=False)
    assert (told.returncode == 1 and "✗ label map" in told.stdout and
            "failed: files, label map" in told.stdout)
    told = call(study, "flowers102-study", "diagnose", "resnet5", "--name", "smoke", check=False)
    assert told.returncode == 2 and "did you mean" in told.stderr


@pytest.mark.parametrize("arm", [HEAD, WORDS, "resnet50"])
def test_predicts_what_is_on_record(study, run, arm, tmp_path):
    table = pd.read_parquet(run.arm(arm) / "predictions.parquet").query("split == 'test'")
    from flowers102_study.core.dataset import read_index, read_report
    place = read_index(run.data_folder, "test").image_id.tolist().index(table.image_id.iloc[5])
    pixels = read_pixels(run.data_folder, "test")[place]
    Image.fromarray(pixels).save(tmp_path / "one.png")
    found, = sharing.predict(run, arm, [tmp_path / "one.png"])
    names, log_probs = read_report(run.data_folder)["classes"], np.array(table.log_probs.iloc[5])
    assert (found["top"][0]["name"] == names[log_probs.argmax()]
            and found["top"][0]["probability"]
            == pytest.approx(float(np.exp(log_probs.max())), abs=1e-3))
    assert (len(found["top"]) == 5
            and (found.get("answer") == table.answer.iloc[5] if arm == WORDS else "answer" not in found))


def test_predict_on_the_command_line(study, photo, tmp_path):
    told = call(study, "flowers102-study", "predict", photo, "--name", "smoke", "--json", "--show")
    assert [len(one["top"]) for one in json.loads(told.stdout)] == [5]
    assert Image.open(study / "prediction.png").size[0] > 500
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:900])
    for bad, said in (("nowhere.jpg", "no file at"), (tmp_path / "cut.jpg", "damaged")):
        told = call(study, "flowers102-study", "predict", bad, "--name", "smoke", check=False)
        assert told.returncode == 2 and said in told.stderr and "Traceback" not in told.stderr


# of this environment it sees the libraries: neither this package nor its folder
ALONE = f"""import sys
sys.path.append({sysconfig.get_path("purelib")!r})
import importlib.util, json
from transformers import pipeline
assert importlib.util.find_spec("flowers102_study") is None
photo, *models = sys.argv[1:]
for model in models:
    consent = {{"trust_remote_code": True}} if "head" in model else {{}}
    print(json.dumps(pipeline("image-classification", model=model, **consent)(photo, top_k=5)))"""


def test_exported_classifiers_open_without_this_package(study, run, tmp_path):
    arms = (HEAD, "qwen3-vl-4b-tower-head", "qwen3-vl-4b-head.together", "resnet50")
    pixels = read_pixels(run.data_folder, "test")[3]
    photo, folders = tmp_path / "photo.png", [tmp_path / "moved" / arm for arm in arms]
    Image.fromarray(pixels).save(photo)
    for arm, folder in zip(arms, folders):
        files = sharing.export(run, arm, tmp_path / arm)
        result = json.loads((run.arm(arm) / "result.json").read_text())
        card = (tmp_path / arm / "README.md").read_text()
        # the base of a head is a folder of this run, so it is taken along
        assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= set(files)
        assert (sharing.CODE in files) == ("head" in arm)
        assert str(study) not in card + (tmp_path / arm / "config.json").read_text()
        assert f"{result['correct']} of n = {result['n']}" in card and "examples/0.png" in card
        assert all(f"## {part}" in card for part in ("Use", "Limits", "Cite", "Made by"))
        folder.parent.mkdir(exist_ok=True)
        shutil.move(tmp_path / arm, folder)
    told = subprocess.run([sys.executable, "-I", "-S", "-c", ALONE, photo, *folders], text=True,
                          capture_output=True, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert told.returncode == 0, told.stderr[-2000:]
    for arm, line in zip(arms, told.stdout.splitlines(), strict=True):
        model, processor = sharing.opened_classifier(sharing.arm_model(run, arm)["source"])
        seen = processor(images=[Image.fromarray(pixels)], return_tensors="pt")["pixel_values"]
        p = model(pixel_values=seen).logits.softmax(1)[0].detach().numpy()
        assert ({one["label"]: pytest.approx(one["score"], abs=1e-5) for one in json.loads(line)}
                == {model.config.id2label[k]: p[k] for k in np.argsort(-p)[:5]})
    with pytest.raises(SettingsError, match="not empty"): sharing.export(run, HEAD, folders[0])


def test_an_exported_model_with_words_is_plain_transformers(run, tmp_path):
    from transformers import AutoModelForImageTextToText
    files = sharing.export(run, WORDS, tmp_path / "out")
    assert "manifest.json" not in files and "result.json" not in files and "chat_template.jinja" in files
    _, told = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"]
    with pytest.raises(SettingsError, match="nothing is to be merged"):
        sharing.export(run, WORDS, tmp_path / "merged", merged=True)


class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the Hub as an upload needs; everything is a regular file."
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.calls.append(("GET", self.path, ""))
        self.answer({"id": "someone/flowers", "sha": "0" * 40, "siblings": [], "private": True})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.calls.append(("POST", self.path, body.decode(errors="replace")))
        home = f"http://127.0.0.1:{self.server.server_port}/datasets/someone/flowers"
        if "/preupload/" in self.path:
            return self.answer({"files": [{"path": f["path"], "uploadMode": "regular",
                                           "shouldIgnore": False} for f in json.loads(body)["files"]]})
        if "/commit/" in self.path:
            return self.answer({"commitUrl": f"{home}/commit/" + "0" * 40, "commitOid": "0" * 40})
        self.answer({"url": home, "id": "someone/flowers", "name": "someone/flowers"})

    def log_message(self, *words): pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.calls = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_the_data_are_pushed_with_all_questions(study, hub):
    told = call(study, "flowers102-study", "push", "data", "--name", "smoke", "--dry-run")
    assert "images/train.parquet" in told.stdout and not hub.calls
    import datasets
    folder = str(study / "runs/smoke/push/data")
    images = datasets.load_dataset(folder, "images", cache_dir=str(study / "cache"))
    assert ({s: len(d) for s, d in images.items()} == {"train": 96, "validation": 12, "test": 24}
            and images["test"][0]["image"].size == (24, 24))
    assert len(images["train"].features["label"].names) == 6
    for task in ("open-qa", "closed-qa", "closed-negative-qa"):
        assert len(datasets.load_dataset(folder, task, cache_dir=str(study / "cache"))["test"]) == 24
    where = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": "hf_test",
             "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(study / "hf")}
    told = call(study, "flowers102-study", "push", "data", "--name", "smoke", "--to", "someone/flowers",
                check=False, **where)
    assert told.returncode and not any("/commit/" in path for _, path, _ in hub.calls) # nobody said yes
    told = call(study, "flowers102-study", "push", "data", "--name", "smoke", "--to", "someone/flowers",
                "--yes", **where)
    created = next(json.loads(body) for kind, path, body in hub.calls if path.endswith("/repos/create"))
    assert ((created.get("private") or created.get("visibility") == "private")
            and created["type"] == "dataset" and "uploaded:" in told.stdout)
    lines = [json.loads(line) for _, path, body in hub.calls if "/commit/" in path
             for line in body.splitlines()]
    sent = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines
            if line["key"] == "file"}
    assert (sent["README.md"].decode().startswith("---")
            and sent["open-qa/test.parquet"].startswith(b"PAR1") and "images/test.parquet" in sent)


@pytest.mark.parametrize("what", ["..", "../arms/qwen3-vl-4b", "/"])
def test_push_empties_no_folder_but_its_own(study, run, what):
    from flowers102_study.commands import push_command
    with pytest.raises(SettingsError, match="unknown arm, or data"):
        push_command(what, to="", name="smoke", dry_run=True, merged=False, public=False, yes=False)
    assert (run.arm("qwen3-vl-4b") / "result.json").exists()


def test_no_network_is_said_plainly(study, run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with pytest.raises(SettingsError, match="is there a network"):
        sharing.upload(tmp_path, "someone/flowers", "model")


def test_push_says_what_it_lacks(study, run):
    for words, said in ((["push", HEAD], "say where to"),
                        (["push", HEAD, "--to", "flowers", "--yes"], "OWNER/NAME"),
                        (["push", "nothing", "--dry-run"], "unknown arm, or data")):
        told = call(study, "flowers102-study", *words, "--name", "smoke", check=False,
                    HF_HUB_OFFLINE="1")
        assert told.returncode == 2 and said in told.stderr, told.stderr


def in_lmms_evals_form(run, arm):
    "Check what evaluate wrote for other tools: keys of a real file of lmms-eval 0.7.3, and the answers."
    from flowers102_study.core.records import read_predictions, read_result
    from flowers102_study.scores.answers import Names
    from flowers102_study.scores.peers import compare, read_samples
    (results,) = (run.folder / "lmms-eval" / arm).glob("*_results.json")
    (samples,) = (run.folder / "lmms-eval" / arm).glob("*_samples_flowers102_open_qa.jsonl")
    told, own, said = json.loads(results.read_text()), read_result(run.arm(arm)), read_predictions(
        run.arm(arm))
    assert {"results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better",
            "n-samples", "config", "date", "model_name", "model_source"} <= told.keys()
    scores = told["results"]["flowers102_open_qa"]
    assert scores["exact,none"] == own["accuracy"]
    assert scores["named,none"] == own["scores"]["named"]["value"]
    right = (said.label == said.prediction).astype(float)
    assert np.isclose(scores["exact_stderr,none"], right.std(ddof=1) / len(right) ** .5)
    known = Names(json.loads((run.data_folder / "report.json").read_text())["classes"])
    read = compare(read_samples(samples, sorted(said.image_id)), said, lambda _, a: known.read(a))
    assert set(read.verdict) == {"same answer"} and len(read) == own["n"]


def test_a_published_fine_tuned_model_gets_the_same_record(study, run, tmp_path):
    from flowers102_study.core.records import read_predictions
    sharing.export(run, WORDS, tmp_path / "Flowers-SFT")
    told = call(study, "flowers102-study", "evaluate", "--model", tmp_path / "Flowers-SFT", "--name",
                "smoke")
    assert "flowers-sft:" in told.stdout
    assert (read_predictions(run.arm("flowers-sft")).answer.tolist()
            == read_predictions(run.arm(WORDS)).answer.tolist())
    in_lmms_evals_form(run, "flowers-sft")
    told = call(study, "flowers102-study", "evaluate", "--model", tmp_path / "Flowers-SFT", "--name",
                "smoke", "--arm", WORDS, check=False)
    assert told.returncode == 2 and "an arm 'qwen3-vl-4b-sft' of its own" in told.stderr
    (run.folder / "prompts").rename(run.folder / "aside")
    try: told = call(study, "flowers102-study", "evaluate", "--model", tmp_path / "Flowers-SFT",
                     "--name", "smoke", "--arm", "again", check=False)
    finally: (run.folder / "aside").rename(run.folder / "prompts")
    assert told.returncode == 2 and "first run: flowers102-study run prompts" in told.stderr
    assert "Traceback" not in told.stderr


def made_up_resnet(folder, classes: int = 6, prefix: str = "model.") -> dict:
    "Write random weights of torchvision's ResNet-18 as PyTorchModelHubMixin does."
    rng, found = np.random.default_rng(0), {}
    def norm(name, n):
        found.update({f"{name}.weight": np.ones(n), f"{name}.bias": np.zeros(n),
                      f"{name}.running_mean": np.zeros(n), f"{name}.running_var": np.ones(n),
                      f"{name}.num_batches_tracked": np.array(3)})
    def conv(name, out, into, size):
        found[f"{name}.weight"] = rng.normal(size=(out, into, size, size)) * (into * size * size) ** -.5
    conv("conv1", 8, 3, 7); norm("bn1", 8)
    for k, wide in enumerate((8, 16, 24, 32), 1):
        for i in range(2):
            into = wide if i else (8, 8, 16, 24)[k - 1]
            conv(f"layer{k}.{i}.conv1", wide, into, 3); conv(f"layer{k}.{i}.conv2", wide, wide, 3)
            norm(f"layer{k}.{i}.bn1", wide); norm(f"layer{k}.{i}.bn2", wide)
            if k > 1 and not i:
                conv(f"layer{k}.0.downsample.0", wide, into, 1)
                norm(f"layer{k}.0.downsample.1", wide)
    found |= {"fc.weight": rng.normal(size=(classes, 32)), "fc.bias": np.zeros(classes)}
    folder.mkdir()
    save_file({prefix + n: v.astype(np.int64 if "tracked" in n else np.float32)
               for n, v in found.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_classes": classes, "freeze_backbone": True}))
    return found


def test_torchvisions_resnet_becomes_an_arm(study, run, tmp_path):
    from flowers102_study.core.launch import run_jobs
    made_up_resnet(tmp_path / "resnet50-flowers102-classifier")
    job = checking.evaluation_job(run, str(tmp_path / "resnet50-flowers102-classifier"))
    run_jobs(run, [job], "evaluate")
    result = json.loads((job.out / "result.json").read_text())
    assert (result["arm"] == "resnet50-flowers102-classifier" and result["n"] == 24 and
            "assumed" in result["labels"] and result["parameters"] > 3e4)
    made_up_resnet(tmp_path / "other", classes=9)
    with pytest.raises(SettingsError, match="9 classes apart, and the data have 6"):
        checking.published_classifier(str(tmp_path / "other"), "torchvision", list("abcdef"))


def test_what_is_not_documented_is_not_guessed(run, tmp_path):
    folder = tmp_path / "mystery-head"
    folder.mkdir()
    save_file({"classifier.weight": np.zeros((102, 2560), np.float32),
               "classifier.bias": np.zeros(102, np.float32)}, folder / "model.safetensors")
    with pytest.raises(SettingsError, match=r"classifier.weight \[102, 2560\].*not guessed at"):
        checking.evaluation_job(run, str(folder))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SettingsError, match="model_type 'bert'"):
        checking.evaluation_job(run, str(folder))


def test_a_head_finds_its_base_in_the_hubs_cache(run, tmp_path, monkeypatch):
    import torch
    from huggingface_hub import constants
    from transformers import AutoModelForImageClassification
    revision = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--someone--flower-model"
    shutil.copytree(next((run.folder.parent / ".pocket").glob("qwen3-vl-4b-*")),
                    home / "snapshots" / revision)
    shutil.copytree(run.arm("qwen3-vl-4b-head") / "model", tmp_path / "head")
    config = json.loads((tmp_path / "head/config.json").read_text())
    (tmp_path / "head/config.json").write_text(json.dumps(config
                                                          | {
                                                              "base": "someone/flower-model",
                                                              "revision": revision}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    moved, own = (AutoModelForImageClassification.from_pretrained(p).eval()
                  for p in (tmp_path / "head", run.arm("qwen3-vl-4b-head") / "model"))
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad(): assert torch.equal(moved(pixels).logits, own(pixels).logits)
    moved.save_pretrained(tmp_path / "again")
    assert ((tmp_path / "again/model.safetensors").stat().st_size < 30_000
            and json.loads((tmp_path / "again/config.json").read_text())["revision"] == revision)


def test_our_own_head_is_evaluated_by_its_labels(run, tmp_path):
    from flowers102_study.core.dataset import read_report
    sharing.export(run, HEAD, tmp_path / "head")
    names = read_report(run.data_folder)["classes"]
    work, order, facts = checking.published_classifier(str(tmp_path / "head"), "vlm-head", names[::-1])
    assert order == list(range(len(names)))[::-1] and facts["labels"] == "by name"
    with pytest.raises(SettingsError, match="no class of these data"):
        checking.published_classifier(str(tmp_path / "head"), "vlm-head",
                                      [f"other {i}" for i in range(6)])
