"""Rehearse a profile for published models on this machine: everything real but weights, sizes and GPUs.

    python -m tests.rehearsal                      the profile paper, in runs/rehearsal
    python -m tests.rehearsal --profile desk
    python -m tests.rehearsal --stages data sft    some of its stages

A Hub and Oxford's server are set up on the loopback. The run downloads from them, trains, asks, draws;
the paper is set, what was trained is pushed, and a clean process reads it back.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from conftest import ROOT, copy_of_study

from flowers102_study.baselines import arms
from flowers102_study.core.settings import open_run

from .checkpoints import write_checkpoint
from .hub import Hub, serving
from .oxford import write_site

# sizes, and nothing else
SIZES = {"data.validation_per_class": 1, "baselines.batch_size": 8, "sft.max_steps": 4,
         "sft.batch_size": 8, "sft.micro_batch_size": 4, "sft.num_evals": 2,
         "classifier.layers": [1, 2, 3],
         "classifier.penalties": [.1, .01], "classifier.mlp_width": 16, "classifier.epochs": 2,
         "classifier.joint_steps": 2, "classifier.batch_size": 8, "ablation.shots": [1, 2],
         "ablation.training": [{"lora16": {"sft.method": "lora", "sft.lora_rank": 16,
                                           "sft.learning_rate": .0002}},
                               {"shots4": {"sft.shots": 4, "sft.max_steps": 0, "sft.epochs": 1,
                                           "sft.min_steps": 4}}],
         "resnet.epochs": 2, "resnet.batch_size": 32, "contrastive.neighbours": [1, 3]}
# each once: a server that is busy, a connection that is cut in a large and in a small file
FAULTS = {"config.json": "503", "model-00002-of-00002.safetensors": "cut", "102flowers.tgz": "cut",
          "tokenizer.json": "cut", "merges.txt": "cut"}
TOLD = """real: the profile but for {sizes} sizes, every line of the study, huggingface_hub, transformers
real small files (tokenizer, template, processor, configuration but for its sizes): {real}
look-alikes of these, made here: {made}
made here, too: all weights (random), the Hub and Oxford's server (plain HTTP, without Xet)
Oxford's pictures: {pictures}
"""
READ_BACK = """
import sys
from transformers import AutoModelForImageTextToText, AutoModelForImageClassification
repo, kind = sys.argv[1:]
auto = {"words": AutoModelForImageTextToText, "cnn": AutoModelForImageClassification}[kind]
net, told = auto.from_pretrained(repo, output_loading_info=True, trust_remote_code=False)
assert not told["missing_keys"], told
print("read back:", repo, f"{sum(p.numel() for p in net.parameters()):,} parameters")
"""


def pinned(run) -> dict: # {Hub id: revision}
    "List the repositories that a run asks for."
    named = [run.models[arm] for arm in arms(run)]
    named += [run.contrastive[key] for key in ("siglip2", "clip") if run.contrastive[key]]
    named = [(*source.split("@"), "main")[:2] for source in named if "/" in source]
    return dict(named) | {run.resnet["model"]: run.resnet["revision"] or "main"}


def stock(hub: Hub, repositories: dict) -> dict: # {Hub id: "real" | "made"}
    "Put models onto the Hub, unless they lie there."
    kinds = {}
    for name, revision in repositories.items():
        commit = revision if len(revision) == 40 else "f" * 40
        place, mark = hub.repository(name).add(commit), hub.folder / f"{name.replace('/', '--')}.kind"
        if not mark.exists(): mark.write_text(write_checkpoint(name, place))
        kinds[name] = mark.read_text()
    return kinds


def oxford_at(site: Path) -> str: # "real" | "made"
    "Put Oxford's files onto its server, unless they lie there."
    mark = site / "kind"
    if not mark.exists():
        kind = write_site(site)
        mark.write_text(kind)
    return mark.read_text()


def surroundings(home: Path, hub: str, site: str) -> dict: # of all that is started
    "Return an environment that knows no other Hub, and no cache of this machine's."
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "FLOWERS102_"))}
    return kept | {"HF_ENDPOINT": hub, "HF_HOME": str(home / "hf"), "HF_TOKEN": "hf_rehearsal",
                   "HF_HUB_DISABLE_XET": "1", "FLOWERS102_MIRROR": site,
                   "FLOWERS102_REHEARSAL": "random weights", # stands on every figure and table
                   "XDG_CACHE_HOME": str(home / "cache"), "no_proxy": "127.0.0.1",
                   # the copy has no package of its own
                   "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def call(study: Path, environment: dict, *words): # raises SystemExit with a status that is not 0
    "Run a program of the environment in the copy of the study."
    print("$", *[word if "\n" not in str(word) else "…" for word in words[:9]],
          *["…"] * (len(words) > 9), flush=True)
    program = [str(Path(sys.executable).with_name(words[0])), *map(str, words[1:])]
    if status := subprocess.run(program, cwd=study, env=environment).returncode: sys.exit(status)


def told_sizes(run, more: list) -> list: # command-line words
    "Write the sizes as --set; of an ablation's table only the entries that the profile has."
    trained = {name for entry in run.ablation["training"] for name in entry}
    tables = {"ablation.training": [e for e in SIZES["ablation.training"] if trained & e.keys()]}
    pairs = [f"{key}={json.dumps(value)}" for key, value in (SIZES | tables).items()]
    return [word for pair in pairs + more for word in ("--set", pair)]


def asked() -> argparse.Namespace:
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    told.add_argument("--profile", default="paper")
    told.add_argument("--stages", nargs="*", default=[])
    told.add_argument("--home", type=Path, default=ROOT / "runs" / "rehearsal")
    told.add_argument("--set", action="append", default=[], dest="more")
    told.add_argument("--stop-at", choices=["download", "training", "publishing", "pushing"],
                      help="kill everything there, for tests.rehearsal.kills")
    return told.parse_args()


def stand(study: Path):
    "Make the copy of the study, or bring its notebooks up to date; what was run stays."
    if not study.exists(): return copy_of_study(study)
    shutil.rmtree(study / "nbs")
    hidden = shutil.ignore_patterns(".ipynb_checkpoints")
    shutil.copytree(ROOT / "nbs", study / "nbs", ignore=hidden)


def die(): os.killpg(0, signal.SIGKILL)


def die_when(seen):
    "Kill this process and its children as soon as something can be seen."
    def wait():
        while not seen(): time.sleep(.01)
        die()
    threading.Thread(target=wait, daemon=True).start()


def stop_at(moment: str, hub: Hub, study: Path, name: str):
    "Arrange for a kill at a named moment."
    os.setsid()
    run = study / "runs" / name
    if moment == "download": hub.on_content = lambda path: path.endswith(".safetensors") and die()
    if moment == "pushing": hub.on_upload = die
    log, results = run / "logs" / "sft.log", study / "report" / "results" / name
    # past the first validation, before the last step
    if moment == "training": die_when(lambda: log.exists() and "| 3/4 |" in log.read_text())
    if moment == "publishing": die_when(results.exists)


def main():
    how, begun = asked(), time.time()
    home = how.home.resolve()
    study, hub = home / "study", Hub(home / "hub")
    stand(study)
    os.chdir(study)
    run = open_run(how.profile)
    kinds = stock(hub, pinned(run))
    pictures = {"real": "genuine photographs, a few of each class",
                "made": "drawings: no photographs are at hand"}[oxford_at(home / "oxford")]
    hub.serve_files("/oxford", home / "oxford")
    hub.faults = dict(FAULTS)
    names = {kind: ", ".join(n for n, k in kinds.items() if k == kind) or "none"
             for kind in ("real", "made")}
    print(TOLD.format(sizes=len(SIZES), pictures=pictures, **names), flush=True)
    name = f"rehearsal-{how.profile}"
    if how.stop_at: stop_at(how.stop_at, hub, study, name)
    with serving(hub.app) as address:
        environment = surroundings(home, address, f"{address}/oxford")
        call(study, environment, "flowers102-study", "run", *how.stages, "--profile", how.profile,
             "--name", name, *told_sizes(run, how.more))
        print(f"the run: {(time.time() - begun) / 60:.1f} minutes; {sum(hub.asked.values()):,} requests "
              f"of the Hub, {len(hub.once)} faults on the way", flush=True)
        if not how.stages: publish(study, environment, run, name)
    pages = [study / "runs" / name / "index.html", study / "report" / f"{name}.pdf"]
    for page in pages[:1 if how.stages else 2]: print(page, "" if page.exists() else "IS MISSING")
    print(f"rehearsed in {(time.time() - begun) / 60:.1f} minutes")


def publish(study: Path, environment: dict, run, name: str):
    "Set the paper, push a fine-tuned model and a CNN, and read them back in a clean process."
    call(study, environment, "flowers102-study", "publish", "--name", name)
    clean = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
    for arm, kind in ((f"{run.sft['base']}-sft", "words"), ("resnet50", "cnn")):
        to = f"someone/{arm}"
        call(study, environment, "flowers102-study", "push", arm, "--name", name, "--to", to, "--yes",
             "--public")
        call(study.parent, clean, "python", "-c", READ_BACK, to, kind)


if __name__ == "__main__": main()
