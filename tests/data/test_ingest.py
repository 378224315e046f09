"""The stage as a whole: every record accounted for, the same result in any way of running it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError
from tests.data.conftest import run_ingest

from rayonale import records, storage
from rayonale.data import blocks, ingest, sources
from rayonale.data.settings import IngestSettings


def raw(i, **fields):
    return {"prompt": f"Name {i} birds.", "chosen": f"wren {i}", "rejected": f"oak {i}", **fields}


def write(path, rows):
    with Path(path).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write((row if isinstance(row, str) else json.dumps(row)) + "\n")
    return str(path)


def rows_of(out):
    return list(storage.read_rows(f"{out}/rows"))


def rejects_of(out):
    return list(storage.read_rows(f"{out}/rejects"))


def test_rows_have_the_schema_and_say_where_they_come_from(tmp_path):
    uri = write(tmp_path / "x.jsonl", [raw(1, tag="t", score_chosen=9, score_rejected=4), raw(2)])
    result = run_ingest(tmp_path / "out", sources=[{"uri": uri, "format": "trl_standard"}])
    assert (result.rows_in, result.rows_out, result.rejects) == (2, 2, {})
    assert storage.schema(f"{tmp_path}/out/rows") == records.PAIR
    assert storage.schema(f"{tmp_path}/out/rejects") == records.REJECT
    row = rows_of(tmp_path / "out")[0]
    assert len(row.pop("id")) == 32 and row.pop("split") in ("train", "validation", "test")
    assert row == {
        "source": uri,
        "line": 1,
        "format": "trl_standard",
        "annotator": None,
        "occurrence": 0,
        "prompt": [{"role": "user", "content": "Name 1 birds."}],
        "chosen": [{"role": "assistant", "content": "wren 1"}],
        "rejected": [{"role": "assistant", "content": "oak 1"}],
        "score_chosen": 9.0,
        "score_rejected": 4.0,
        "confidence": None,
        "metadata": '{"tag":"t"}',
    }
    (entry,) = result.raw_inputs
    assert entry["uri"] == uri and entry["bytes"] == Path(uri).stat().st_size
    assert len(entry["sha256"]) == 64


def test_every_kind_of_reject(tmp_path):
    good = [raw(i) for i in range(100)]
    bad = [
        ("unparsable_line", "invalid", "{"),
        ("missing_field", "invalid", {"prompt": "p", "chosen": "c"}),
        ("empty_field", "invalid", raw(0, rejected=" ")),
        ("wrong_type", "invalid", raw(0, chosen=3)),
        ("wrong_type", "invalid", "[1]"),
        ("chosen_equals_rejected", "invalid", raw(0, chosen="oak 0")),
        (
            "non_finite_score",
            "invalid",
            '{"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": NaN}',
        ),
        ("not_utf8", "invalid", '{"prompt": "p", "chosen": "a\\ud800", "rejected": "b"}'),
        ("not_utf8", "invalid", '{"prompt": "p", "chosen": "a", "rejected": "b", "x": "\\udfff"}'),
        ("equal_scores", "filtered", raw(0, score_chosen=1, score_rejected=1)),
        ("over_long", "limit", raw(0, prompt="x" * 101)),
        ("line_too_long", "limit", raw(0, prompt="x" * 2_000)),
    ]
    uri = write(tmp_path / "x.jsonl", good + [line for *_, line in bad])
    result = run_ingest(
        tmp_path / "out",
        sources=[{"uri": uri, "format": "trl_standard"}],
        max_invalid_share=0.1,
        drop_equal_scores=True,
        max_prompt_chars=100,
        max_line_bytes=1_500,
    )
    assert (result.rows_in, result.rows_out) == (112, 100)
    assert result.rejects == {
        "invalid": {
            "unparsable_line": 1,
            "missing_field": 1,
            "empty_field": 1,
            "wrong_type": 2,
            "chosen_equals_rejected": 1,
            "non_finite_score": 1,
            "not_utf8": 2,
        },
        "filtered": {"equal_scores": 1},
        "limit": {"over_long": 1, "line_too_long": 1},
    }
    found = rejects_of(tmp_path / "out")
    assert [(r["reason"], r["kind"], r["line"]) for r in found] == [
        (reason, kind, 101 + i) for i, (reason, kind, _) in enumerate(bad)
    ]
    assert found[0]["detail"].startswith(f"{uri}:101: ") and found[0]["row"] == "{"
    assert "rejected: found only prompt, chosen, expected text" in found[1]["detail"]
    assert json.loads(found[2]["row"]) == raw(0, rejected=" ")


def test_too_many_invalid_records_fail_with_reasons_and_examples(tmp_path):
    lines = [raw(i) for i in range(90)] + ["{"] * 5 + [raw(0, chosen="")] * 3 + ["[]", "7"]
    uri = write(tmp_path / "x.jsonl", lines)
    with pytest.raises(ValueError) as caught:
        run_ingest(tmp_path / "out", sources=[{"uri": uri}])
    told = str(caught.value)
    assert "10 of 100 records (10.0 %) are invalid, at most 5 % allowed" in told
    assert (
        told.index("unparsable_line (5)")
        < told.index("empty_field (3)")
        < told.index("wrong_type (2)")
    )
    assert f"{uri}:91: " in told
    assert len(rejects_of(tmp_path / "out")) == 10
    assert not storage.exists(f"{tmp_path}/out/rows")
    run_ingest(tmp_path / "out2", sources=[{"uri": uri}], max_invalid_share=0.1)


def test_repeated_annotations_are_kept(tmp_path):
    """Issue's rule: by another annotator, and by the same one again."""
    labels = [(1, "ann"), (2, "ann"), (1, "bob"), (1, "ann"), (1, "ann")]
    rows = [raw(i, by=annotator) for i, annotator in labels]
    uri = write(tmp_path / "x.jsonl", rows)
    result = run_ingest(tmp_path / "out", sources=[{"uri": uri, "annotator_field": "by"}])
    found = rows_of(tmp_path / "out")
    assert [(r["annotator"], r["occurrence"]) for r in found] == [
        ("ann", 0),
        ("ann", 0),
        ("bob", 0),
        ("ann", 1),
        ("ann", 2),
    ]
    assert len({r["id"] for r in found}) == 5
    assert result.metrics["repeated_rows"] == 2
    assert len({r["split"] for r in found if r["prompt"][0]["content"] == "Name 1 birds."}) == 1


