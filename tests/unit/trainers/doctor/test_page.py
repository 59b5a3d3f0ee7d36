"""The report of the data: whole, of one file, and without text of the rows unless that was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from luthier.errors import DataError
from luthier.trainers.accounts import SplitAccount
from luthier.trainers.data_report import DataReport, SplitReport
from luthier.trainers.doctor.health import Health
from luthier.trainers.doctor.lengths import Lengths
from luthier.trainers.doctor.listed import Listed
from luthier.trainers.doctor.page import render_data
from luthier.trainers.doctor.preview import Shown, Stretch
from luthier.trainers.doctor.room import Room

NONE = Listed()
HEALTH = Health(
    rows=9,
    labels={"net": 5, "<b>mail</b>": 4},
    new_labels=NONE,
    conflicting_labels=NONE,
    repeated=Listed(12_345, ("t:7 = t:3",)),
    nearly_repeated=NONE,
    also_in_train=NONE,
    nearly_in_train=NONE,
    also_in_validation=NONE,
    languages={"en": 9},
    pii={"email": 2},
    with_pii=Listed(2, ("t:1", "t:4")),
    lengths=Lengths({"5": 4, "50": 9, "95": 11, "99": 12, "100": 12}, (2, 7)),
    unusual_length=NONE,
    unusual_text=NONE,
)
WHOLE = SplitAccount(9, 9, 0, 0, 90, 20, 12, limits={"data.max_length": 512})
TRAIN = SplitReport(WHOLE, HEALTH, False, (0, 8, 16), Room(9, 90, 1, 0.7, 0.5, False), 0.01)
LEAKY = replace(TRAIN, health=replace(HEALTH, also_in_train=Listed(3, ("v:2", "v:5", "v:6"))), room=None)
SECRET = Shown("t:1", (Stretch("<|user|>who", False, 4), Stretch("jane & co", True, 3)))


def test_the_page_has_the_findings_by_row_ids() -> None:
    page = render_data("demo", DataReport({"train": TRAIN, "validation": TRAIN}))
    assert page.count("<svg") == 3
    assert "<script" not in page and "http:" not in page and "https:" not in page
    assert "12,345" in page and "t:7 = t:3" in page and "email 2" in page
    assert "70.0 % of 1 packs" in page
    assert "<b>mail" not in page and "&lt;b&gt;mail" in page
    assert "usable" in page and "refused" not in page
    assert "What is learned" not in page


def test_a_preview_is_there_when_it_was_asked_for() -> None:
    report = DataReport({"train": replace(TRAIN, preview=(SECRET,))})
    page = render_data("demo", report)
    assert "&lt;|user|&gt;who<b " in page and ">jane &amp; co</b>" in page
    assert "7 tokens, 3 with loss" in page
    assert report.as_dict()["train"]["preview"][0]["stretches"][1] == {
        "text": "jane & co",
        "learnt": True,
        "num_tokens": 3,
    }
    assert "preview" not in DataReport({"train": TRAIN}).as_dict()["train"]


def test_a_split_that_leaks_is_refused_and_the_page_says_so() -> None:
    report = DataReport({"train": TRAIN, "validation": LEAKY})
    with pytest.raises(DataError, match=r"^validation: 3 of 9 rows \(33\.3%\) .* first v:2; .*max_leakage=0\.01\."):
        report.check()
    assert "✕ refused" in render_data("demo", report)
    DataReport({"train": TRAIN, "validation": replace(LEAKY, max_leakage=None)}).check()
    DataReport({"train": TRAIN, "validation": replace(LEAKY, max_leakage=0.5)}).check()


def test_stages_have_sections_of_their_own() -> None:
    page = render_data("demo", DataReport({"first/train": TRAIN, "second/train": TRAIN}))
    assert "Stage first" in page and "Stage second" in page
    assert page.count("<svg") == 6
