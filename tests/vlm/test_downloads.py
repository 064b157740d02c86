"""Downloads from a Hub on the loopback: seen, cut and gone on with, and refused with what to do."""
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from flowers102_study.core.settings import SettingsError
from flowers102_study.vlm import downloads
from tests.rehearsal.hub import Hub, serving

COMMIT = "a" * 40


def point_to(address: str, monkeypatch):
    "Let huggingface_hub ask another Hub; it has read the address as it was imported."
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants
    made = Hub(tmp_path / "hub")
    place = made.repository("someone/flowers").add(COMMIT)
    (place / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (place / "pytorch_model.bin").write_bytes(b"a pickle")
    values = np.random.default_rng(0).random(1 << 20, np.float32)
    save_file({"weights": values}, place / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "")
    with serving(made.app) as address:
        point_to(address, monkeypatch)
        yield made


def files(tmp_path) -> dict: # {name: content}
    place = tmp_path / "cache" / "models--someone--flowers" / "snapshots" / COMMIT
    return {p.name: p.read_bytes() for p in place.iterdir()} if place.exists() else {}


def test_a_busy_server_and_a_cut_connection_are_gone_on_with(hub, tmp_path, capsys):
    hub.faults = {"config.json": "503", "model.safetensors": "cut"}
    downloads.fetch(f"someone/flowers@{COMMIT}")
    assert len(hub.once) == 2
    there = hub.repository("someone/flowers").folder / COMMIT
    got = files(tmp_path)
    assert set(got) == {"config.json", "model.safetensors"} # no pickle
    assert all((there / name).read_bytes() == content for name, content in got.items())
    assert "download someone/flowers | 4/4 | MB" in capsys.readouterr().out
    before = hub.asked.total()
    downloads.fetch(f"someone/flowers@{COMMIT}")
    assert hub.asked.total() - before <= 2 and "MB" not in capsys.readouterr().out # nothing comes twice


def test_what_is_in_the_cache_needs_no_hub(hub, monkeypatch):
    downloads.fetch("someone/flowers")
    point_to("http://127.0.0.1:9", monkeypatch)
    downloads.fetch("someone/flowers")


@pytest.mark.parametrize("source, said", [
    ("someone/roses", "there is no someone/roses on the Hub, or it is private"),
    ("someone/flowers@v9", "someone/flowers has no revision 'v9'; its commits are listed at"),
    ("someone/gated", "someone/gated is gated: accept its terms at .*, then log in with: hf auth")])
def test_what_cannot_be_had_is_said_with_what_to_do(hub, source, said):
    hub.repository("someone/gated").add(COMMIT)
    hub.repository("someone/gated").gated = True
    with pytest.raises(SettingsError, match=said): downloads.fetch(source)


def test_a_full_disk_is_said_before_anything_comes(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_000_000))
    with pytest.raises(SettingsError, match="0.0 GB are to be downloaded.*set HF_HOME"):
        downloads.fetch("someone/flowers")
    assert not files(tmp_path)


def test_without_a_network_it_says_so(hub, monkeypatch):
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(SettingsError, match="could not be downloaded .*the same command goes on"):
        downloads.fetch("someone/flowers")


def test_what_was_pushed_opens_in_plain_transformers(hub, tmp_path):
    from huggingface_hub import HfApi
    from transformers import (AutoModelForImageClassification, ResNetConfig,
                              ResNetForImageClassification)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    made = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3))
    made.save_pretrained(tmp_path / "made")
    api = HfApi(token=hub.token)
    api.create_repo("someone/net", exist_ok=True)
    api.create_repo("someone/net", exist_ok=True)
    api.upload_folder(folder_path=tmp_path / "made", repo_id="someone/net")
    again = AutoModelForImageClassification.from_pretrained("someone/net",
                                                            cache_dir=tmp_path / "elsewhere")
    for one, two in zip(made.parameters(), again.parameters()): assert (one == two).all()
