"""Stable ids and occurrences."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayonale.data import ids
from rayonale.data.fields import assistant, user

GOLDEN_KEY = "5793626174db834d7255a2b15917ede3"
GOLDEN_IDS = ["64fe4126b3a03887aa65a5fc10facf95", "3e4cdd1bde0392811ddece89abc2602d"]


def row(prompt="q", chosen="a", rejected="b", **columns):
    return {
        "prompt": [user(prompt)],
        "chosen": [assistant(chosen)],
        "rejected": [assistant(rejected)],
        **columns,
    }


def test_ids_are_these_for_ever():
    """A change of them would break every stored join: golden values."""
    key = ids.content_key(row(score_chosen=9.0, annotator="w1"), "pair")
    assert key.hex() == GOLDEN_KEY
    assert [ids.row_id(key, n) for n in (0, 1)] == GOLDEN_IDS


def test_what_counts():
    base = ids.content_key(row(), "pair")
    assert ids.content_key(row(metadata={"x": 1}, source="f", line=3, split="test"), "pair") == base
    assert ids.content_key(row(annotator=None, score_chosen=None), "pair") == base
    others = [
        row(prompt="r"),
        row(chosen="b", rejected="a"),
        row(annotator="w"),
        row(confidence=3.0),
        row(score_chosen=1.0),
        row(score_rejected=1.0),
    ]
    keys = {ids.content_key(other, "pair") for other in others}
    assert len(keys) == len(others) and base not in keys
    assert ids.content_key(row(), "labelled") != base


def test_texts_cannot_be_spelled_into_each_other():
    one = {"prompt": [user("a"), assistant("b"), user("c")]}
    other = {"prompt": [user("a\0prompt assistant 1\0b\0prompt user 1\0c")]}
    assert ids.content_key(one, "pair") != ids.content_key(other, "pair")


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(1, 20), st.integers(1, 7))
def test_repeats_counts_earlier_equal_keys(numbers, group_rows, batch):
    keys = [ids.key_of(str(number)) for number in numbers]

    def read():
        for start in range(0, len(keys), batch):
            yield ids.as_words(keys[start : start + batch])

    where, count = ids.repeats(read, len(keys), group_rows=group_rows)
    expected = [(i, numbers[:i].count(n)) for i, n in enumerate(numbers) if n in numbers[:i]]
    assert list(zip(where.tolist(), count.tolist(), strict=True)) == expected


def test_a_million_keys_in_shares():
    random = np.random.default_rng(0)
    words = random.integers(0, 2**63, size=(1_000_000, 2), dtype=np.uint64)
    words[999_999] = words[3]

    def read():
        yield from np.split(words, 10)

    where, count = ids.repeats(read, len(words), group_rows=300_000)
    assert (where.tolist(), count.tolist()) == ([999_999], [1])
