"""The sections of goals and of unlearning, out of what the stages compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.report.realistic import write_stage
from tests.report.test_page import report

from rayonale import prompts
from rayonale.evaluate.goal_control import Asked, GoalControlSettings, curves_of, table
from rayonale.report.evidence import gather
from rayonale.report.sections import goals, unlearning

SETTINGS = GoalControlSettings(reward="reward")
TOLD = {
    "template": "goal_system", "text": prompts.source("goal_system"), "place": "user", "low": 1.0,
    "high": 10.0, "attributes": [], "digits": 1,
}  # fmt: skip


def asked(policy: str, goal: Any, **scores: float) -> Asked:
    by_prompt = {name: {"p": value, "q": value + 1} for name, value in scores.items()}
    return Asked(policy, f"{policy} {goal}", goal, by_prompt)


def control(folder: Path) -> Any:
    every = [
        asked("ra", {"overall": 10.0}, overall=8.5), asked("ra", {"overall": 4.0}, overall=4.5),
        asked("dpo", {"overall": 10.0}, overall=7.0), asked("dpo", {"overall": 4.0}, overall=7.0),
        asked("two", {"tone": 5.0, "order": 5.0}, tone=4.0, order=3.5),
        asked("two", {"tone": 1.0, "order": 5.0}, tone=1.5, order=3.25),
    ]  # fmt: skip
    details = {"curves": curves_of(every, SETTINGS), "table": table(every, SETTINGS)}
    return write_stage(folder, "control", "goal_control", details=details)


def trained(folder: Path, **curves: list[float]) -> Any:
    told = {"loss": {"name": "dpo"}, "watched": {"min_score": 7.0, "split": "test"}}
    found = {"step": [0, 1], "loss": [0.69, 0.5], "watch/steps": [0, 16]}
    found |= {f"watch/{name}": values for name, values in curves.items()}
    return write_stage(folder, "ra", "train", settings=told, details={"curves": found})


def test_the_page_shows_both(tmp_path: Path) -> None:
    augmented = write_stage(
        tmp_path, "augmented", "relabel", rejects=[],
        details={"goal_prompt": TOLD, "account": {"pairs": 3, "pairs with 2 rows": 2}, "goals": {}},
    )  # fmt: skip
    policy = trained(tmp_path, pairs=[-10.0, -31.5], best_asked=[-10.5, -12.0])
    page, _ = report(tmp_path, [augmented, policy, control(tmp_path)])
    assert {"goals", "unlearning"} <= set(page.sections())
    assert "rises at every step" in page.text and "flat" in page.text
    assert "tone 4.50" in page.text  # what was given of what was asked, mean over prompts
    assert "in the user turn, 1.00 to 10.00" in page.text
    assert "pairs with 2 rows: 2" in page.text
    assert "−31.50" in page.text and "−21.50" in page.text
    assert "score of at least 7.0 of split test" in " ".join(page.text.split())


def test_numbers_and_nothing_to_show(tmp_path: Path) -> None:
    found = goals.section(gather([control(tmp_path)], "t"))
    assert found is not None
    curves = {(c["policy"], c["name"]): c for c in found.numbers["curves"]}
    assert curves["ra", "overall"]["whole"]["value"] == pytest.approx(4.0)
    assert curves["two", "tone"]["points"][0]["value"] == pytest.approx(2.0)
    plain = write_stage(tmp_path, "plain", "train", settings={"loss": {"name": "dpo"}},
                        details={"curves": {"step": [0], "loss": [0.5]}})  # fmt: skip
    evidence = gather([plain], "t")
    assert goals.section(evidence) is None and unlearning.section(evidence) is None
