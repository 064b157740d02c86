"""Each key of the profile is changed, one at a time: what it leads to runs again, and nothing else.

The table beside this file says for every key which stages' jobs run again. It is read before it is
believed: `python -m pytest tests/faults/test_f09_keys.py --table` writes what would be another line.
"""
import functools
import os

import pytest
import yaml
from conftest import ROOT, copy_of_study
from flowers102_study.core.jobs import Job
from flowers102_study.core.keys import reached
from flowers102_study.core.notebooks import stage_module
from flowers102_study.core.records import digest
from flowers102_study.core.settings import SettingsError, flat, open_run, read_profile, stages

TABLE = ROOT / "tests/faults/descendants.yaml"
# another value that a key can have, where the next number or the other truth would not do
OTHER = {"seed": 7, "data.source": None, # another run: a name is never used for other pictures
         "data.split": None, # Oxford's own, on drawings
         "data.center_crop": .8, "data.unreadable": "refuse", "data.test_fraction": .3,
         "models.qwen3-vl-8b": "", "models.qwen3-vl-4b": None, "models.idefics2-8b": "",
         "models.instructblip-flan-t5-xl": "", "models.dtype": "float32",
         "models.system_prompt": "You know flowers.", "models.image_size": 64,
         "pocket.image_size": 32, "pocket.width": 72, "pocket.names": "photographs",
         "prompts.wording": "formal", "prompts.thing": "plant", "prompts.distractors": "random",
         "augment.method": "mixup", "augment.label_policy": "shares", "augment.fraction": .5,
         "baselines.tasks": ["open-qa"], "sft.base": "qwen3-vl-8b", "sft.source": None,
         "sft.method": "lora", "sft.optimizer": "muon", "sft.quantization": None,
         "sft.attn_implementation": "eager", "sft.mixed": None, "sft.min_crop_area": .6,
         "sft.color_jitter": .2, "sft.paste_probability": None, "sft.epochs": None, "sft.shots": None,
         "sft.warmup_ratio": .2, "sft.augment": True, "sft.num_evals": 1, "sft.batch_size": 16,
         "classifier.layers": [2], "classifier.pooling": ["last"], "classifier.penalties": [.1],
         "classifier.class_balance": .5, "ablation.models": ["qwen3-vl-8b"], "ablation.seeds": [44],
         "ablation.shots": [2], "ablation.retrain": ["sft"], "ablation.mixing": [],
         "ablation.training": [], "ablation.wording": [], "ablation.size": [],
         "ablation.protocols": ["listed"], "hypotheses.alpha": .01, "resnet.model": None,
         "resnet.revision": "v1", "resnet.augmentation": "cutmix", "resnet.compare": ["none"],
         "resnet.ema_decay": .9, "resnet.min_crop_area": .6, "resnet.mix_probability": .5,
         "resnet.color_jitter": .2, "resnet.warmup_ratio": .2, "contrastive.siglip2": "",
         "contrastive.clip": None, "contrastive.neighbours": [1], "launch.accelerate_config": "ddp",
         "data.species": 5, "data.test_per_class": 3, "launch.engine": "slurm",
         "cluster.partition": "gpu", "cluster.account": "me", "cluster.qos": "long",
         "cluster.constraint": "a100", "cluster.gpu": "A100:40", "cluster.sbatch": ["--exclusive"],
         "cluster.setup": ["module load cuda"], "cluster.container": "apptainer exec x.sif"}


def other(key: str, value): # None: there is no other on these data
    if key in OTHER: return OTHER[key]
    if isinstance(value, bool): return not value
    if isinstance(value, int): return value + 1
    if isinstance(value, float): return value * 1.5 or .1
    raise AssertionError(f"the table's OTHER has no value for {key}")


code_of = functools.cache(lambda target: digest(reached(target)))


def prints(run) -> dict: # {stage: {folder: what decides the job's result}}
    known = {}
    def of(job: Job) -> str: # as Job.key, without anything being done
        if job.out not in known:
            made_from = {name: of(before) for name, before in job.inputs.items()}
            known[job.out] = digest([job.target, job.spec, made_from, code_of(job.target)])
        return known[job.out]
    return {stage: {str(job.out): of(job) for job in stage_module(stage).jobs(run)}
            for stage in stages()}


def run_again(before: dict, after: dict) -> list: # stages
    "List the stages with a job that is new or another."
    return [stage for stage in before if any(before[stage].get(out) != mark
                                             for out, mark in after[stage].items())]


def changed_stages() -> dict: # {key: stages}, of every key that can be changed here
    profile, found = flat(read_profile("smoke")), {}
    before = prints(open_run("smoke"))
    for key, value in profile.items():
        if (new := other(key, value)) is None: continue
        try: found[key] = run_again(before, prints(open_run("smoke", overrides={key: new})))
        except SettingsError as error: raise AssertionError(f"{key}={new}: {error}") from None
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    before = os.getcwd()
    os.chdir(copy_of_study(tmp_path_factory.mktemp("keys")))
    try: return changed_stages()
    finally: os.chdir(before)


def test_what_a_key_leads_to(found, record_property, pytestconfig):
    if pytestconfig.getoption("--table"):
        for key, stages_ in found.items(): print(f"{key}: {', '.join(stages_) or 'nothing'}")
    expected = {key: (text.split(", ") if text != "nothing" else [])
                for key, text in yaml.safe_load(TABLE.read_text()).items()}
    assert found == expected
    record_property("times", len(found))


ORDER = ["data", "prompts", "augment", "baselines", "sft", "classifier", "ablation", "hypotheses",
         "resnet"]
FIRST = {"seed": 0, "models": 3, "pocket": 3, "launch": 4, "cluster": 4, "contrastive": 8}


def test_nothing_before_a_key_runs_again(found):
    "A rule that needs no table: a block's keys reach its own stage and later ones."
    for key, again in found.items():
        block = key.split(".")[0]
        first = FIRST[block] if block in FIRST else ORDER.index(block)
        assert all(ORDER.index(stage) >= first for stage in again), (key, again)
