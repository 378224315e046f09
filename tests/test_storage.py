"""Atomic files, streamed rows, whatever file system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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


def test_the_root_of_a_file_system_keeps_its_slashes() -> None:
    assert storage.join("memory://", "a", "b") == "memory://a/b"
    assert storage.join("s3://bucket/", "a") == "s3://bucket/a"
    assert storage.join("/", "a") == "/a"
    assert storage.join("runs/", "/a/") == "runs/a"


def test_what_json_lacks_becomes_null(tmp_path: Path) -> None:
    path = str(tmp_path / "m.json")
    storage.write_json(path, {"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "n": 3})
    assert storage.read_json(path) == {"a": [None, 1.5], "b": {"c": None}, "n": 3}
    assert "NaN" not in Path(path).read_text()


def test_a_folder_is_kept_from_other_processes_until_its_holder_is_gone(tmp_path: Path) -> None:
    folder = str(tmp_path / "stage" / "abc")
    code = (
        "import sys, time; from rayonale import storage\n"
        f"with storage.locked({folder!r}): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="another process is writing it"), storage.locked(folder):
        pass
    holder.kill()  # as `kill -9` does
    holder.wait()
    with storage.locked(folder):
        pass


def test_a_writer_keeps_order_and_file_sizes_across_its_buffers(tmp_path: Path) -> None:
    """700 rows, at most 300 a file, turned into Arrow 256 at a time."""
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())])
    given = [{"n": n, "text": None if n % 7 else str(n)} for n in range(700)]
    with storage.ParquetWriter(str(tmp_path / "x"), schema, rows_per_file=300) as writer:
        for row in given:
            writer.write(row)
    files = storage.parquet_files(str(tmp_path / "x"))
    assert [pq.read_metadata(file).num_rows for file in files] == [300, 300, 100]
    assert list(storage.read_rows(str(tmp_path / "x"))) == given
    assert storage.count(str(tmp_path / "x")) == 700
