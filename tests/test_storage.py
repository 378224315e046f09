"""Atomic files, streamed rows, whatever file system."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from rayonale import storage

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64())])


def rows(count: int) -> list[dict[str, object]]:
    return [{"id": f"r{n}", "n": n} for n in range(count)]


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_rows_come_back_in_order_from_any_file_system(tmp_path: Path, scheme: str) -> None:
    folder = f"{scheme}{tmp_path}/rows"
    with storage.ParquetWriter(folder, SCHEMA, rows_per_file=4) as writer:
        for row in rows(10):
            writer.write(row)
    assert len(storage.parquet_files(folder)) == 3  # 4 + 4 + 2
    assert list(storage.read_rows(folder)) == rows(10)
    assert storage.count(folder) == 10
    assert [row["n"] for row in storage.read_rows(folder, columns=["n"])] == list(range(10))
    storage.remove(folder)
    assert storage.count(folder) == 0


def test_no_rows_still_leave_the_columns(tmp_path: Path) -> None:
    assert storage.write_rows(str(tmp_path), [], SCHEMA) == 0
    assert storage.schema(str(tmp_path)).names == ["id", "n"]


def test_a_column_that_the_schema_lacks_is_refused_not_lost(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"columns \['extra'\] not in the schema"),
        storage.ParquetWriter(str(tmp_path), SCHEMA) as writer,
    ):
        writer.write({"id": "a", "n": 1, "extra": 2})


def test_an_error_leaves_no_half_file(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        storage.ParquetWriter(str(tmp_path), SCHEMA, rows_per_file=2) as writer,
    ):
        for n, row in enumerate(rows(5)):
            if n == 3:
                raise RuntimeError
            writer.write(row)
    assert list(storage.read_rows(str(tmp_path))) == rows(2)
    assert [p.name for p in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_an_empty_folder_and_a_broken_document_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Parquet files"):
        storage.dataset(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json: not JSON"):
        storage.read_json(str(tmp_path / "manifest.json"))
