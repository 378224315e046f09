"""Outputs of a small sweep with numbers that can be worked out by hand.

Every answer of the SFT model scores 5; a cell's answers score 6 on its first k prompts of 40 and 4
on the others, so its win rate against SFT is k/40, and of two cells the one with the larger k wins
exactly on the prompts between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.report.realistic import write_stage

from rayonale.evaluate import summary
from rayonale.evaluate.comparisons import ROWS
from rayonale.evaluate.margins import ROWS as MARGINS
from rayonale.stages import StageOutput

PROMPTS = 40
# (method, size) → k of seed 1 and of seed 2
WINS = {
    ("dpo", 100): (20, 20), ("dpo", 400): (24, 28),
    ("rdpo", 100): (22, 26), ("rdpo", 400): (28, 32),
    ("permuted", 400): (16, 20),
}  # fmt: skip
LENGTHS = {"dpo": 14, "rdpo": 10, "permuted": 12}
SECONDS = {"dpo": 10.0, "rdpo": 20.0, "permuted": 20.0}
CELLS = [
    {"policy": f"{method}_{size}_s{seed}", "method": method, "size": size, "seed": seed}
    for method, size in WINS
    for seed in (1, 2)
]


def outputs(folder: Path) -> dict[str, Any]:
    """Inputs of a study stage by role."""
    sft = write_stage(folder, "sft", "train", settings={"loss": {"name": "sft"}}, rows_out=900)
    trained = {cell["policy"]: train(folder, cell, sft) for cell in CELLS}
    sampled = [
        write_stage(folder, f"samples_{name}", "samples", {"model": model})
        for name, model in {"sft": sft, **trained}.items()
    ]
    rows = [row for cell in CELLS for row in compared(cell)]
    judges = [{"kind": "scorer", "name": "tinyworld_rubric", "tie_margin": 0.0}]
    win_rates = write_stage(
        folder, "win_rates", "win_rates", {"samples": sampled}, rows=(rows, ROWS),
        settings={"judges": judges}, rejects=[],
        details={
            "policies": ["sft", *trained],
            "judges": [{"judge": "tinyworld_rubric", "kind": "scorer"}],
            "win_rates": summary.win_rates(rows, []), "scores": summary.scores(rows),
        },
    )  # fmt: skip
    return {
        "win_rates": [win_rates], "policies": list(trained.values()),
        "margins": [margins(folder, trained)],
    }  # fmt: skip


def train(folder: Path, cell: dict[str, Any], sft: StageOutput) -> StageOutput:
    """A cell's training: seed 2 takes a tenth longer."""
    seconds = SECONDS[cell["method"]] * (1 + 0.1 * (cell["seed"] - 1))
    loss = {"name": "rdpo" if cell["method"] != "dpo" else "dpo", "beta": 0.1}
    steps = list(range(1, 4))
    return write_stage(
        folder, cell["policy"], "train", {"model": sft}, rows_in=cell["size"],
        rows_out=cell["size"], settings={"loss": loss}, metrics={"train_seconds": seconds},
        details={"loss": loss, "curves": {"step": steps, "loss": [0.69, 0.6, 0.5]}},
    )  # fmt: skip


def compared(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """A cell's rows against SFT."""
    wins = WINS[cell["method"], cell["size"]][cell["seed"] - 1]
    found = []
    for prompt in range(PROMPTS):
        better = prompt < wins
        found.append(
            {
                "id": f"{cell['policy']}/{prompt}", "comparison": f"{cell['policy']}_vs_sft",
                "policy_a": cell["policy"], "policy_b": "sft", "prompt_id": f"p{prompt:02d}",
                "sample": 0, "judge": "tinyworld_rubric", "judge_kind": "scorer", "repeat": 0,
                "prompt": [{"role": "user", "content": "Name two birds."}],
                "response_a": "x" * LENGTHS[cell["method"]], "response_b": "y" * 9,
                "outcome": float(better), "score_a": 6.0 if better else 4.0, "score_b": 5.0,
                "attributes_a": [], "attributes_b": [],
            }
        )  # fmt: skip
    return found


def margins(folder: Path, trained: dict[str, StageOutput]) -> StageOutput:
    """Tails of dpo 2.0 and 2.2 nats wide, of rdpo 1.0 both; both cross zero, rdpo half as steep."""
    entries = []
    for name in ("dpo_400_s1", "dpo_400_s2", "rdpo_400_s1", "rdpo_400_s2"):
        half = {"dpo_400_s1": 1.0, "dpo_400_s2": 1.1}.get(name, 0.5)
        entries.append(
            {
                "policy": name, "beta": 0.1, "pairs": 40, "accuracy": 0.5, "accuracy_low": 0.4,
                "accuracy_high": 0.6, "mean": 0.0, "deviation": 1.0, "heavy": 0.05,
                "quantile_05": -half, "quantile_50": 0.0, "quantile_95": half,
                "sorted": [half * (k - 19.5) / 20 for k in range(40)],
            }
        )  # fmt: skip
    read = {"policies": [trained[entry["policy"]] for entry in entries]}
    return write_stage(
        folder, "margins", "margins", read, rows=([], MARGINS), details={"margins": entries}
    )
