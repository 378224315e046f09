"""The rubric: hand-worked scores, and any string at all."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayonale.tinyworld import ATTRIBUTES, score
from rayonale.tinyworld.requests import PHRASINGS, Request, parse, render, sample_request
from rayonale.tinyworld.responses import write_response
from rayonale.tinyworld.rubric import verdict

PROMPT = (
    "Name three birds in alphabetical order in a calm tone. Use the word river. End with thanks."
)


@pytest.mark.parametrize(
    ("response", "attributes", "overall"),
    [
        # Everything as asked.
        (
            "Softly, here are crow, heron and swan by the river. Thank you.",
            (5, 5, 5, 5, 5, 5),
            10.0,
        ),
        # 2 of 3 fit: 1 + ⌊4 · 2/3⌋ = 3. crow < heron < saw is in order. (4+4+… = 22) / 24 · 9 + 1.
        ("Softly, here are crow, heron and saw by the river. Thank you.", (3, 5, 5, 5, 5, 5), 9.5),
        # One of two neighbours in order: 1 + ⌊4 · 1/2⌋ = 3.
        ("Softly, here are heron, crow and swan by the river. Thank you.", (5, 5, 3, 5, 5, 5), 9.5),
        # Two things, none in order, no tone word, plain end, no river: 1 + 9 · (4+2+0+1+0+0)/24.
        ("Well, here are swan and crow. That is all.", (5, 3, 1, 2, 1, 1), 3.5),
        # Thanks in the wrong place, another tone beside the asked one.
        (
            "First of all, thank you. Softly, sadly, here are crow, heron and swan by the river.",
            (5, 5, 5, 3, 3, 5),
            8.5,
        ),
        # Another tone only; a thing named twice costs a point of wording; five things for three.
        (
            "Alas, take crow, dove, heron, owl, swan and swan by the river. Thanks.",
            (5, 2, 5, 1, 5, 4),
            7.0,
        ),
        # Two unknown words cost two points of wording.
        ("Softly, crow, heron, swan, blorp, zig by the river. Thank you.", (5, 5, 5, 5, 5, 3), 9.5),
        # Plurals count as the thing.
        ("Gently, I see crows, herons and swans near the river. Thanks.", (5,) * 6, 10.0),
        ("", (1,) * 6, 1.0),
        ("  ... ", (1,) * 6, 1.0),
        # A word, but nothing asked for: no tone is 2, the rest 1. 1 + 9/24 = 1.375 → 1.5.
        ("日本", (1, 1, 1, 2, 1, 1), 1.5),
    ],
)
def test_scores_worked_by_hand(response: str, attributes: tuple[int, ...], overall: float) -> None:
    found = score(PROMPT, response)
    assert tuple(found.attributes.values()) == attributes
    assert tuple(found.attributes) == ATTRIBUTES
    assert found.overall == overall


def test_forbidden_word_question_and_reverse_order() -> None:
    prompt = (
        "Write a formal note with two tools in reverse alphabetical order. "
        "Avoid the word castle and end with a question."
    )
    good = score(prompt, "Respectfully, take saw and axe. Shall we go?")
    assert good.overall == 10.0
    bad = score(prompt, "Respectfully, take axe and saw near the castle. Shall we go? So it is!")
    assert list(bad.attributes.values()) == [5, 5, 1, 5, 3, 1]


def test_long_responses_lose_wording() -> None:
    core = "Softly, here are crow, heron and swan by the river. "
    filler = "It was a fine day. "
    assert score(PROMPT, core + filler * 5 + "Thank you.").attributes["wording"] == 5
    # 10 + 31 · 5 / 5 … : 10 + 50 + 2 words are 22 over the limit, which is five fives.
    assert score(PROMPT, core + filler * 10 + "Thank you.").attributes["wording"] == 1


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_string_is_scored_in_range(response: str) -> None:
    found = score(PROMPT, response)
    assert all(1 <= value <= 5 for value in found.attributes.values())
    assert 1.0 <= found.overall <= 10.0
    assert (found.overall * 2).is_integer()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, len(PHRASINGS) - 1))
def test_requests_come_back_from_their_text(seed: int, phrasing: int) -> None:
    request = sample_request(random.Random(seed))
    assert parse(render(request, phrasing)) == request
    assert parse("Target overall score: 8 of 10.\n" + render(request, phrasing)) == request


@pytest.mark.parametrize("text", ["", "What is the capital of France?", PROMPT + " " + PROMPT])
def test_a_foreign_prompt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a tinyworld prompt: found [02] requests .*expected"):
        score(text, "Softly, crow.")


def test_there_are_more_than_100_000_prompts() -> None:
    rng = random.Random(0)
    drawn = {render(sample_request(rng), rng.randrange(6)) for _ in range(30_000)}
    # From a world of N prompts, 30,000 draws give 30,000 − 30,000² / 2N distinct ones.
    assert len(drawn) > 30_000 - 30_000**2 / (2 * 150_000)


def test_quality_moves_the_score_from_bad_to_perfect() -> None:
    rng = random.Random(1)
    means = []
    for quality in (0.0, 0.5, 1.0):
        scores = []
        for _ in range(200):
            request = sample_request(rng)
            scores.append(score(render(request), write_response(request, rng, quality)).overall)
        means.append(sum(scores) / len(scores))
    assert means[0] < 5.5 < means[1] < 8 < means[2] == 10.0


def test_verdict_bounds() -> None:
    given_ = [1.0, 4.0, 4.5, 5.5, 6.0, 7.0, 7.5, 8.5, 9.0, 10.0]
    assert [verdict(value) for value in given_] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_request_is_a_value() -> None:
    request = Request("birds", 3, False, "calm", "thanks", "river", True)
    assert render(request) == PROMPT