def test_duplicate_ids_are_rejected_only_where_the_source_has_ids(tmp_path):
    rows = [raw(i, key=i) for i in range(50)] + [raw(99, key=3), raw(4, key="x")]
    uri = write(tmp_path / "x.jsonl", rows)
    result = run_ingest(tmp_path / "out", sources=[{"uri": uri, "id_field": "key"}])
    assert result.rejects == {"invalid": {"duplicate_id": 1}}
    assert [r["line"] for r in rejects_of(tmp_path / "out")] == [51]
    assert rows_of(tmp_path / "out")[-1]["occurrence"] == 1  # same content as key 4
    assert run_ingest(tmp_path / "out2", sources=[{"uri": uri}]).rejects == {}
    other = write(tmp_path / "y.jsonl", [raw(0, key=0)])
    both = [{"uri": uri, "id_field": "key"}, {"uri": other, "id_field": "key"}]
    assert run_ingest(tmp_path / "out3", sources=both).rejects == {"invalid": {"duplicate_id": 1}}
    with pytest.raises(ValueError, match="key: found none, expected the row's id"):
        missing = write(tmp_path / "z.jsonl", [raw(0)])
        run_ingest(tmp_path / "out4", sources=[{"uri": missing, "id_field": "key"}])


def test_a_duplicate_does_not_count_as_an_occurrence(tmp_path):
    rows = [raw(1, key=1), raw(1, key=1), raw(1, key=2)]
    uri = write(tmp_path / "x.jsonl", rows)
    run_ingest(tmp_path / "out", sources=[{"uri": uri, "id_field": "key"}], max_invalid_share=1)
    assert [(r["line"], r["occurrence"]) for r in rows_of(tmp_path / "out")] == [(1, 0), (3, 1)]


