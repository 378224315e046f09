"""The page's times beside what had been estimated."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.report.realistic import write_stage

from rayonale.planning.machine import _short
from rayonale.report.evidence import gather
from rayonale.report.sections.timings import section


def test_estimates_stand_beside_times(tmp_path: Path) -> None:
    """8 s estimated for what took 10, 30 for 20, nothing for 5: 38 for 30, ratio 1.27."""
    ends = [
        write_stage(tmp_path, "sft", "train", seconds=10.0, expected={"seconds": 8.0}),
        write_stage(tmp_path, "dpo", "train", seconds=20.0, expected={"seconds": 30.0}),
        write_stage(tmp_path, "odd", "harness", seconds=5.0, expected={"seconds": None}),
    ]
    found = section(gather(ends, "it"))
    assert found is not None
    assert found.numbers["expected_seconds"] == 38
    assert found.numbers["expected_took"] == 30
    assert "1.27 of the actual time" in found.html
    assert '<td class="n">0.80</td>' in found.html
    assert '<td class="n">1.50</td>' in found.html


def test_without_estimates_there_are_no_columns_for_them(tmp_path: Path) -> None:
    found = section(gather([write_stage(tmp_path, "sft", "train")], "it"))
    assert found is not None
    assert "Estimate" not in found.html
    assert "expected_seconds" not in found.numbers


@pytest.mark.parametrize(
    ("told", "name"),
    [("NVIDIA H100 80GB HBM3", "H100"), ("Tesla V100-SXM2-16GB", "V100"), ("NVIDIA L4", "L4")],
)
def test_gpus_are_called_as_ray_calls_them(told: str, name: str) -> None:
    assert _short(told) == name
