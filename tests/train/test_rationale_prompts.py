"""The rationale's prompt: its order, and names that follow it."""

import pytest

from rayonale.train.rationale_prompts import RationaleRejected, exchange_names, rationale_example
from rayonale.train.settings import RationalePrompt


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "Response A keeps the order, but response B does not.",
            "Response B keeps the order, but response A does not.",
        ),
        (
            "A robin is named by answer 1; Answer 2 names none.",
            "A robin is named by answer 2; Answer 1 names none.",
        ),
        (
            "The first response is short, the Second one long.",
            "The second response is short, the First one long.",
        ),
        ("The former is kind, the latter rude.", "The latter is kind, the former rude."),
        ("It names swan first. Response A wins.", "It names swan first. Response B wins."),
        ("Option B fits 2 of 3 parts.", "Option A fits 2 of 3 parts."),
    ],
)
def test_names_are_exchanged(before: str, after: str) -> None:
    assert exchange_names(before) == after
    assert exchange_names(after) == before


def row(text: str = "Response A wins.", chosen_first: bool = True) -> dict:
    def say(words: str) -> list[dict]:
        return [{"role": "assistant", "content": words}]

    return {
        "id": "7",
        "prompt": [{"role": "user", "content": "Q"}],
        "chosen": say("good"),
        "rejected": say("bad"),
        "rationales": [{"text": text, "chosen_first": chosen_first}],
    }


@pytest.fixture
def why(template: str):
    return lambda order: RationalePrompt(template=template, order=order)


def test_generated_order_is_kept(why) -> None:
    prompt, response = rationale_example(row(chosen_first=False), why("generated"), seed=0)
    assert prompt == [{"role": "user", "content": "Q A: bad B: good Why?"}]
    assert response == [{"role": "assistant", "content": "Response A wins."}]


def test_chosen_first_turns_prompt_and_rationale(why) -> None:
    prompt, response = rationale_example(row("Response B wins.", False), why("chosen_first"), 0)
    assert prompt[0]["content"] == "Q A: good B: bad Why?"
    assert response[0]["content"] == "Response A wins."


def test_shuffled_is_seeded_and_stays_true(why) -> None:
    seen = set()
    for seed in range(20):
        prompt, response = rationale_example(row(), why("shuffled"), seed)
        assert (prompt, response) == rationale_example(row(), why("shuffled"), seed)
        seen.add((prompt[0]["content"], response[0]["content"]))
    assert seen == {
        ("Q A: good B: bad Why?", "Response A wins."),
        ("Q A: bad B: good Why?", "Response B wins."),
    }


def test_a_prompt_that_follows_chosen_goes_on_from_it() -> None:
    """The chosen response is A there; names are exchanged where it was B."""
    settings = RationalePrompt(follows="chosen")
    for given in (row(), row("Response B wins.", False)):
        prompt, response = rationale_example(given, settings, seed=0)
        assert prompt[:2] == [*given["prompt"], *given["chosen"]]
        assert [message["role"] for message in prompt] == ["user", "assistant", "user"]
        assert "[Response B]\nbad\n" in prompt[2]["content"] and "good" not in prompt[2]["content"]
        assert response == [{"role": "assistant", "content": "Response A wins."}]
    with pytest.raises(RationaleRejected, match="cannot follow a changed order"):
        rationale_example(row("The following answer is rude.", False), settings, 0)


@pytest.mark.parametrize("text", ["The response above is short.", "The following answer is rude."])
def test_words_that_cannot_follow_are_rejected(why, text: str) -> None:
    with pytest.raises(RationaleRejected) as found:
        rationale_example(row(text, False), why("chosen_first"), 0)
    assert found.value.reason == "unclear_reference"
    assert rationale_example(row(text, False), why("generated"), 0)  # no change, no doubt


@pytest.mark.parametrize("rationales", [None, [], [{"text": "  ", "chosen_first": True}]])
def test_no_rationale_is_told(why, rationales) -> None:
    with pytest.raises(RationaleRejected) as found:
        rationale_example({**row(), "rationales": rationales}, why("generated"), 0)
    assert found.value.reason == "no_rationale"