@pytest.fixture
def many(tmp_path):
    """Three files with repeats within and between them, and bad lines."""
    generator = random.Random(0)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3):
        rows = [raw(generator.randrange(300), by=f"w{generator.randrange(2)}") for _ in range(400)]
        rows[7 * number + 3] = "{broken"
        write(folder / f"{number}.jsonl", rows)
    return str(folder)


def run_many(out, uri, **settings):
    return run_ingest(out, sources=[{"uri": uri, "annotator_field": "by"}], **settings)


def test_parallel_and_small_blocks_give_the_same_rows(many, tmp_path, monkeypatch, ray_session):
    plain = run_many(tmp_path / "one", many)
    monkeypatch.setattr(sources, "PART_BYTES", 5_000)
    monkeypatch.setattr(ingest, "_PARALLEL_BYTES", 0)
    parallel = run_many(tmp_path / "two", many)
    assert parallel.rejects == plain.rejects == {"invalid": {"unparsable_line": 3}}
    assert len(list((tmp_path / "two" / "work" / "blocks").iterdir())) > 10
    for what in (rows_of, rejects_of):
        assert what(tmp_path / "one") == what(tmp_path / "two")
    assert len({r["id"] for r in rows_of(tmp_path / "one")}) == plain.rows_out == 1_197


def test_blocks_that_are_done_are_not_converted_again(many, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 5_000)
    run_many(tmp_path / "out", many)
    expected = rows_of(tmp_path / "out")
    done = sorted((tmp_path / "out" / "work" / "blocks").iterdir())
    (done[3] / "done.json").unlink()  # killed within block 3 …
    storage.remove(f"{tmp_path}/out/rows")  # … and before the rows
    converted = []
    original = blocks.Converter

    def counting(conversion, layout):
        converted.append(conversion)
        return original(conversion, layout)

    monkeypatch.setattr(blocks, "Converter", counting)
    run_many(tmp_path / "out", many)
    assert len(converted) == 1
    assert rows_of(tmp_path / "out") == expected


KILLED = """
import sys
from rayonale.data import sources
from tests.data.conftest import run_ingest
sources.PART_BYTES = 5_000
run_ingest(sys.argv[2], sources=[{"uri": sys.argv[1], "annotator_field": "by"}])
print("finished")
"""


def test_killed_at_any_moment_and_started_again(many, tmp_path):
    run_many(tmp_path / "whole", many)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["platform", "."])}
    command = [sys.executable, "-c", KILLED, many, str(tmp_path / "killed")]
    repository = Path(__file__).resolve().parents[2]
    work = tmp_path / "killed"
    for kill_when in (
        (work / "work" / "blocks" / "000004").exists,
        (work / "rejects").exists,
    ):
        process = subprocess.Popen(command, cwd=repository, env=environment)
        while process.poll() is None and not kill_when():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=repository, env=environment, check=True, capture_output=True)
    for what in (rows_of, rejects_of):
        assert what(work) == what(tmp_path / "whole")


def test_files_of_a_killed_attempt_do_not_stay(many, tmp_path):
    for what in ("rows", "rejects"):
        storage.write_bytes(f"{tmp_path}/out/{what}/part-00099.parquet", b"half a result")
    result = run_many(tmp_path / "out", many)
    assert len(rows_of(tmp_path / "out")) == result.rows_out
    assert len(rejects_of(tmp_path / "out")) == 3


def test_split_shares_and_disjointness(tmp_path):
    rows = [raw(i % 500, chosen=f"answer {i}") for i in range(2_000)]
    rows += [raw(i, prompt=f"  NAME {i}   birds.\n", chosen="other") for i in range(500)]
    uri = write(tmp_path / "x.jsonl", rows)
    result = run_ingest(
        tmp_path / "out",
        sources=[{"uri": uri}],
        splits={"train": 0.6, "validation": 0.2, "test": 0.2},
    )
    by_prompt = {}
    for row in rows_of(tmp_path / "out"):
        key = " ".join(row["prompt"][0]["content"].split()).lower()
        by_prompt.setdefault(key, set()).add(row["split"])
    assert len(by_prompt) == 500 and all(len(found) == 1 for found in by_prompt.values())
    assert 0.5 < result.metrics["rows_train"] / 2_500 < 0.7


