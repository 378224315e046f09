"""The section of public benchmarks: tables out of manifests, and where there is nothing to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.report.realistic import write_stage

from rayonale.report.evidence import gather
from rayonale.report.sections.benchmarks import section


def shown(tmp_path: Path, **details: dict[str, Any]) -> Any:
    outputs = [write_stage(tmp_path, kind, kind, details=told) for kind, told in details.items()]
    return section(gather(outputs, "t"))


def test_every_benchmark_has_its_table(tmp_path: Path) -> None:
    graded = {"model": "m", "score": 6.5, "low": 6.0, "high": 7.0, "turns": {"1": 7.0, "2": 6.0},
              "categories": {"math": 6.5}, "graded": 2, "unreadable": 0}  # fmt: skip
    unread = {"model": "<b>", "score": None, "low": None, "high": None, "turns": {},
              "categories": {}, "graded": 0, "unreadable": 4}  # fmt: skip
    rating = {"model": "m", "rating": 1191.0, "low": 1.0, "high": 2.0, "win_rate": 75.0,
              "win_low": 70.0, "win_high": 80.0, "battles": 80, "length": None}  # fmt: skip
    task = {"model": "m", "task": "bbh_local", "metric": "exact_match", "filter": None,
            "value": 0.25, "stderr": None, "shots": 3, "samples": 40}  # fmt: skip
    found = shown(
        tmp_path,
        mt_bench={"mt_bench": [graded, unread]},
        arena_hard={"arena_hard": [rating], "baseline": "base", "separability": 1.0,
                    "agreement": 0.5, "rank_correlation": 1.0, "common_models": 3},
        harness={"harness": [task | {"task": "bbh_local__navigate"}, task], "backend": "hf"},
    )  # fmt: skip
    html = str(found.html)
    assert "6.50" in html and "[6.00, 7.00]" in html and "&lt;b&gt;" in html
    assert "1,191" in html and "agreement with confidence 0.50" in html
    assert html.index(">bbh_local<") < html.index(">bbh_local__navigate<")
    assert "Run through hf" in html and "AlpacaEval" not in html
    assert found.numbers["harness"][0]["value"] == 0.25


def test_nothing_run_is_no_section_and_nothing_read_is_said(tmp_path: Path) -> None:
    assert shown(tmp_path) is None
    assert "No verdict could be read" in str(shown(tmp_path, alpaca_eval={"alpaca_eval": []}).html)
