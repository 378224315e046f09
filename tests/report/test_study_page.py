"""A sweep on the page: claims with verdicts, figures, and cells that stand for the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.swept import CELLS, outputs
from tests.report.realistic import write_stage
from tests.report.test_page import report

from rayonale.evaluate.study import StudySettings, run
from rayonale.report.evidence import gather
from rayonale.report.sections.study import headline, measured, section
from rayonale.stages import StageContext, StageOutput


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[StageOutput]:
    folder = tmp_path_factory.mktemp("swept")
    read = outputs(folder)
    context = StageContext(
        "study", str(folder / "study"), read, None, "f" * 32, "c" * 32, run=None,  # type: ignore[arg-type]
    )  # fmt: skip
    found = run(context, StudySettings.model_validate({"cells": CELLS, "baseline": "sft"}))
    study = write_stage(folder, "study", "study", read, details=found.details)
    return [study, *read["win_rates"], *read["margins"]]


def test_the_page_says_claim_by_claim_what_holds(tmp_path: Path, stages: list[StageOutput]) -> None:
    page, html = report(tmp_path, stages, title="Swept")
    assert page.sections()[0] == "study" and "result" not in page.sections()
    told = " ".join(page.text.split())
    claims = {c["key"]: c for c in stages[0].manifest["details"]["claims"]}
    tested = [c for c in claims.values() if c["verdict"] != "not tested"]
    holds = sum(c["verdict"] == "holds" for c in tested)
    assert f"Of {len(tested)} claims of the paper that this study tests, {holds} hold" in told
    for claim in claims.values():
        assert claim["claim"] in told and claim["published"] in told
    assert "no cells of reversed" in told
    assert "35.0 %" in told  # permuted against rdpo
    assert html.count("<svg") >= 5 + 1  # five figures of the study, the lineage
    assert "Win rate against sft by training size" in told
    assert "Win rate against dpo with 400 pairs" in told


def test_one_cell_of_each_method_stands_for_the_others(
    tmp_path: Path, stages: list[StageOutput]
) -> None:
    evidence = gather(stages, "x")
    shown = {"dpo_400_s1", "rdpo_400_s1", "permuted_400_s1"}
    policies = {cell["policy"] for cell in CELLS}
    hidden = policies - shown
    assert evidence.hidden == hidden | {f"samples_{policy}" for policy in hidden}
    assert {s.name for s in evidence.of_kind("train")} == {"sft", *shown}
    assert {e["policy"] for e in evidence.table("margins", "margins")} == {
        "dpo_400_s1", "rdpo_400_s1",
    }  # fmt: skip
    page, html = report(tmp_path, stages)
    assert "Sections below show one cell of each method" in page.text
    cards = {a.get("id") for a in page.named("details")}
    assert {f"stage-{policy}" for policy in policies} <= cards  # each can be traced
    drawing = html[html.index('<svg class="graph"') :]
    assert "dpo_400_s1</text>" in drawing and "dpo_100_s2</text>" not in drawing


def test_cells_have_the_colour_of_their_method(stages: list[StageOutput]) -> None:
    colours = gather(stages, "x").colours
    assert colours["dpo"] == colours["dpo_100_s1"] == colours["dpo_400_s2"]
    assert len({colours[name] for name in ("sft", "dpo", "rdpo", "permuted")}) == 4


def claim(**values: Any) -> dict[str, Any]:
    return {"verdict": "holds", "value": 0.6, "low": 0.55, "high": 0.65, "unit": "share", **values}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "60.0\u00a0% [55.0, 65.0]"),
        ({"unit": "points", "value": 0.05, "low": -0.01, "high": 0.11}, "+5.0 points [−1.0, 11.0]"),
        ({"unit": "times", "value": 3.0, "low": 1.5, "high": None}, "3.00 times [1.50, ∞]"),
        ({"unit": "times", "value": None}, "outside the sizes measured [0.55, 0.65]"),
        ({"unit": "nats", "value": -4.0, "low": -5, "high": -3}, "−4.0000 nats [−5.0000, −3.0000]"),
        ({"verdict": "not tested", "why": "no cells of orpo"}, "no cells of orpo"),
    ],
)  # fmt: skip
def test_numbers_in_their_units(values: dict[str, Any], told: str) -> None:
    assert measured(claim(**values)) == told


def test_headline_counts_verdicts() -> None:
    verdicts = ["holds"] * 2 + ["does not hold", "undecided", "undecided", "not tested"]
    assert headline([claim(verdict=verdict) for verdict in verdicts]) == (
        "Of 5 claims of the paper that this study tests, 2 hold in this world, 1 do not, "
        "2 are undecided."
    )


def test_pages_without_a_sweep_have_no_such_section() -> None:
    assert section(gather([], "x")) is None
