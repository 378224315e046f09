"""Stage `tinyworld_pairs`: raw preference pairs of the small world, as JSON lines in `raw/`."""

from __future__ import annotations

import json

from pydantic import Field

from rayonale import storage
from rayonale.data import estimates
from rayonale.stages import Settings, Stage, StageContext, StageResult
from rayonale.tinyworld.pairs import PairSettings, generate_pairs


class TinyworldPairsSettings(Settings):
    """How many pairs, and how noisy their labels are; see `PairSettings` for the knobs."""

    size: int = Field(2_000, ge=1)
    seed: int = Field(0, ge=0)
    start: int = Field(0, ge=0, description="index of the first pair")
    flip_rate: float = Field(0.0, ge=0, le=1)
    length_bias: float = Field(0.0, ge=0)
    tie_rate: float = Field(0.0, ge=0, le=1)
    confidence_noise: float = Field(0.7, ge=0)
    system_rate: float = Field(0.0, ge=0, le=1)
    pairs_per_file: int = Field(50_000, ge=1)


def knobs_of(settings: TinyworldPairsSettings) -> PairSettings:
    """The knobs among the settings."""
    return PairSettings(
        settings.flip_rate,
        settings.length_bias,
        settings.tie_rate,
        settings.confidence_noise,
        settings.system_rate,
    )


def run(context: StageContext, settings: TinyworldPairsSettings) -> StageResult:
    """Draw preference pairs of the small world."""
    knobs = knobs_of(settings)
    for number, first in enumerate(range(0, settings.size, settings.pairs_per_file)):
        count = min(settings.pairs_per_file, settings.size - first)
        rows = generate_pairs(count, settings.seed, knobs, start=settings.start + first)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        uri = storage.join(context.out, "raw", f"pairs-{number:05d}.jsonl")
        storage.write_bytes(uri, text.encode())
    return StageResult(rows_out=settings.size)


STAGE = Stage(
    "tinyworld_pairs",
    TinyworldPairsSettings,
    run,
    adds=("prompt", "chosen", "rejected"),
    estimate=estimates.tinyworld_pairs,
)
