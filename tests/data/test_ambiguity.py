"""Edit distances, the splits at the medians, repeated labels; the real TL;DR files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale import storage
from rayonale.data import ambiguity, edit_distance, ingest
from rayonale.data.ambiguity import AmbiguitySettings
from rayonale.records import PAIR
from rayonale.stages import StageContext, StageOutput

TOKENS = st.lists(st.integers(0, 3), max_size=12)


def table(first: list[int], second: list[int]) -> int:
    """The textbook's dynamic programme (Wagner & Fischer 1974)."""
    above = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        row = [i]
        for j, b in enumerate(second, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
        above = row
    return above[-1]


@given(TOKENS, TOKENS)
def test_distance_is_the_textbooks(first: list[int], second: list[int]) -> None:
    assert edit_distance.distance(first, second) == table(first, second)


def test_distance_by_hand() -> None:
    assert edit_distance.distance("kitten", "sitting") == 3
    assert edit_distance.normalised(["a", "b", "c", "d"], ["a", "x", "c"]) == 0.5  # b → x, d gone
    assert edit_distance.normalised([], []) == 0
    assert edit_distance.normalised([], ["a"]) == 1
    assert edit_distance.distance(list(range(500)), list(range(1, 501))) == 2  # over 64 bits


def context(out: Path, rows: str, role: str = "rows") -> StageContext:
    run = SimpleNamespace(log_metrics=lambda values, step=None: None)
    inputs = {role: StageOutput("rows", rows, "abc")} if rows else {}
    return StageContext("ambiguity", str(out), inputs, None, "f" * 32, "c" * 32, run)  # type: ignore[arg-type]


def pair(number: int, chosen: str, rejected: str, confidence: float | None, **more: Any) -> dict:
    row = {
        "id": f"{number:032x}",
        "split": "train",
        "source": "test",
        "line": number,
        "format": "test",
        "annotator": f"a{number}",
        "occurrence": 0,
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "score_chosen": None,
        "score_rejected": None,
        "confidence": confidence,
        "metadata": "{}",
    }
    return row | more


ROWS = [
    pair(1, "a b c d", "a b c x", 9),  # distance ¼
    pair(2, "a b c d", "w x y z", 8),  # 1
    pair(3, "a b", "a x", 5),  # ½: the median of both
    pair(4, "a b c d", "a b c y", 1),  # ¼
    pair(5, "a b c d", "w x y q", 2, split="test"),  # 1
    pair(6, "a b c x", "a b c d", 5),  # the first pair again, labelled the other way round
    pair(7, "w x y z", "a b c d", None),  # the second one, by an annotator without confidence
]


def test_splits_at_the_medians_by_hand(tmp_path: Path) -> None:
    """Confidences 9 8 5 1 2 5 have the median 5; distances ¼ 1 ½ ¼ 1 ¼ 1 the median ½."""
    storage.write_rows(str(tmp_path / "in"), ROWS, PAIR)
    result = ambiguity.run(context(tmp_path, str(tmp_path / "in")), AmbiguitySettings())
    found = list(storage.read_rows(str(tmp_path / "rows")))
    names = [row["ambiguity"] for row in found]
    assert names == ["hc_le", "hc_he", None, "lc_le", "lc_he", None, None]
    assert [row["labels"] for row in found] == [2, 2, 1, 1, 1, 2, 2]
    assert [row["ambiguous"] for row in found] == [True, True, None, None, None, True, True]
    assert found[0]["agreement"] == 0.5
    everything, confident, unsure = result.details["splits"]
    assert everything["rows"] == 6 and everything["confidence"] == 5  # without the unknown one
    assert (everything["rows_train"], everything["rows_test"]) == (5, 1)
    assert (confident["rows"], confident["confidence"], confident["edit_distance"]) == (1, 8, 1)
    assert (unsure["rows"], unsure["confidence"], unsure["edit_distance"]) == (1, 1, 0.25)
    agreement = result.details["agreement"]
    assert agreement == {"pairs": 5, "repeated": 2, "pairwise": 0, "unanimous": 0, "ambiguous": 2}


def test_one_split_alone_and_the_rest_counted(tmp_path: Path) -> None:
    storage.write_rows(str(tmp_path / "in"), ROWS, PAIR)
    settings = AmbiguitySettings(keep="hc_he", ties="high")
    result = ambiguity.run(context(tmp_path, str(tmp_path / "in")), settings)
    kept = [row["line"] for row in storage.read_rows(str(tmp_path / "rows"))]
    assert kept == [2, 3]  # 3 lies at both medians
    assert result.rejects == {"filtered": {"other_split": 5}}


def test_pairwise_agreement_by_hand() -> None:
    """Three labels to one: 3 of the 6 pairs of labels agree."""
    assert ambiguity.Labels(3, 1).agreeing == (3, 6)
    assert ambiguity.Labels(3, 1).agreement == 0.75


def test_without_confidences_there_is_nothing_to_cut(tmp_path: Path) -> None:
    storage.write_rows(str(tmp_path / "in"), [pair(1, "a", "b", None)], PAIR)
    with pytest.raises(ValueError, match="no row of .* has a confidence"):
        ambiguity.run(context(tmp_path, str(tmp_path / "in")), AmbiguitySettings())


def test_real_tldr(shared_data: Path, tmp_path: Path) -> None:
    sources = [
        {"uri": str(shared_data / "tldr" / f"comparisons_{name}.jsonl"), "format": "tldr"}
        for name in ("batch18", "cnndm0")
    ]
    settings = ingest.STAGE.settings.model_validate({"sources": sources})
    taken = ingest.run(context(tmp_path / "pairs", ""), settings)
    rows = str(tmp_path / "pairs" / "rows")
    result = ambiguity.run(context(tmp_path / "out", rows), AmbiguitySettings())
    assert result.rows_in == taken.rows_out
    everything, confident, unsure = result.details["splits"]
    assert confident["confidence"] > everything["confidence"] > unsure["confidence"]
    assert confident["edit_distance"] > everything["edit_distance"] > unsure["edit_distance"]
    agreement = result.details["agreement"]
    assert agreement["repeated"] == 88  # of 696 pairs, as counted in the files
    assert 0.5 < agreement["pairwise"] < 1
