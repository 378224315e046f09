"""Splits that share no prompt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rayonale.data import ids, splits
from rayonale.data.fields import assistant, user
from rayonale.data.splits import Splits


def split(prompt, settings=None):
    settings = settings or Splits()
    return splits.split_of(splits.prompt_key(prompt, settings), settings)


def test_shares_are_kept():
    settings = Splits(train=0.7, validation=0.1, test=0.2)
    found = [split([user(f"prompt {i}")], settings) for i in range(10_000)]
    for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert abs(found.count(name) / 10_000 - share) < 0.015  # 3 standard errors


def test_extremes():
    prompts = [[user(str(i))] for i in range(50)]
    for name in splits.NAMES:
        settings = Splits(**{other: float(other == name) for other in splits.NAMES})
        assert {split(prompt, settings) for prompt in prompts} == {name}


@given(st.text(), st.text(alphabet=" \n\t", min_size=1))
def test_case_white_space_and_system_text_do_not_matter(text, space):
    key = splits.prompt_key([user(text)], Splits())
    changed = space + text.replace(" ", space + " ") + space
    assert splits.prompt_key([user(changed)], Splits()) == key
    system = {"role": "system", "content": "Be brief."}
    assert splits.prompt_key([system, user(text)], Splits()) == key
    if text.upper().casefold() == text.casefold():
        assert splits.prompt_key([user(text.upper())], Splits()) == key


def test_salt_and_roles_matter():
    prompt = [user("a"), assistant("b"), user("c")]
    key = splits.prompt_key(prompt, Splits())
    assert key != splits.prompt_key(prompt, Splits(salt="other"))
    assert key != splits.prompt_key([user("a"), user("b"), user("c")], Splits())


def test_by_first_turn_keeps_continued_conversations_together():
    one, longer = [user("a")], [user("a"), assistant("b"), user("c")]
    settings = Splits(by="first_turn")
    assert splits.prompt_key(one, settings) == splits.prompt_key(longer, settings)
    assert splits.prompt_key(one, Splits()) != splits.prompt_key(longer, Splits())


def test_a_larger_training_share_takes_from_validation_first():
    few = Splits(train=0.5, validation=0.3, test=0.2)
    many = Splits(train=0.8, validation=0, test=0.2)
    for i in range(500):
        before, after = split([user(str(i))], few), split([user(str(i))], many)
        assert (before == "test") == (after == "test")


def test_shares_add_up():
    with pytest.raises(ValidationError, match="found 1.1, expected 1"):
        Splits(train=0.9, validation=0.1, test=0.1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=40))
def test_leaks_finds_each_prompt_in_a_second_split(rows):
    words = ids.as_words([ids.key_of(str(prompt)) for prompt, _ in rows])
    numbers = np.array([number for _, number in rows], dtype=np.uint8)

    def read():
        yield words

    found = splits.leaks(read, numbers, len(rows)).tolist()
    seen: dict[int, set[int]] = {}
    expected = []
    for place, (prompt, number) in enumerate(rows):
        if prompt in seen and number not in seen[prompt]:
            expected.append(place)
        seen.setdefault(prompt, set()).add(number)
    assert found == expected
