"""Stage `tinyworld_lists`: scored lists of the small world, as JSON lines in `raw/`.

One raw row (the data format "scored_list"); scores are the true ones, 1.0–10.0:

    {"prompt": "Name two birds in alphabetical order in a calm tone. …",
     "responses": ["Softly, here are crow and owl. Thank you.", "Well, I see owl and crow."],
     "scores": [9.5, 5.0]}
"""

from __future__ import annotations

import json
import random
from typing import Any

from pydantic import Field

from rayonale import storage
from rayonale.data import estimates
from rayonale.stages import Settings, Stage, StageContext, StageResult
from rayonale.tinyworld.requests import PHRASINGS, render, sample_request
from rayonale.tinyworld.responses import write_response
from rayonale.tinyworld.rubric import score


class TinyworldListsSettings(Settings):
    """How many lists, and how many different responses each has."""

    size: int = Field(1_000, ge=1)
    responses: int = Field(4, ge=1, le=64)
    seed: int = Field(0, ge=0)


def list_row(seed: int, index: int, responses: int) -> dict[str, Any]:
    """The raw row of an index; depends on nothing else."""
    rng = random.Random(f"tinyworld lists {seed} {index}")
    request = sample_request(rng)
    prompt = render(request, rng.randrange(len(PHRASINGS)))
    texts: list[str] = []
    while len(texts) < responses:
        text = write_response(request, rng)
        if text not in texts:
            texts.append(text)
    scores = [float(score(prompt, text).overall) for text in texts]
    return {"prompt": prompt, "responses": texts, "scores": scores}


def run(context: StageContext, settings: TinyworldListsSettings) -> StageResult:
    """Draw scored lists of the small world."""
    rows = (list_row(settings.seed, index, settings.responses) for index in range(settings.size))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_bytes(storage.join(context.out, "raw", "lists.jsonl"), text.encode())
    return StageResult(rows_out=settings.size)


STAGE = Stage(
    "tinyworld_lists",
    TinyworldListsSettings,
    run,
    adds=("prompt", "responses"),
    estimate=estimates.tinyworld_lists,
)