def test_fixed_splits_that_leak_fail_loudly(tmp_path):
    train = write(tmp_path / "a.jsonl", [raw(i) for i in range(20)])
    clean = write(tmp_path / "b.jsonl", [raw(i) for i in range(50, 60)])
    result = run_ingest(
        tmp_path / "out",
        sources=[{"uri": train, "split": "train"}, {"uri": clean, "split": "test"}],
    )
    assert (result.metrics["rows_train"], result.metrics["rows_test"]) == (20, 10)
    leaky = write(tmp_path / "c.jsonl", [raw(100), raw(7, prompt="name 7  BIRDS.")])
    with pytest.raises(ValueError, match=r"1 prompt\(s\) are in more than one split") as caught:
        run_ingest(
            tmp_path / "out2",
            sources=[{"uri": train, "split": "train"}, {"uri": leaky, "split": "test"}],
        )
    assert f"{leaky}:2 (test): 'name 7  BIRDS.'" in str(caught.value)


def test_weighted_mixture(tmp_path):
    big = write(tmp_path / "big.jsonl", [raw(i) for i in range(3_000)])
    small = write(tmp_path / "small.jsonl", [raw(i, prompt=f"Say {i}") for i in range(600)])
    weighted = [{"uri": big, "weight": 2}, {"uri": small, "weight": 1}]
    splits = {"train": 1, "validation": 0, "test": 0}
    result = run_ingest(tmp_path / "out", sources=weighted, splits=splits)
    assert (result.rows_in, result.rows_out) == (3_600, 1_800)
    assert result.rejects == {"limit": {"mixture_share": 1_800}}
    rows = rows_of(tmp_path / "out")
    from_big = [row["source"] == big for row in rows]
    assert sum(from_big) == 1_200 and all(
        abs(sum(from_big[:end]) - end * 2 / 3) <= 2 for end in range(1, 1_801)
    )
    assert sorted(r["line"] for r in rows if r["source"] == small) == list(range(1, 601))
    lines = [row["line"] for row in rows if row["source"] == big]
    assert lines == sorted(lines)
    again = run_ingest(tmp_path / "out2", sources=weighted, splits=splits)
    assert rows_of(tmp_path / "out2") == rows and again.details == result.details
    run_ingest(tmp_path / "out3", sources=weighted, splits=splits, seed=1)
    others = {row["id"] for row in rows_of(tmp_path / "out3")}
    shared = len(others & {row["id"] for row in rows})
    assert 600 < shared < 1_800  # another draw
    alone = run_ingest(tmp_path / "out4", sources=[{"uri": big}], splits=splits)
    assert {row["id"] for row in rows_of(tmp_path / "out4")} >= {
        row["id"] for row in rows if row["source"] == big
    }
    assert alone.rows_out == 3_000


