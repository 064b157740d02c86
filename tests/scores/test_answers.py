"""Answers written by hand, and what a person reads in each."""
from pathlib import Path

import pytest

from flowers102_study.pictures.sources import oxford_names
from flowers102_study.scores.answers import Names, other_names, plain
from flowers102_study.scores.taxonomy import taxonomy


def by_hand() -> list: # of (answer, exact, synonym, named), classes by name, "-" for none
    rows = []
    for line in (Path(__file__).parent / "answers.txt").read_text().splitlines():
        if line.startswith("#"): continue
        answer, exact, synonym, named = (part.strip() for part in line.split("|"))
        synonym = exact if synonym == "=" else synonym
        rows.append((answer, exact, synonym, synonym if named == "=" else named))
    return rows


@pytest.fixture(scope="module")
def oxford() -> Names:
    return Names(oxford_names())


def test_every_answer_is_read_as_a_person_would(oxford):
    name = lambda number: oxford.names[number] if number >= 0 else "-"
    wrong = []
    for answer, *wanted in by_hand():
        got = [name(oxford.read(answer)), name(oxford.read(answer, synonyms=True)),
               name(oxford.read_named(answer))]
        if got != wanted: wrong.append((answer, wanted, got))
    assert not wrong
    assert len(by_hand()) >= 150


def test_a_name_is_read_as_itself_by_all(oxford):
    for number, name in enumerate(oxford.names):
        assert oxford.read(name) == oxford.read(name, synonyms=True) == oxford.read_named(name) == number


def test_the_table_has_every_class(oxford):
    known = taxonomy()
    assert set(known) == set(oxford.names)
    for name, entry in known.items():
        assert all(entry[rank] for rank in ("scientific", "genus", "family", "order")), name
        assert entry["scientific"].startswith(entry["genus"]), name


def test_no_name_stands_for_two_classes(oxford):
    owner = {}
    for name in oxford.names:
        for form in {plain(form) for form in [name, *other_names(name)]}:
            assert owner.setdefault(form, name) == name, form


def test_a_few_classes_of_ones_own(oxford):
    few = Names(["rose", "mallow", "daisy_fleabane"])
    asked = ("a rose", "lenten rose", "tree mallow", "Daisy fleabanes!")
    assert [few.read_named(answer) for answer in asked] == [0, -1, -1, 2]
    flowers = Names(["Roses", "sunflowers", "tulips"])
    assert [flowers.read_named(a) for a in ("a rose", "sunflower", "It is a tulip.")] == [0, 1, 2]
    assert Names(["Water_Lily", "x"]).read("Nymphaea", synonyms=True) == 0
    for names in (["roses", "rose"], ["rose", "roses"]):
        assert [Names(names).read_named(name) for name in names] == [0, 1]
