"""Every source, and what is wrong with some of them."""
import functools
import hashlib
import http.server
import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import PHOTOS
from flowers102_study.pictures import sources
from flowers102_study.core.records import seal
from flowers102_study.core.settings import SettingsError, read_profile
from flowers102_study.core.dataset import read_audit, read_index, read_pixels, read_report
from flowers102_study.core.work import Work
from flowers102_study.data import audit, prepare_data
from PIL import Image
from scipy.io import savemat

BLOCK = read_profile("smoke")["data"]


def picture(seed: int, size=(40, 30), mode="RGB") -> Image.Image:
    # large blotches: hashes that differ
    values = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def prepared(folder: Path, source, **changes) -> dict: # the report
    folder.mkdir()
    prepare_data(Work({"seed": 1, "data": BLOCK | {"source": str(source)} | changes}, {}, folder))
    seal(folder)
    return read_report(folder)


def class_folders(folder: Path, classes: int = 3, each: int = 9):
    for c in range(classes):
        for i in range(each):
            path = folder / f"class {c}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(100 * c + i)))


def oxford_layout(folder: Path, n: int = 60):
    "Oxford's three files in small: six classes, ten pictures each, the three lists in turn."
    (folder / "jpg").mkdir(parents=True)
    for i in range(1, n + 1): (folder / "jpg" / f"image_{i:05d}.jpg").write_bytes(encoded(picture(i)))
    ids = np.arange(1, n + 1)
    savemat(folder / "imagelabels.mat", {"labels": ((ids - 1) // 10 + 1)[None]})
    savemat(folder / "setid.mat",
            {"trnid": ids[0::5][None], "valid": ids[1::5][None],
             "tstid": np.sort(np.r_[ids[2::5], ids[3::5], ids[4::5]])[None]})


@pytest.fixture
def site(tmp_path): # (address, folder): a server on this machine only
    folder = tmp_path / "site"
    folder.mkdir()
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0),
                                             functools.partial(quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()


def put_on(site_folder: Path, layout: Path, evil: bool = False) -> dict: # md5 by name
    with tarfile.open(site_folder / "102flowers.tgz", "w:gz") as tar:
        tar.add(layout / "jpg", "jpg")
        if evil:
            for name in ("../escaped.jpg", "jpg/../../escaped.jpg", "jpg/image_1.jpg", "jpg/run.sh",
                         "/tmp/escaped-absolute.jpg"):
                member = tarfile.TarInfo(name); member.size = 4
                tar.addfile(member, io.BytesIO(b"evil"))
            link = tarfile.TarInfo("jpg/image_99999.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
    for name in ("imagelabels.mat", "setid.mat"):
        (site_folder / name).write_bytes((layout / name).read_bytes())
    return {name: hashlib.md5((site_folder / name).read_bytes()).hexdigest() for name in sources.SUMS}


def test_download_from_a_server(site, tmp_path):
    address, folder = site
    oxford_layout(tmp_path / "layout")
    sums = put_on(folder, tmp_path / "layout", evil=True)
    got = sources.download_oxford(tmp_path / "got" / "oxford", address, sums)
    assert (sorted(p.name for p in (got / "jpg").iterdir())
            == [f"image_{i:05d}.jpg" for i in range(1, 61)])
    assert not list(tmp_path.rglob("escaped*")) and not Path("/tmp/escaped-absolute.jpg").exists()
    for path in folder.iterdir(): path.unlink()
    assert sources.download_oxford(got, address, sums) == got # nothing is fetched twice


def test_download_refuses_other_bytes_and_says_what_to_do_without_a_network(site, tmp_path):
    address, folder = site
    oxford_layout(tmp_path / "layout")
    sums = put_on(folder, tmp_path / "layout")
    (folder / "setid.mat").write_bytes(b"changed")
    with pytest.raises(ValueError, match="setid.mat"):
        sources.download_oxford(tmp_path / "a", address, sums)
    with pytest.raises(SettingsError, match="Without a network"):
        sources.download_oxford(tmp_path / "b", "http://127.0.0.1:9/", sums)


def test_a_download_that_is_cut_goes_on(tmp_path, capsys):
    content, asked = np.random.default_rng(0).bytes(5 << 20), []
    # sends two of five megabytes at a time, and breaks off
    class Cutting(http.server.BaseHTTPRequestHandler):
        protocol_version, log_message = "HTTP/1.1", lambda *_: None
        def do_GET(self):
            asked.append(start := int(self.headers.get("Range", "bytes=0-")[6:-1]))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:start + (2 << 20)])
            self.close_connection = True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cutting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/flowers.bin"
    # a call that has no patience
    with pytest.raises(OSError): sources.fetch(address, str(tmp_path / "out"), None, tries=1)
    sources.fetch(address, str(tmp_path / "out"), None, tries=2) # the next one goes on
    server.shutdown()
    assert ((tmp_path / "out").read_bytes() == content and len(asked) == 3
            and 0 == asked[0] < asked[1] < asked[2])
    assert "5/5 | MB of flowers.bin" in capsys.readouterr().out


@pytest.mark.parametrize("split, counts", [("study", (36, 12, 12)), ("official", (12, 12, 36))])
def test_oxfords_layout(tmp_path, split, counts):
    oxford_layout(tmp_path / "layout")
    report = prepared(tmp_path / "data", tmp_path / "layout", split=split)
    assert ((report["counts"]["train"], report["counts"]["validation"], report["counts"]["test"])
            == counts)
    assert report["classes"] == sources.oxford_names()[:6] and report["split"] == split


def test_oxfords_layout_with_files_missing(tmp_path):
    oxford_layout(tmp_path / "layout")
    for i in range(1, 14): (tmp_path / "layout/jpg" / f"image_{i:05d}.jpg").unlink()
    report = prepared(tmp_path / "data", tmp_path / "layout")
    assert len(report["classes"]) == 5 and sum(report["counts"].values()) == 47
    assert (any("13 of Oxford's 60 pictures" in note for note in report["notes"])
            and any("pink primrose" in note for note in report["notes"]))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the photographs are not at {PHOTOS}")
def test_real_photographs():
    with ThreadPoolExecutor(1) as pool: found = sources.collect(BLOCK | {"source": str(PHOTOS)}, 1, pool)
    assert len(found.pictures) == 4141 and len({p.name for p in found.pictures}) == 89
    assert (sum(p.split == "train" for p in found.pictures) == 3615
            and sum(p.split == "test" for p in found.pictures) == 526)
    assert sources.read_rgb(found.pictures[0].source).mode == "RGB"


@pytest.mark.parametrize("labels", ["ClassLabel", "text"])
def test_the_hubs_layout(tmp_path, labels):
    import datasets
    names = ["rose/red", "daisy"] # a folder's name cannot have a slash, a label can
    label = datasets.ClassLabel(names=names) if labels == "ClassLabel" else datasets.Value("string")
    features = datasets.Features({"photo": datasets.Image(), "question": datasets.Value("string"),
                                  "label" if labels == "ClassLabel" else "answer": label})
    for split, n in (("train", 20), ("test", 6)):
        rows = {"photo": [{"bytes": encoded(picture(i + n)), "path": None} for i in range(n)],
                "question": ["which flower?"] * n}
        rows[list(features)[2]] = [i % 2 if labels == "ClassLabel" else names[i % 2].title()
                                   for i in range(n)]
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features).to_parquet(
            tmp_path / f"hub/data/{split}-00000-of-00001.parquet")
    report = prepared(tmp_path / "data", f"hub:{tmp_path / 'hub'}")
    assert (sorted(report["classes"]) == ["daisy", "rose/red"] and report["counts"]["test"] == 6
            and sum(report["counts"].values()) == 26)


def test_rows_without_picture_or_label_are_said(tmp_path):
    import datasets
    features = datasets.Features({"image": datasets.Image(),
                                  "label": datasets.ClassLabel(names=["rose", "daisy"])})
    rows = {"image": [{"bytes": encoded(picture(i)), "path": None} for i in range(20)] + [None],
            "label": [i % 2 for i in range(19)] + [-1, 0]}
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "hub/train.parquet")
    report = prepared(tmp_path / "data", f"hub:{tmp_path / 'hub'}")
    assert (sum(report["counts"].values()) == 19
            and report["notes"] == ["2 rows without a picture or a label were passed over."])


