"""Archives and pictures that mean harm: nothing is written outside, each is named or left out."""
import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from faults import LONG
from flowers102_study.core.dataset import read_index
from flowers102_study.core.settings import SettingsError
from flowers102_study.pictures import sources
from flowers102_study.pictures.sources import Unreadable, read_rgb
from PIL import Image
from test_data import class_folders, encoded, picture, prepared


def entry(name: str, kind=tarfile.REGTYPE, content: bytes = b"evil", **more) -> tuple:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(content) if kind == tarfile.REGTYPE else 0
    for key, value in more.items(): setattr(member, key, value)
    return member, content


JPG = "jpg/image_00007.jpg"
ENTRIES = {
    "up": entry("../escaped.jpg"), "up inside": entry("jpg/../../escaped.jpg"),
    "a number's way up": entry("jpg/image_00001.jpg/../../../escaped.jpg"),
    "absolute": entry("/tmp/escaped-absolute.jpg"), "a program": entry("jpg/run.sh"),
    "a link out": entry(JPG, tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link out": entry(JPG, tarfile.LNKTYPE, linkname="../../escaped"),
    "a device": entry(JPG, tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a pipe": entry(JPG, tarfile.FIFOTYPE), "a line break": entry("jpg/image_00007.jpg\n"),
    "other digits": entry("jpg/image_٠٠٠٠٧.jpg"), "255 bytes": entry("jpg/" + "a" * 251 + ".jpg"),
    "the other way": entry("jpg/\u202egpj.00007_egami")}


def there(folder: Path) -> set: return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_archive_writes_nothing_else(tmp_path, capsys, kind):
    member, content = ENTRIES[kind]
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        for one, data in (entry("jpg/image_00001.jpg", content=b"right"), (member, content)):
            tar.addfile(one, io.BytesIO(data) if one.isreg() else None)
    sources.unpack(tmp_path / "x.tgz", tmp_path / "a/b/out")
    assert there(tmp_path) == {"x.tgz", "a", "a/b", "a/b/out", "a/b/out/jpg",
                               "a/b/out/jpg/image_00001.jpg"}
    assert not Path("/tmp/escaped-absolute.jpg").exists()
    said = capsys.readouterr().out
    assert said.startswith("left in the archive") and said.count("\n") == 1 and "\u202e" not in said


@pytest.mark.parametrize("gibibytes", [pytest.param(1), pytest.param(10, marks=LONG)])
def test_a_bomb_in_an_archive(tmp_path, gibibytes):
    "Ten gigabytes of zeros that pack to ten megabytes, under a picture's name."
    member = tarfile.TarInfo(JPG)
    member.size = gibibytes << 30
    packed = lambda data: (p := zlib.compressobj(9, wbits=31)).compress(data) + p.flush()
    zeros = packed(bytes(1 << 26))
    (tmp_path / "x.tgz").write_bytes(packed(member.tobuf()) + (gibibytes << 4) * zeros
                                     + packed(bytes(10240)))
    sources.unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert there(tmp_path / "out") == {"jpg"}


def chunk(kind: bytes, content: bytes) -> bytes: # of a PNG
    number = lambda value: struct.pack(">I", value)
    return number(len(content)) + kind + content + number(zlib.crc32(kind + content))


def huge_png() -> bytes: # 50,000 x 50,000 pixels, says its head
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def with_false_sum() -> bytes:
    content = bytearray(encoded(picture(3, (200, 200)), "PNG"))
    content[content.index(b"IDAT") + 40] ^= 255
    return bytes(content)


def test_pictures_that_cannot_be_read_are_named(tmp_path, record_property):
    whole = encoded(picture(1, (300, 300)))
    bad = {"cut.jpg": whole[:len(whole) // 2], "false sum.png": with_false_sum(),
           "huge.png": huge_png(), "empty.jpg": b"", "text.jpg": b"a text file",
           "page.jpg": b"<html>", "zeros.jpg": bytes(5000)}
    class_folders(tmp_path / "own")
    for name, content in bad.items(): (tmp_path / "own/class 1" / name).write_bytes(content)
    os.mkfifo(tmp_path / "own/class 1/pipe.jpg") # not even looked into
    (tmp_path / "own/class 1/gone.jpg").symlink_to("nowhere.jpg")
    report = prepared(tmp_path / "data", tmp_path / "own")
    assert {Path(b["image_id"]).name for b in report["left_out"]} == set(bad)
    assert all(b["reason"] for b in report["left_out"]) and sum(report["counts"].values()) == 27
    record_property("times", len(bad))


def test_a_file_too_large_for_a_picture_is_not_opened(tmp_path):
    with open(tmp_path / "x.jpg", "wb") as file: file.truncate(10 << 30)
    with pytest.raises(Unreadable, match="too many for a picture"): read_rgb(tmp_path / "x.jpg")
    with pytest.raises(Unreadable, match="cannot be opened"): read_rgb(tmp_path / "nothing.jpg")


def test_unusual_pictures_are_read_the_right_way_up():
    half = np.zeros((40, 60, 3), np.uint8)
    half[:20] = (250, 10, 10) # red above
    red, black = (250, 10, 10), (0, 0, 0)
    like = lambda found, wanted: max(abs(a - b) for a, b in zip(found, wanted)) < 40
    def upright(content, size=(60, 40)):
        seen = read_rgb(content)
        top, bottom = seen.getpixel((30, 5)), seen.getpixel((30, 35))
        return seen.size == size and seen.mode == "RGB" and like(top, red) and like(bottom, black)
    image = Image.fromarray(half)
    for mode, form in (("CMYK", "TIFF"), ("P", "GIF")):
        assert upright(encoded(image.convert(mode), form))
    buffer = io.BytesIO() # an animated GIF: its first picture
    image.save(buffer, "GIF", save_all=True, append_images=[image.rotate(180)])
    assert upright(buffer.getvalue())
    turned = {1: image, 3: image.rotate(180), 6: image.rotate(90, expand=True),
              8: image.rotate(-90, expand=True), 2: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)}
    for how, picture_ in turned.items():
        exif = Image.Exif()
        exif[0x0112] = how
        buffer = io.BytesIO()
        picture_.save(buffer, "JPEG", exif=exif, quality=95)
        assert upright(buffer.getvalue()), how
    deep = Image.fromarray((half[..., 0].astype(np.uint16) * 257))
    seen = read_rgb(encoded(deep, "PNG"))
    assert seen.getpixel((30, 5)) == (250,) * 3 and seen.getpixel((30, 35)) == black


NAMES = {"a line break": "rose\nleaf", "a quote": "rose \"d'été\"", "marks up": "<b>rose & $x$",
         "the other way": "rose\u202eesor", "Hebrew": "ורד", "255 bytes": "r" * 255,
         "no text": "rose\udcff", "typst": "#panic() *rose*", "a shell's": "$(touch escaped); `ls`"}


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_shown_and_never_obeyed(tmp_path, kind):
    name = NAMES[kind]
    class_folders(tmp_path / "own")
    (tmp_path / "own/class 1").rename(tmp_path / "own" / name)
    file = name if len(os.fsencode(name)) < 251 else name[:-4]
    (tmp_path / "own" / name / "0.jpg").rename(tmp_path / "own" / name / f"{file}.jpg")
    report = prepared(tmp_path / "data", tmp_path / "own")
    shown = next(c for c in report["classes"] if not c.startswith("class"))
    ids = [i for i in read_index(tmp_path / "data").image_id if i.startswith(shown)]
    assert len(ids) == 9 and any(i.endswith(f"/{sources.plain(file)}.jpg") for i in ids)
    for text in (shown, *ids):
        assert "\n" not in text and "\u202e" not in text and text.encode() # one line, UTF-8
    if kind in ("a quote", "Hebrew", "marks up", "255 bytes"): assert shown == name


def test_a_table_names_no_file_of_this_machine(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    secret = tmp_path / "private.png"
    secret.write_bytes(encoded(picture(5), "PNG"))
    rows = [{"image": {"bytes": encoded(picture(i)), "path": None}, "label": f"kind {i % 2}\x00\n"}
            for i in range(24)]
    rows += [{"image": {"bytes": None, "path": path}, "label": "kind 0"}
             for path in (str(secret), "/etc/passwd", "data/../../private.png")]
    features = json.dumps({"info": {"features": {"image": {"_type": "Image"},
                                                 "label": {"dtype": "string", "_type": "Value"}}}})
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": features})
    (tmp_path / "set/data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "set/data/train-00000.parquet")
    report = prepared(tmp_path / "data", f"hub:{tmp_path / 'set'}")
    assert "3 rows that name a file outside the data set were passed over." in report["notes"]
    assert report["classes"] == ["kind 0\\x00", "kind 1\\x00"] and sum(report["counts"].values()) == 24


def test_what_is_refused_says_so(tmp_path):
    class_folders(tmp_path / "own")
    (tmp_path / "own/class 1/0.jpg").write_bytes(huge_png())
    with pytest.raises(SettingsError, match="class 1/0.jpg: .*decompression bomb"):
        prepared(tmp_path / "data", tmp_path / "own", unreadable="refuse")
    assert not (tmp_path / "data/report.json").exists()
