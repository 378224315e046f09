"""Pairs: deterministic, stable under size, and each knob does what it says."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayonale.tinyworld import PairSettings, generate_pairs, score, write_jsonl

SIZE = 1500


def rows(**knobs: float) -> list[dict[str, Any]]:
    return list(generate_pairs(SIZE, seed=3, settings=PairSettings(**knobs)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 6), st.integers(0, 6))
def test_a_row_depends_on_seed_and_index_only(seed: int, size: int, start: int) -> None:
    longer = list(generate_pairs(12, seed))
    assert list(generate_pairs(size, seed)) == longer[:size]
    assert list(generate_pairs(size, seed, start=start)) == longer[start : start + size]


def test_a_literal_row() -> None:
    """Changing this row voids every figure measured on tinyworld data."""
    (row,) = generate_pairs(1, seed=3)
    assert row["prompt"] == (
        "Write a sad note with five birds in reverse alphabetical order. "
        "Avoid the word kitchen and end with thanks."
    )
    assert row["response_a"] == (
        "What a lovely day, we have swan, robin, owl, heron, finch and dove. That took some "
        "thought. So be it."
    )
    assert (row["score_a"], row["score_b"], row["preferred"]) == (6.5, 7.0, "b")


def test_scores_are_the_rubrics_and_labels_follow_them_without_noise() -> None:
    for row in rows():
        for side in "ab":
            truth = score(row["prompt"], row[f"response_{side}"])
            assert row[f"score_{side}"] == truth.overall
            assert row[f"attributes_{side}"] == truth.attributes
        if row["score_a"] != row["score_b"]:
            assert (row["preferred"] == "a") == (row["score_a"] > row["score_b"])
        assert row["response_a"] != row["response_b"]
        assert not row["flipped"]
        assert "system" not in row


def test_all_qualities_occur() -> None:
    scores = [row["score_a"] for row in rows()]
    for low, high in ((1, 4), (4, 6), (6, 8), (8, 10)):
        assert sum(low <= value <= high for value in scores) > 0.1 * SIZE


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_flip_rate(rate: float) -> None:
    plain, noisy = rows(), rows(flip_rate=rate)
    for before, after in zip(plain, noisy, strict=True):
        assert (before["preferred"] != after["preferred"]) == after["flipped"]
        assert {**before, "preferred": 0, "flipped": 0} == {**after, "preferred": 0, "flipped": 0}
    # Three standard errors of a share.
    assert abs(mean(r["flipped"] for r in noisy) - rate) <= 3 * (rate * (1 - rate) / SIZE) ** 0.5


def test_tie_rate() -> None:
    def ties(found: list[dict[str, Any]]) -> float:
        return mean(row["score_a"] == row["score_b"] for row in found)

    by_chance = ties(rows())
    assert by_chance < 0.13
    expected = 0.4 + 0.6 * by_chance
    assert abs(ties(rows(tie_rate=0.4)) - expected) < 0.05
    every = rows(tie_rate=1.0)
    assert ties(every) == 1
    assert 0.45 < mean(row["preferred"] == "a" for row in every) < 0.55


def test_length_bias_prefers_the_longer_of_equals_and_then_of_near_equals() -> None:
    def longer_preferred(found: list[dict[str, Any]]) -> float:
        shares = []
        for row in found:
            lengths = {side: len(row[f"response_{side}"].split()) for side in "ab"}
            if lengths["a"] != lengths["b"]:
                shares.append(row["preferred"] == max(lengths, key=lambda side: lengths[side]))
        return mean(shares)

    assert longer_preferred(rows(tie_rate=1.0, length_bias=0.1)) == 1
    assert 0.44 < longer_preferred(rows(tie_rate=1.0)) < 0.56
    shares = [longer_preferred(rows(length_bias=bias)) for bias in (0.0, 2.0, 20.0)]
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.9


def test_confidence_grows_with_the_gap() -> None:
    by_gap = defaultdict(list)
    for row in rows():
        assert 1 <= row["confidence"] <= 9
        by_gap[min(6, int(abs(row["score_a"] - row["score_b"])))].append(row["confidence"])
    means = [mean(by_gap[gap]) for gap in sorted(by_gap)]
    assert means == sorted(means)
    assert means[0] < 2.5
    assert means[-1] > 8
    exact = rows(confidence_noise=0.0)
    pairs = sorted((abs(r["score_a"] - r["score_b"]), r["confidence"]) for r in exact)
    assert [c for _, c in pairs] == sorted(c for _, c in pairs)


def test_system_prompts_and_annotators() -> None:
    found = rows(system_rate=0.3)
    assert 0.25 < mean("system" in row for row in found) < 0.35
    assert len({row["annotator"] for row in found}) == 5


def test_write_jsonl_round_trips(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    assert write_jsonl(file, generate_pairs(5)) == 5
    assert [json.loads(line) for line in file.read_text("utf-8").splitlines()] == list(
        generate_pairs(5)
    )


@pytest.mark.parametrize("knobs", [{"flip_rate": 1.2}, {"tie_rate": -0.1}, {"length_bias": -1.0}])
def test_knobs_out_of_range_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(knobs))}: found .*expected"):
        PairSettings(**knobs)
