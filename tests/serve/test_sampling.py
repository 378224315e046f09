"""From the engine's tokens to text, whole and in parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayonale.data import tokens
from rayonale.serve.messages import Ask
from rayonale.serve.sampling import Part

TOKENIZER = tokens.load_tokenizer("tinyworld")
STOP = tokens.stop_token_ids(TOKENIZER)


def output(ids: list[int], finished: bool, reason: str = "stop") -> Any:
    """What vLLM tells of a sample."""
    drawn = SimpleNamespace(
        token_ids=ids, logprobs=None, text="", finish_reason=reason if finished else None
    )
    return SimpleNamespace(outputs=[drawn], finished=finished)


@settings(max_examples=60, deadline=None)
@given(
    st.text(min_size=1, max_size=60),
    st.lists(st.integers(1, 4), min_size=1, max_size=30),
    st.booleans(),
)
def test_parts_put_together_are_the_whole(text: str, steps: list[int], stopped: bool) -> None:
    ids = tokens.encode_text(TOKENIZER, text)
    ids = [i for i in ids if i not in STOP] + (STOP[:1] if stopped else [])
    part, pieces, place = Part(TOKENIZER, STOP, Ask("x"), 0), [], 0
    while place < len(ids) or not pieces:
        step = steps[len(pieces) % len(steps)]
        place += step
        part.take(output(ids[place - step : place], place >= len(ids)))
        pieces.append(part.flush())
    kept = [i for i in ids if i not in STOP]
    assert "".join(piece.text for piece in pieces) == TOKENIZER.decode(
        kept, skip_special_tokens=True
    )
    assert sum(piece.tokens for piece in pieces) == len(ids)
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == "stop" and part.told and not part.news


def test_a_sample_that_is_cut_says_so() -> None:
    part = Part(TOKENIZER, STOP, Ask("x"), 2)
    part.take(output(tokens.encode_text(TOKENIZER, "robin"), True, "length"))
    piece = part.flush()
    assert (piece.index, piece.finish_reason) == (2, "length")
