"""Preference pairs of tinyworld: responses of all qualities, labelled by a noisy annotator.

One raw row (the data format "tinyworld"):

    {"prompt": "Name two birds in alphabetical order in a calm tone. …",
     "response_a": "Softly, here are crow and owl. Thank you.",
     "response_b": "Well, I see owl and crow by the river.",
     "preferred": "a",               what the annotator said
     "score_a": 9.5, "score_b": 5.0, true overall, 1.0–10.0
     "attributes_a": {"kind": 5, …}, "attributes_b": {…},  true, 1–5
     "confidence": 8,                1–9, grows with the true gap
     "flipped": false,               whether noise turned the label round
     "annotator": "annotator-2",
     "system": "You are a helpful assistant."}            only in a share of rows
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rayonale.tinyworld.requests import PHRASINGS, Request, render, sample_request
from rayonale.tinyworld.responses import write_response
from rayonale.tinyworld.rubric import Score, score
from rayonale.tinyworld.tasks import SYSTEM_PROMPTS
from rayonale.tinyworld.vocabulary import FILLERS

ANNOTATORS: Final = 5
# Gap of true overall from which an annotator without doubt is at confidence 9.
SURE_GAP: Final = 6.0


@dataclass(frozen=True)
class PairSettings:
    """Knobs of the generator; all are seeded.

    Attributes:
        flip_rate: share of labels turned round at random, whatever the gap, 0–1.
        length_bias: points of true score that ten words more are worth to the
            annotator; any value above 0 makes the longer of two equal ones preferred.
        tie_rate: share of pairs whose responses have equal true scores, at least
            (chance adds about 4 %), 0–1.
        confidence_noise: standard deviation of the confidence around its
            expectation, in confidence steps.
        system_rate: share of rows that carry a system prompt, 0–1.
    """

    flip_rate: float = 0.0
    length_bias: float = 0.0
    tie_rate: float = 0.0
    confidence_noise: float = 0.7
    system_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip_rate", "tie_rate", "system_rate"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: found {value}, expected a share from 0 to 1")
        for name in ("length_bias", "confidence_noise"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: found {value}, expected 0 or more")


def generate_pairs(
    size: int, seed: int = 0, settings: PairSettings | None = None, start: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield raw rows `start` … `start + size − 1` of a seed, one at a time.

    Row i depends on the seed, the settings and i only, not on the size.
    """
    if size < 0 or start < 0:
        raise ValueError(f"size and start: found {size} and {start}, expected 0 or more")
    knobs = settings or PairSettings()
    return (pair_row(seed, index, knobs) for index in range(start, start + size))


def pair_row(seed: int, index: int, settings: PairSettings) -> dict[str, Any]:
    """The raw row of an index (drawn on top of this file)."""
    rng = random.Random(f"tinyworld pairs {seed} {index}")
    request = sample_request(rng)
    prompt = render(request, rng.randrange(len(PHRASINGS)))
    tied = rng.random() < settings.tie_rate
    text_a = write_response(request, rng)
    text_b = _equal_response(prompt, text_a, rng) if tied else _other_response(request, text_a, rng)
    score_a, score_b = score(prompt, text_a), score(prompt, text_b)
    liking = _liking(text_a, text_b, score_a, score_b, settings.length_bias)
    a_wins = liking > 0 or (liking == 0 and rng.random() < 0.5)
    # Each knob draws from a source of its own, so that turning one leaves the others alone.
    flipped = _share(seed, index, "flip") < settings.flip_rate
    row: dict[str, Any] = {
        "prompt": prompt,
        "response_a": text_a,
        "response_b": text_b,
        "preferred": "a" if a_wins != flipped else "b",
        "score_a": score_a.overall,
        "score_b": score_b.overall,
        "attributes_a": score_a.attributes,
        "attributes_b": score_b.attributes,
        "confidence": _confidence(abs(score_a.overall - score_b.overall), settings, seed, index),
        "flipped": flipped,
        "annotator": f"annotator-{random.Random(f'{seed} {index}').randrange(ANNOTATORS)}",
    }
    if _share(seed, index, "system") < settings.system_rate:
        row["system"] = SYSTEM_PROMPTS[index % len(SYSTEM_PROMPTS)]
    return row


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as UTF-8 JSON lines, one at a time; returns how many."""
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _share(seed: int, index: int, knob: str) -> float:
    return random.Random(f"tinyworld {knob} {seed} {index}").random()


def _other_response(request: Request, text: str, rng: random.Random) -> str:
    while True:
        other = write_response(request, rng)
        if other != text:
            return other


def _equal_response(prompt: str, text: str, rng: random.Random) -> str:
    """Another text of equal attributes: the same with a neutral sentence more or less."""
    for filler in FILLERS:
        if filler in text:
            return text.replace(f" {filler}", "", 1)
    wanted = score(prompt, text)
    for filler in rng.sample(FILLERS, len(FILLERS)):
        head, stop, tail = text.partition(". ")
        longer = f"{head}. {filler} {tail}" if stop else f"{filler} {text}"
        if score(prompt, longer) == wanted:
            return longer
    raise AssertionError(f"no sentence is neutral in {text!r}")


def _liking(text_a: str, text_b: str, a: Score, b: Score, length_bias: float) -> float:
    """How far the annotator likes a more than b, in points of overall."""
    words = len(text_a.split()) - len(text_b.split())
    return a.overall - b.overall + length_bias * words / 10


def _confidence(gap: float, settings: PairSettings, seed: int, index: int) -> int:
    noise = random.Random(f"tinyworld confidence {seed} {index}").gauss(0, 1)
    expected = 1 + 8 * min(1.0, gap / SURE_GAP)
    return min(9, max(1, round(expected + settings.confidence_noise * noise)))
