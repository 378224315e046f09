"""Scored lists of the small world."""

from rayonale.data import checks
from rayonale.data.formats import detect
from rayonale.tinyworld.lists import list_row
from rayonale.tinyworld.rubric import score


def test_lists_have_different_responses_with_true_scores() -> None:
    rows = [list_row(3, index, 5) for index in range(20)]
    for row in rows:
        assert len(set(row["responses"])) == 5
        assert row["scores"] == [score(row["prompt"], text).overall for text in row["responses"]]
        layout = detect([row], "lists.jsonl")
        assert layout.name == "scored_list"
        checks.check_row(layout.convert(row), layout.row_type)
    assert len({row["prompt"] for row in rows}) > 10
    assert rows[4] == list_row(3, 4, 5)
