"""Reading grades, and what they do to a row."""

from __future__ import annotations

import pytest

from rayonale.enrich.grades import (
    CRITERIA,
    SCHEMA,
    GradeSettings,
    GradeTask,
    last_object,
    read_grades,
)
from rayonale.generate.settings import Completion
from rayonale.generate.stream import Rejection

GOOD = '{"helpfulness": 4, "relatedness": 5, "correctness": 5, "coherence": 4}'
LOW = '{"helpfulness": 4, "relatedness": 5, "correctness": 3, "coherence": 4}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Here are my grades:\n```json\n{GOOD}\n```",
        f"An example would be {LOW}. Mine: {GOOD}",
        GOOD.replace("4,", '"4",', 1),
        GOOD.replace("4,", "4.0,", 1),
        GOOD[:-1] + ', "remark": "fine {really}"}',
    ],
)
def test_readable_answers(text: str) -> None:
    assert read_grades(text) == {
        "helpfulness": 4,
        "relatedness": 5,
        "correctness": 5,
        "coherence": 4,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "All four are a 5.",
        GOOD[:-1],  # cut off
        GOOD.replace("4,", "6,", 1),
        GOOD.replace("4,", "4.5,", 1),
        GOOD.replace("4,", "true,", 1),
        GOOD.replace("4,", "null,", 1),
        GOOD.replace("helpfulness", "help"),
        f"{GOOD} No wait: {{}}",  # the last object counts, and it has no grades
        "[4, 5, 5, 4]",
    ],
)
def test_unreadable_answers_are_never_guessed(text: str) -> None:
    assert read_grades(text) is None


def test_last_object_is_the_outermost() -> None:
    assert last_object('{"a": {"b": 1}} and {"c": {"d": 2}}') == {"c": {"d": 2}}


def task(limit: int = 3) -> GradeTask:
    settings = GradeSettings(drop_at_or_below=limit)
    return GradeTask("", "t", settings, settings.sampling, SCHEMA)


def row(rationales: int) -> dict[str, object]:
    found = [{"text": f"r{i}", "chosen_first": True, "grades": None} for i in range(rationales)]
    return {"id": "a", "split": "train", "rationales": found}


def test_low_rationales_are_dropped_and_all_grades_kept_for_the_tally() -> None:
    collected = task().collect(row(3), [Completion(text=t) for t in (GOOD, LOW, "?")])
    assert isinstance(collected, dict)
    assert [each["text"] for each in collected["rationales"]] == ["r0"]
    assert [each["grades"] and each["grades"]["correctness"] for each in collected["graded"]] == [
        5,
        3,
        None,
    ]


def test_the_limit_is_inclusive_and_zero_drops_none() -> None:
    assert task(limit=2).collect(row(1), [Completion(text=LOW)])["rationales"]  # type: ignore[index]
    assert not task(limit=3).collect(row(1), [Completion(text=LOW)])["rationales"]  # type: ignore[index]


def test_nothing_readable_is_a_reject_with_the_judges_words() -> None:
    rejection = task().collect(row(1), [Completion(text="I like it")])
    assert isinstance(rejection, Rejection)
    assert (rejection.kind, rejection.reason) == ("invalid", "unreadable_grades")
    assert "I like it" in rejection.detail


def test_rows_without_rationales_pass() -> None:
    assert task().requests(row(0)) is None
    assert task().collect(row(0), []) == {"rationales": [], "graded": []}


def test_an_explanation_comes_first_in_the_schema_and_is_no_grade() -> None:
    schema = GradeSettings(explain=True).json_schema()
    assert schema is not None
    assert list(schema["properties"]) == ["explanation", *CRITERIA] == schema["required"]
    assert GradeSettings().json_schema() == SCHEMA
    assert GradeSettings(output="free").json_schema() is None
    assert read_grades('{"explanation": "1 of 5", ' + GOOD[1:]) == read_grades(GOOD)
    with pytest.raises(ValueError, match="explain: only structured output"):
        GradeSettings(explain=True, output="free")
