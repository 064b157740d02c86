"""Oxford's three files, of few pictures: genuine photographs where they are at hand, else drawings."""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat, savemat

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "flowers102"
TRAINED, TESTED = 4, 45  # pictures of a class to train on; test pictures in all, one of a class


def chosen(labels: np.ndarray, ids: dict, there) -> list:  # numbers of pictures
    "Choose the pictures that go onto the server: some of each class."
    found = []
    for part, most in (("tstid", TRAINED), ("valid", 1)):
        of_class = {}
        for number in ids[part][0].tolist():
            if there(number):
                of_class.setdefault(labels[number - 1], []).append(number)
        some = [number for numbers in of_class.values() for number in numbers[:most]]
        found += some if part == "tstid" else some[:TESTED]
    return sorted(found)


def drawn(folder: Path, species: int = 102):
    "Draw a few pictures in Oxford's layout."
    from flowers102_study.pictures.drawn import draw, poses, species as kinds

    labels = np.repeat(np.arange(1, species + 1), TRAINED + 1)
    (folder / "jpg").mkdir(parents=True)
    pictures = [
        part for kind in kinds(species) for part in draw(kind, poses(kind, range(TRAINED + 1)), 128)
    ]
    for number, picture in enumerate(pictures, 1):
        Image.fromarray(picture).resize((320, 256)).save(folder / "jpg" / f"image_{number:05d}.jpg")
    ids = np.arange(1, len(labels) + 1)
    last = ids % (TRAINED + 1) == 0
    savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    savemat(
        folder / "setid.mat",
        {"trnid": ids[:0][None], "valid": ids[last][None], "tstid": ids[~last][None]},
    )


def write_site(folder: Path, photos: Path = PHOTOS) -> str:  # "real" | "made"
    "Write the files that Oxford's server has, with their sums."
    folder.mkdir(parents=True, exist_ok=True)
    real = (photos / "setid.mat").is_file()
    if not real:
        photos = folder / "layout"
        drawn(photos)
    labels, ids = loadmat(photos / "imagelabels.mat")["labels"][0], loadmat(photos / "setid.mat")
    path = lambda number: photos / "jpg" / f"image_{number:05d}.jpg"
    with tarfile.open(folder / "102flowers.tgz", "w:gz", compresslevel=1) as tar:
        for number in chosen(labels, ids, lambda n: path(n).exists()):
            tar.add(path(number), f"jpg/{path(number).name}")
    for name in ("imagelabels.mat", "setid.mat"):
        (folder / name).write_bytes((photos / name).read_bytes())
    names = ("102flowers.tgz", "imagelabels.mat", "setid.mat")
    md5 = lambda name: hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "md5sums.txt").write_text("".join(f"{md5(name)}  {name}\n" for name in names))
    return "real" if real else "made"