def test_limit_reads_the_first_records(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.jsonl", [raw(10 * number + i) for i in range(10)])
    result = run_ingest(tmp_path / "out", sources=[{"uri": f"{tmp_path}/*.jsonl", "limit": 14}])
    assert (result.rows_in, result.rows_out) == (14, 14)
    assert [r["prompt"][0]["content"] for r in rows_of(tmp_path / "out")] == [
        f"Name {i} birds." for i in range(14)
    ]


def test_renamed_fields(tmp_path):
    rows = [{"instruction": f"q {i}", "better": "a", "worse": "b", "prompt": 3} for i in range(3)]
    uri = write(tmp_path / "x.jsonl", rows)
    fields = {"prompt": "instruction", "chosen": "better", "rejected": "worse"}
    run_ingest(tmp_path / "out", sources=[{"uri": uri, "fields": fields}])
    row = rows_of(tmp_path / "out")[2]
    assert row["prompt"][0]["content"] == "q 2" and row["chosen"][0]["content"] == "a"
    assert json.loads(row["metadata"]) == {"original_prompt": 3}


def test_token_limits_count_as_training_does(tmp_path, tinyworld_model):
    uri = write(tmp_path / "x.jsonl", [raw(1), raw(2, rejected="oak " * 200)])
    result = run_ingest(
        tmp_path / "out", sources=[{"uri": uri}], model=str(tinyworld_model), max_tokens=150
    )
    assert result.rejects == {"limit": {"over_long": 1}}
    assert "prompt + rejected: found" in rejects_of(tmp_path / "out")[0]["detail"]


def test_raw_folder_of_a_stage(tmp_path):
    row = {
        "prompt": "p",
        "response_a": "x",
        "response_b": "y",
        "preferred": "b",
        "score_a": 1.0,
        "score_b": 2.0,
    }
    write(tmp_path / "pairs-00000.jsonl", [{**row, "prompt": f"p {i}"} for i in range(5)])
    result = run_ingest(tmp_path / "out", raw=str(tmp_path))
    assert result.rows_out == 5 and result.details["sources"][0]["format"] == "tinyworld"


def test_labelled_rows(tmp_path):
    rows = [{"prompt": f"p {i}", "completion": "c", "label": i % 2 == 0} for i in range(4)]
    uri = write(tmp_path / "x.jsonl", rows)
    run_ingest(tmp_path / "out", sources=[{"uri": uri}])
    assert storage.schema(f"{tmp_path}/out/rows") == records.LABELLED_ROW
    assert [r["label"] for r in rows_of(tmp_path / "out")] == [True, False, True, False]
    pairs = write(tmp_path / "y.jsonl", [raw(0)])
    with pytest.raises(ValueError, match="different row types .*pair.*stages apart"):
        run_ingest(tmp_path / "out2", sources=[{"uri": pairs}, {"uri": uri}])


def test_odd_metadata_from_parquet(tmp_path):
    table = pa.table(
        {
            "prompt": ["p"],
            "chosen": ["a"],
            "rejected": ["b"],
            "blob": pa.array([b"\xff\x00"]),
            "when": pa.array([0], pa.timestamp("us")),
            "x": [float("nan")],
        }
    )
    storage.write_table(f"{tmp_path}/x.parquet", table)
    run_ingest(tmp_path / "out", sources=[{"uri": f"{tmp_path}/x.parquet"}])
    metadata = json.loads(rows_of(tmp_path / "out")[0]["metadata"])
    assert metadata["x"] in ("NaN", "nan") and "blob" in metadata


def test_nothing_to_read(tmp_path):
    with pytest.raises(ValueError, match=r"stages\.pairs: nothing to read; expected `sources`"):
        run_ingest(tmp_path / "out", sources=[])
    empty = write(tmp_path / "x.jsonl", [])
    with pytest.raises(ValueError, match="hold no records"):
        run_ingest(tmp_path / "out", sources=[{"uri": empty, "format": "orca"}])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_tokens": 5}, "need `model`"),
        ({"model": "tinyworld"}, "only count tokens"),
        ({"sources": [{"uri": "a", "weight": 1}, {"uri": "b"}]}, "on 1 of 2 sources"),
        ({"sources": [{"uri": "a", "format": "hh"}]}, "unknown format 'hh'; choices: auto, autoj"),
        ({"sources": [{"uri": "a", "wieght": 1}]}, "Extra inputs"),
        ({"splits": {"train": 1}}, "found 1.1, expected 1"),
    ],
)
def test_settings_are_checked(settings, told):
    with pytest.raises(ValidationError, match=told):
        IngestSettings.model_validate(settings)


def test_hub_settings_on_a_path_are_an_error():
    settings = IngestSettings.model_validate({"sources": [{"uri": "a.jsonl", "hf_split": "test"}]})
    assert "are for Hugging Face data sets" in ingest.STAGE.validate(settings)[0]