def test_the_hub_without_labels_or_network(tmp_path, monkeypatch):
    import datasets
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_dict({"photo": [1, 2], "width": [3, 4]}).to_parquet(
        tmp_path / "hub/train.parquet")
    with pytest.raises(SettingsError, match="there is: photo, width"):
        prepared(tmp_path / "a", f"hub:{tmp_path / 'hub'}")
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info",
                        lambda *a, **k: (_ for _ in ()).throw(ConnectionError("offline")))
    with pytest.raises(SettingsError, match="could not load the data set 'no-one/nothing'"):
        prepared(tmp_path / "b", "hub:no-one/nothing")


def test_class_folders(tmp_path):
    class_folders(tmp_path / "own")
    (tmp_path / "own/empty").mkdir()
    report = prepared(tmp_path / "data", tmp_path / "own")
    assert (report["counts"] == {"train": 15, "validation": 6, "test": 6}
            and report["notes"] == ["no picture in: empty."])
    assert read_pixels(tmp_path / "data", "train").shape == (15, 24, 24, 3)
    index = read_index(tmp_path / "data")
    assert index.image_id.is_unique and index.name.nunique() == 3 and set(index.width) == {40}


def test_hostile_pictures_are_named(tmp_path):
    class_folders(tmp_path / "own")
    whole = encoded(picture(1, (300, 300)))
    bad = {"cut.jpg": whole[:len(whole) // 2], "empty.png": b"", "page.jpg": b"<html>",
           "bomb.png": encoded(Image.new("1", (20000, 6000)), "PNG")}
    for name, content in bad.items(): (tmp_path / "own/class 1" / name).write_bytes(content)
    (tmp_path / "own/class 2/inks.jpg").write_bytes(encoded(picture(7, mode="CMYK")))
    report = prepared(tmp_path / "data", tmp_path / "own")
    assert ({Path(b["image_id"]).name for b in report["left_out"]} == set(bad)
            and all(b["reason"] for b in report["left_out"]))
    assert sum(report["counts"].values()) == 28
    with pytest.raises(SettingsError, match="bomb.png"):
        prepared(tmp_path / "refused", tmp_path / "own", unreadable="refuse")


@pytest.mark.parametrize("classes, each, told",
                         [(1, 9, "classes, and two are needed"), (0, 0, "classes, and two are needed"),
                          (2, 1, "too few pictures")])
def test_too_little(tmp_path, classes, each, told):
    (tmp_path / "own").mkdir()
    class_folders(tmp_path / "own", classes, each)
    with pytest.raises(SettingsError, match=told): prepared(tmp_path / "data", tmp_path / "own")


def test_a_planted_duplicate_is_found(tmp_path):
    from PIL import ImageOps
    for split, first in (("train", 0), ("valid", 50), ("test", 80)):
        for c in range(2):
            for i in range(6):
                path = tmp_path / "own" / split / f"c{c}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(first + 200 * c + i).save(path)
    # train/c0/3.png, larger and mirrored
    ImageOps.mirror(picture(3, (90, 70))).save(tmp_path / "own/test/c1/again.png")
    report = prepared(tmp_path / "data", tmp_path / "own")
    assert sum(report["counts"].values()) == 37
    (tmp_path / "audit").mkdir()
    audit(Work({"near": 6}, {"data": tmp_path / "data"}, tmp_path / "audit"))
    seal(tmp_path / "audit")
    pairs, sums = read_audit(tmp_path / "audit")
    assert sums == {"bits": 6, "pairs": 1, "test": 1, "validation": 0}
    pair = pairs.iloc[0]
    assert ((pair.image_id, pair.train_id, bool(pair.flipped))
            == ("test/c1/again.png", "train/c0/3.png", True))


def test_official_is_oxfords_own(tmp_path):
    class_folders(tmp_path / "own")
    with pytest.raises(SettingsError, match="Oxford's own"):
        prepared(tmp_path / "data", tmp_path / "own", split="official")


def test_a_mirror_says_what_it_has(site, tmp_path, monkeypatch):
    address, folder = site
    oxford_layout(tmp_path / "layout")
    sums = put_on(folder, tmp_path / "layout")
    monkeypatch.setenv("FLOWERS102_MIRROR", address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(SettingsError, match="hash of downloaded file"): # not Oxford's bytes
        sources.oxford_collection("study")
    (folder / "md5sums.txt").write_text("".join(f"{md5}  {name}\n" for name, md5 in sums.items()))
    found = sources.oxford_collection("study")
    assert len(found.pictures) == 60
    assert found.origin["address"] == address and found.origin["md5"] == sums
    (folder / "md5sums.txt").write_text("00  setid.mat\n")
    with pytest.raises(SettingsError, match="does not list 102flowers.tgz, imagelabels.mat"):
        sources.oxford_site()
    monkeypatch.setenv("FLOWERS102_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match="no answer from"): sources.oxford_site()


def test_preparing_holds_no_picture_in_memory(tmp_path, monkeypatch):
    import tracemalloc
    class Pool: # in this process, where allocations are counted
        def __init__(self, *_, **__): pass
        def __enter__(self): return self
        def __exit__(self, *_): return None
        def map(self, function, tasks, chunksize=1): return map(function, tasks)
    monkeypatch.setattr("flowers102_study.data.ProcessPoolExecutor", Pool)
    class_folders(tmp_path / "flowers", classes=4, each=20)
    prepared(tmp_path / "small", tmp_path / "flowers", image_size=16) # what is imported does not count
    tracemalloc.start()
    prepared(tmp_path / "data", tmp_path / "flowers", image_size=384)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 * 384 * 384 * 3 * .9, peak # before, more than twice the pixels
    assert len(read_pixels(tmp_path / "data", "train")) > 40
    assert not [p for p in (tmp_path / "data").iterdir() if p.name.startswith("tmp")]
