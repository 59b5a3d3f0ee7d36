"""What is planted in rows is found, and the figures add up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from luthier.config.checks import ChecksConfig
from luthier.rows import Message, Row
from luthier.trainers.doctor.examine import FINDING, Examiner, findings_key
from luthier.trainers.doctor.findings_file import FindingsWriter, read_findings
from luthier.trainers.doctor.health import Health, health_of
from luthier.trainers.files import Split

LIMIT = 512


def words(seed: int, number: int = 40) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(number))


def labelled(line: int, text: str, label: str, split: Split = "train") -> Row:
    return Row(f"{split}.jsonl:{line}", (Message("user", text), Message("assistant", label)), label, text=text)


def table(rows: Sequence[Row], checks: ChecksConfig, tokens: Sequence[int] | None = None) -> pa.Table:
    examine = Examiner(checks)
    lengths = tokens or [len(row.question) // 4 for row in rows]
    found = [examine(row, length) for row, length in zip(rows, lengths, strict=True)]
    return pa.Table.from_pylist(found, schema=pa.schema(list(FINDING)))


def healths(checks: ChecksConfig | None = None, **splits: Sequence[Row]) -> dict[str, Health]:
    checks = checks or ChecksConfig()
    findings = {split: table(rows, checks) for split, rows in splits.items()}
    return dict(health_of(findings, checks.near_duplicates, LIMIT)[0])  # type: ignore[arg-type]


TRAIN = [labelled(line, words(line), "ab"[line % 2]) for line in range(1, 21)]


def test_clean_rows_have_no_findings() -> None:
    found = healths(train=TRAIN, test=[labelled(1, words(100), "a", "test")])
    for health in found.values():
        lists = [value for name, value in vars(health).items() if hasattr(value, "num")]
        assert len(lists) == 10
        assert all(one.num == 0 and one.rows == () for one in lists)
    assert found["train"].labels == {"a": 10, "b": 10}
    assert found["train"].rows == sum(found["train"].languages.values()) == sum(found["train"].lengths.counts) == 20


def test_repeated_rows_are_told_with_the_one_that_they_repeat() -> None:
    again = labelled(21, "  " + TRAIN[3].question.upper().replace(" ", "\n"), TRAIN[3].label or "")
    near = labelled(22, TRAIN[5].question + " more", TRAIN[5].label or "")
    health = healths(train=[*TRAIN, again, near])["train"]
    assert (health.repeated.num, health.repeated.rows) == (1, ("train.jsonl:21 = train.jsonl:4",))
    assert (health.nearly_repeated.num, health.nearly_repeated.rows) == (1, ("train.jsonl:22 = train.jsonl:6",))
    assert health.conflicting_labels.num == 0


def test_leakage_is_told_by_the_split_that_is_measured_on() -> None:
    validation = [labelled(1, words(50), "a", "validation"), labelled(2, TRAIN[0].question, "a", "validation")]
    near = labelled(3, TRAIN[7].question + " more", "a", "test")
    test = [labelled(1, TRAIN[2].question, "a", "test"), labelled(2, words(50), "a", "test"), near]
    found = healths(train=TRAIN, validation=validation, test=[*test, labelled(4, near.question, "a", "test")])
    assert found["train"].also_in_train.num == found["train"].nearly_in_train.num == 0
    assert found["validation"].also_in_train.rows == ("validation.jsonl:2",)
    assert found["test"].also_in_train.rows == ("test.jsonl:1",)
    assert found["test"].nearly_in_train.rows == ("test.jsonl:3", "test.jsonl:4")
    assert found["test"].also_in_validation.rows == ("test.jsonl:2",)
    assert found["test"].repeated.rows == ("test.jsonl:4 = test.jsonl:3",)


def test_rows_that_contradict_each_other_are_all_told_and_so_are_labels_not_learned() -> None:
    other = labelled(21, TRAIN[0].question, "a")
    assert TRAIN[0].label == "b"
    found = healths(
        train=[*TRAIN, other], test=[labelled(1, words(99), "c", "test"), labelled(2, words(98), "a", "test")]
    )
    assert found["train"].conflicting_labels.rows == ("train.jsonl:1", "train.jsonl:21")
    assert found["train"].repeated.num == 0
    assert found["test"].new_labels.rows == ("test.jsonl:1",)


def test_the_same_question_with_another_answer_is_no_repetition() -> None:
    rows = [
        Row(f"t:{line}", (Message("user", "how do I sort a list in place?"), Message("assistant", answer)))
        for line, answer in enumerate(("by sort", "with the method sort", "by sort"), start=1)
    ]
    health = healths(train=rows)["train"]
    assert health.repeated.rows == ("t:3 = t:1",)
    assert (health.conflicting_labels.num, dict(health.labels)) == (0, {})


def test_two_tasks_may_ask_of_one_text() -> None:
    def of_task(system: str, label: str, split: Split) -> Row:
        row = labelled(1, words(7), label, split)
        return replace(row, messages=(Message("system", system), *row.messages))

    found = healths(
        train=[of_task("Which topic?", "net", "train"), of_task("Which mood?", "glad", "train")],
        test=[of_task("Which topic?", "net", "test"), of_task("Which length?", "long", "test")],
    )
    assert found["train"].conflicting_labels.num == found["train"].repeated.num == 0
    assert (found["test"].also_in_train.num, found["test"].nearly_in_train.num) == (1, 1)


def test_personal_data_is_counted_by_kind_and_only_what_is_looked_for() -> None:
    rows = [
        labelled(1, words(1) + " write to jane@example.com", "a"),
        labelled(2, words(2) + " jane@example.com or 203.0.113.57", "b"),
        labelled(3, words(3), "b"),
    ]
    health = healths(train=rows)["train"]
    assert (health.pii, health.with_pii.rows) == ({"email": 2, "ip": 1}, ("train.jsonl:1", "train.jsonl:2"))
    assert healths(ChecksConfig(pii=("ip",)), train=rows)["train"].pii == {"ip": 1}
    assert healths(ChecksConfig(pii=()), train=rows)["train"].with_pii.num == 0


def test_an_answer_with_personal_data_counts_too() -> None:
    row = Row("t:1", (Message("user", "who?"), Message("assistant", "jane@example.com")), rejected="203.0.113.57")
    assert healths(train=[row])["train"].pii == {"email": 1, "ip": 1}


def test_languages_are_told_where_they_can_be() -> None:
    texts = [
        "Guten Tag, wie geht es Ihnen heute? Mir geht es sehr gut, danke.",
        "1",
        "The weather was fine all day long, they said.",
    ]
    rows = [Row(f"t:{line}", (), text=text) for line, text in enumerate(texts)]
    assert healths(train=rows)["train"].languages == {"de": 1, "en": 1, "und": 1}
    assert healths(ChecksConfig(languages=False), train=rows)["train"].languages == {}


@pytest.mark.parametrize("near", [0.8, None])
def test_rows_far_from_the_rest_are_told(near: float | None) -> None:
    checks = ChecksConfig(near_duplicates=near)
    tokens = [60, 66, 70, 64, 72, 58, 61, 69, 3000, 1, 63, 65, 70, 62, 68, 60, 66, 71, 400, 64]
    health = health_of({"train": table(TRAIN, checks, tokens)}, near, LIMIT)[0]["train"]
    assert health.unusual_length.rows == ("train.jsonl:9", "train.jsonl:10", "train.jsonl:19")
    assert health.unusual_text.rows == health.unusual_length.rows  # the texts are equally long
    assert health.lengths.quantiles["100"] == 3000
    assert sum(health.lengths.counts) == 20


def test_only_some_of_many_are_listed() -> None:
    rows = [labelled(line, "all the same text", "a") for line in range(1, 31)]
    health = healths(train=rows)["train"]
    assert (health.repeated.num, len(health.repeated.rows)) == (29, 10)


def test_findings_come_back_from_their_file_and_leave_nothing_half_made(tmp_path: Path) -> None:
    wanted = table(TRAIN, ChecksConfig())
    encoded = pa.table({"finding": pa.array([*wanted.to_pylist(), None], FINDING)})
    with FindingsWriter(tmp_path / "train.findings") as writer:
        writer.add(encoded)
        writer.add(encoded.slice(0, 3))
        writer.put()
    assert read_findings(tmp_path / "train.findings").to_pylist() == [*wanted.to_pylist(), *wanted.to_pylist()[:3]]
    with pytest.raises(KeyError), FindingsWriter(tmp_path / "other.findings") as writer:
        writer.add(encoded)
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["train.findings"]


def test_a_limit_does_not_make_findings_stale_and_what_is_looked_for_does() -> None:
    usual = findings_key(ChecksConfig())
    assert findings_key(ChecksConfig(max_leakage=None, near_duplicates=0.9)) == usual
    for other in (ChecksConfig(near_duplicates=None), ChecksConfig(languages=False), ChecksConfig(pii=("ip",))):
        assert findings_key(other) != usual
