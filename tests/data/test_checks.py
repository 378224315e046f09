"""Rules of rows: each with the row that breaks it and the words that tell it."""

import pytest

from rayonale.data import checks
from rayonale.data.fields import BadRow, assistant, user
from rayonale.records import RejectKind


def pair(prompt=None, chosen="a", rejected="b", **columns):
    return {
        "prompt": prompt or [user("q")],
        "chosen": [assistant(chosen)],
        "rejected": [assistant(rejected)],
        **columns,
    }


def system(text="s"):
    return {"role": "system", "content": text}


@pytest.mark.parametrize(
    "prompt",
    [[user("q")], [system(), user("q")], [user("q"), assistant("a"), user("r")]],
)
def test_good_prompts(prompt):
    checks.check_row(pair(prompt), "pair")


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ([assistant("a")], "assistant"),
        ([assistant("a"), user("q")], "assistant, user"),
        ([user("q"), user("r")], "user, user"),
        ([user("q"), assistant("a")], "user, assistant"),
        ([user("q"), assistant("a"), assistant("b"), user("r")], "user, assistant, assistant"),
        ([system()], "system"),
        ([user("q"), system(), user("r")], "user, system, user"),
        ([system(), system(), user("q")], "system, system, user"),
    ],
)
def test_wrong_roles(prompt, found):
    with pytest.raises(BadRow, match=f"found {found}") as caught:
        checks.check_row(pair(prompt), "pair")
    assert caught.value.reason == "wrong_roles"


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_blank_messages(blank):
    for row in (
        pair([user(blank)]),
        pair([system(blank), user("q")]),
        pair(chosen=blank),
        pair(rejected=blank),
    ):
        with pytest.raises(BadRow) as caught:
            checks.check_row(row, "pair")
        assert caught.value.reason == "empty_field"


def test_responses_are_one_assistant_message():
    for response in ([], [user("a")], [assistant("a"), assistant("b")]):
        with pytest.raises(BadRow, match="expected one assistant message") as caught:
            checks.check_row({**pair(), "chosen": response}, "pair")
        assert caught.value.reason == "wrong_roles"


def test_chosen_equals_rejected_but_for_outer_white_space():
    for rejected in ("same", " same\n"):
        with pytest.raises(BadRow) as caught:
            checks.check_row(pair(chosen="same", rejected=rejected), "pair")
        assert caught.value.reason == "chosen_equals_rejected"
    checks.check_row(pair(chosen="same", rejected="Same"), "pair")


def test_equal_scores_are_filtered_and_missing_ones_are_not():
    for scores in ((None, None), (1.0, None), (None, 1.0), (1.0, 2.0)):
        checks.check_scores(pair(score_chosen=scores[0], score_rejected=scores[1]))
    with pytest.raises(BadRow) as caught:
        checks.check_scores(pair(score_chosen=3.0, score_rejected=3.0))
    assert (caught.value.reason, caught.value.kind) == ("equal_scores", RejectKind.FILTERED)


def test_limits_in_characters_are_inclusive():
    row = pair([system("12"), user("345")], chosen="1234", rejected="12345")
    checks.check_chars(row, "pair", checks.Limits(max_prompt_chars=5, max_response_chars=5))
    with pytest.raises(BadRow, match="prompt: found 5 characters, at most 4") as caught:
        checks.check_chars(row, "pair", checks.Limits(max_prompt_chars=4))
    assert (caught.value.reason, caught.value.kind) == ("over_long", RejectKind.LIMIT)
    with pytest.raises(BadRow, match="rejected: found 5 characters, at most 4"):
        checks.check_chars(row, "pair", checks.Limits(max_response_chars=4))


def test_limits_in_tokens():
    def encode_prompt(prompt):
        return [0] * len(prompt[0]["content"])

    def encode_response(prompt, response):
        return [0] * len(response[0]["content"])

    row = pair([user("123")], chosen="12", rejected="1234")
    for limits in (checks.Limits(max_prompt_tokens=3, max_tokens=7), checks.Limits()):
        checks.check_tokens(row, "pair", limits, encode_prompt, encode_response)
    with pytest.raises(BadRow, match=r"prompt \+ rejected: found 7 tokens, at most 6"):
        checks.check_tokens(
            row, "pair", checks.Limits(max_tokens=6), encode_prompt, encode_response
        )
    with pytest.raises(BadRow, match="prompt: found 3 tokens, at most 2"):
        checks.check_tokens(
            row, "pair", checks.Limits(max_prompt_tokens=2), encode_prompt, encode_response
        )


def test_other_row_types():
    labelled = {"prompt": [user("q")], "response": [assistant("a")], "label": True}
    checks.check_row(labelled, "labelled")
    with pytest.raises(BadRow):
        checks.check_row({**labelled, "response": [user("a")]}, "labelled")
    ranked = {"prompt": [user("q")], "responses": [[assistant("a")], [assistant("")]]}
    with pytest.raises(BadRow, match=r"responses\[1\]: the response is empty"):
        checks.check_row(ranked, "ranked_list")
