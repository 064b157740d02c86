"""Two jobs of one lane: the first leaves a circle of references, the second looks whether it is gone."""
import gc
import weakref

LEFT = []


class Weights:
    "Something large that refers to itself, as a trained model does."
    def __init__(self): self.own = self


def leave(work):
    gc.disable() # only on purpose
    LEFT.append(weakref.ref(Weights()))


def look(work):
    gc.enable()
    (work.folder / "seen").write_text("gone" if LEFT[0]() is None else "still there")
