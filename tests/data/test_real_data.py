"""Real public files: every row is in the output or in the rejects with a reason."""

import json
from collections import Counter

import pytest
from tests.data.conftest import run_ingest

from rayonale import storage

# file → format, rows, rejects by reason
FILES = {
    "hh_rlhf/helpful_base_train1200": (
        "hh_rlhf",
        1198,
        {"prompts_differ": 7, "wrong_roles": 3, "empty_field": 2},
    ),
    "hh_rlhf/helpful_base_test512": (
        "hh_rlhf",
        512,
        {"prompts_differ": 2, "wrong_roles": 2, "empty_field": 1},
    ),
    "hh_rlhf/harmless_base_train500": ("hh_rlhf", 494, {"empty_field": 1}),
    "hh_rlhf/harmless_base_test200": ("hh_rlhf", 197, {"empty_field": 1, "wrong_roles": 1}),
    "llamafactory/dpo_en_demo": ("sharegpt", 297, {}),
    "llamafactory/kto_en_demo": ("kto", 298, {}),
    "tldr/comparisons_batch18": ("tldr", 614, {}),
    "tldr/comparisons_cnndm0": ("tldr", 200, {"empty_field": 12}),
    "ultrafeedback/binarized_train400": ("ultrafeedback", 400, {"chosen_equals_rejected": 1}),
    "webgpt/webgpt_comparisons_300": ("webgpt", 300, {"equal_scores": 85}),
    "prometheus/hhh_alignment_221": ("trl_standard", 221, {}),
    "llmbar/llmbar_419": ("llmbar", 419, {}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_accounted_for(name, shared_data, tmp_path):
    layout, count, rejected = FILES[name]
    path = shared_data / f"{name}.jsonl"
    source = {"uri": str(path)}
    if "hhh" in name:
        source["fields"] = {"prompt": "instruction"}
    result = run_ingest(tmp_path, sources=[source], max_invalid_share=0.06)
    rows = list(storage.read_rows(f"{tmp_path}/rows"))
    rejects = list(storage.read_rows(f"{tmp_path}/rejects"))
    assert {row["format"] for row in rows} == {layout}
    assert Counter(reject["reason"] for reject in rejects) == rejected
    assert result.rows_in == count == len(rows) + len(rejects)
    lines = sorted(row["line"] for row in rows + rejects)
    assert lines == list(range(1, count + 1))
    assert len({row["id"] for row in rows}) == len(rows)


def test_hh_texts_are_all_there(shared_data, tmp_path):
    """Turns put together again give the transcript, but for white space around them."""
    path = shared_data / "hh_rlhf" / "helpful_base_test512.jsonl"
    run_ingest(tmp_path, sources=[{"uri": str(path)}])
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    names = {"user": "Human", "assistant": "Assistant"}
    for row in storage.read_rows(f"{tmp_path}/rows"):
        for side in ("chosen", "rejected"):
            turns = row["prompt"] + row[side]
            text = "\n\n".join(f"{names[turn['role']]}: {turn['content']}" for turn in turns)
            assert text.split() == raw[row["line"] - 1][side].split()


def test_tldr_annotators_and_confidence(shared_data, tmp_path):
    path = shared_data / "tldr" / "comparisons_batch18.jsonl"
    run_ingest(tmp_path, sources=[{"uri": str(path)}])
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    rows = list(storage.read_rows(f"{tmp_path}/rows"))
    for row in rows:
        record = raw[row["line"] - 1]
        assert row["annotator"] == record["worker"]
        assert row["confidence"] == record["extra"]["confidence"]
        best = record["summaries"][record["choice"]]["text"].strip()
        assert row["chosen"][0]["content"] == best
        assert record["info"]["post"].strip() in row["prompt"][0]["content"]
    labels = Counter(
        (
            row["prompt"][0]["content"],
            frozenset([row["chosen"][0]["content"], row["rejected"][0]["content"]]),
        )
        for row in rows
    )
    assert max(labels.values()) > 1  # pairs labelled by several workers are all kept


def test_orca_layout_from_real_texts(shared_data, tmp_path):
    """No file in this layout is at hand: one is made of real texts and must survive the way."""
    path = shared_data / "llamafactory" / "dpo_en_demo.jsonl"
    made = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        turns = record["conversations"]
        system = turns[0]["value"] if turns[0]["from"] == "system" else ""
        made.append(
            {
                "system": system,
                "question": turns[-1]["value"],
                "chosen": record["chosen"]["value"],
                "rejected": record["rejected"]["value"],
            }
        )
    (tmp_path / "orca.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    result = run_ingest(tmp_path / "out", sources=[{"uri": str(tmp_path / "orca.jsonl")}])
    assert result.details["sources"][0]["format"] == "orca"
    rows = list(storage.read_rows(f"{tmp_path}/out/rows"))
    assert len(rows) + len(list(storage.read_rows(f"{tmp_path}/out/rejects"))) == len(made) == 297
    for row in rows:
        expected = made[row["line"] - 1]
        assert row["prompt"][-1]["content"] == expected["question"]
        assert (len(row["prompt"]) == 2) == bool(expected["system"].strip())
        assert row["rejected"][0]["content"] == expected["rejected"]


def test_mixture_of_two_objectives(shared_data, tmp_path):
    helpful = shared_data / "hh_rlhf" / "helpful_base_train1200.jsonl"
    harmless = shared_data / "hh_rlhf" / "harmless_base_train500.jsonl"
    sources = [{"uri": str(helpful), "weight": 1}, {"uri": str(harmless), "weight": 1}]
    result = run_ingest(tmp_path, sources=sources, splits={"by": "first_turn"})
    taken = [
        sum(entry[n] for n in ("train", "validation", "test"))
        for entry in result.details["sources"]
    ]
    assert taken[0] == taken[1]
    assert (
        result.rows_in
        == 1_692
        == result.rows_out + sum(sum(reasons.values()) for reasons in result.rejects.values())
    )
