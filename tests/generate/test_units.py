"""The cut into units and what is left to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.generate.rows import write_pairs

from rayonale import storage
from rayonale.generate import units


def test_every_row_is_in_exactly_one_unit(tmp_path: Path) -> None:
    rows = write_pairs(str(tmp_path / "rows"), 123, rows_per_file=50)
    cut = units.plan(rows, 20)
    assert [unit.count for unit in cut] == [20, 20, 10, 20, 20, 10, 20, 3]
    assert [unit.number for unit in cut] == list(range(8))
    ids = [row["id"] for unit in cut for row in units.read(unit)]
    assert ids == [row["id"] for row in storage.read_rows(rows)]


def test_only_units_without_a_file_are_pending(tmp_path: Path) -> None:
    rows = write_pairs(str(tmp_path / "rows"), 60)
    work = str(tmp_path / "work")
    cut = units.plan(rows, 20)
    assert units.pending(cut, work, {"identity": "a"}) == cut
    storage.write_table(storage.join(work, cut[1].name), units._row_group(cut[0].file, 0))
    assert [u.number for u in units.pending(cut, work, {"identity": "a"})] == [0, 2, 3]


def test_work_of_another_identity_is_not_mixed_in(tmp_path: Path) -> None:
    rows = write_pairs(str(tmp_path / "rows"), 40)
    work = str(tmp_path / "work")
    cut = units.plan(rows, 20)
    units.pending(cut, work, {"identity": "a"})
    storage.write_table(storage.join(work, cut[0].name), units._row_group(cut[0].file, 0))
    assert units.pending(cut, work, {"identity": "b"}) == cut
    assert storage.parquet_files(work) == []


@pytest.mark.parametrize("unit_rows", [1, 7, 1_000])
def test_unit_size_changes_the_cut_not_the_rows(tmp_path: Path, unit_rows: int) -> None:
    rows = write_pairs(str(tmp_path / "rows"), 33)
    assert sum(unit.count for unit in units.plan(rows, unit_rows)) == 33
