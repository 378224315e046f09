"""Sources: every kind of file gives the same records; parts cover a file exactly once."""

import gzip
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rayonale.data import reading, sources
from rayonale.data.sources import Hub

ROWS = [{"prompt": f"p {i} ü", "chosen": "a" * i, "rejected": "b"} for i in range(200)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.fixture
def folder(tmp_path):
    """A folder with the same rows in every kind of file, and files that are not data."""
    (tmp_path / "plain.jsonl").write_bytes(LINES)
    (tmp_path / "gz.jsonl.gz").write_bytes(gzip.compress(LINES[:999]) + gzip.compress(LINES[999:]))
    frames = zstandard.compress(LINES[:999]) + zstandard.compress(LINES[999:])
    (tmp_path / "zst.jsonl.zst").write_bytes(frames)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=30)
    (tmp_path / "README.md").write_text("# not data")
    (tmp_path / ".hidden.jsonl").write_text("{}")
    return tmp_path


def values(uri):
    found = []
    for part in sources.find(uri):
        for piece in sources.survey(part)[0]:
            found += reading.read(piece, Hub())
    return found


@pytest.mark.parametrize("name", ["plain.jsonl", "gz.jsonl.gz", "zst.jsonl.zst", "rows.parquet"])
@pytest.mark.parametrize("part_bytes", [100, 1_000, 32 << 20])
def test_every_kind_of_file_gives_the_same_records(folder, name, part_bytes, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", part_bytes)
    found = values(str(folder / name))
    assert [record.value for record in found] == ROWS
    assert [record.line for record in found] == list(range(1, 201))


def test_parts_cover_a_file_once_and_are_small(folder, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 1_000)
    (whole,) = sources.find(str(folder / "plain.jsonl"))
    parts, entry = sources.survey(whole)
    assert sum(part.length for part in parts) == len(LINES) == entry["bytes"]
    assert len(parts) > 10 and max(part.length for part in parts) <= 2_000
    assert entry["sha256"] == __import__("hashlib").sha256(LINES).hexdigest()


def test_directory_glob_and_uri(folder):
    names = [part.uri.rsplit("/", 1)[-1] for part in sources.find(str(folder))]
    assert names == ["gz.jsonl.gz", "plain.jsonl", "rows.parquet", "zst.jsonl.zst"]
    (found,) = sources.find(f"{folder}/pl*.jsonl")
    assert found.uri.endswith("plain.jsonl")
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bucket/x.jsonl", LINES)
    assert [record.value for record in values("memory://bucket/x.jsonl")] == ROWS
    assert [record.value for record in values("memory://bucket")] == ROWS
    fs.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("nothing_here.jsonl", "nothing there; expected a file"),
        ("{}/*.csv", "found no file"),
        ("{}/README.md", "cannot be read; expected a name that ends in .jsonl"),
    ],
)
def test_messages(folder, uri, told):
    with pytest.raises(ValueError, match=told):
        sources.find(uri.format(folder))


def test_lines_that_are_no_records(tmp_path):
    deep = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    lines = [
        b"\xef\xbb\xbf{}",
        b"{",
        b'{"a": "\xff"}',
        b'{"a": 1} x',
        deep,
        b'{"a": "\\ud800"}',
        b'{"n": ' + b"9" * 5_000 + b"}",
        b"null",
        b'{"a": NaN}',
        b"x" * 300_000,
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    (part,) = sources.find(str(tmp_path / "x.jsonl"))
    found = list(reading.read(part, Hub(), max_line_bytes=250_000))
    reasons = [record.problem.reason if record.problem else None for record in found]
    assert reasons == [
        None,
        "unparsable_line",
        "not_utf8",
        "unparsable_line",
        "unparsable_line",
        None,
        "unparsable_line",
        None,
        None,
        "line_too_long",
    ]
    assert "Extra data: line 1 column 10" in found[3].problem.detail
    assert "at byte 7, expected UTF-8" in found[2].problem.detail
    assert "300000 bytes, at most 250000" in found[9].problem.detail
    assert found[5].value == {"a": "\ud800"} and found[7].value is None


def test_json_array_is_told(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(ROWS))
    with pytest.raises(ValueError, match=r"x\.json: a JSON array; expected JSON lines"):
        values(str(tmp_path / "x.json"))


@pytest.mark.parametrize("name", ["gz.jsonl.gz", "zst.jsonl.zst", "rows.parquet"])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_damaged_files_fail_and_are_named(folder, name, damage):
    path = folder / name
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] if damage == "cut" else b"garbage" + data[7:])
    with pytest.raises(ValueError, match=name):
        values(str(path))


def test_hub_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sources.is_hub("org/name") and sources.is_hub("hf:name") and sources.is_hub("hf:a/b")
    assert sources.is_hub("org/name@abc")
    for path in ("org/name.jsonl", "org/name.parquet", "name", "a/b/c", "hf://datasets/a/b.jsonl"):
        assert not sources.is_hub(path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert not sources.is_hub("org/name")


def test_hugging_face_data_set(folder, tmp_path):
    """A data set in a folder: the same code as for the hub, but for the transport."""
    pytest.importorskip("datasets")
    data = tmp_path / "set"
    data.mkdir()
    (data / "train.jsonl").write_bytes(LINES)
    assert [record.value for record in values(f"hf:{data}")] == ROWS


def test_fingerprints(folder):
    uri = str(folder / "plain.jsonl")
    first = sources.fingerprint(uri, Hub())
    assert first == sources.fingerprint(uri, Hub())
    (folder / "plain.jsonl").write_bytes(LINES.replace(b"p 1 ", b"p X "))
    assert sources.fingerprint(uri, Hub()) != first
    assert sources.fingerprint("nothing_here.jsonl", Hub()) == "absent"
    assert sources.fingerprint("org/name", Hub(revision="a")) != sources.fingerprint(
        "org/name", Hub(revision="b")
    )


def test_files_of_a_directory_that_cannot_be_read_are_named(tmp_path):
    for name in ("a.jsonl", "notes.csv", "README.md", ".hidden", "more/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    assert sources.passed_over(str(tmp_path)) == ["README.md", "more/b.txt", "notes.csv"]
    assert sources.passed_over(str(tmp_path / "a.jsonl")) == []
