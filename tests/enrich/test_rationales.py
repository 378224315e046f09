"""What the model is asked, and the permuted control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.generate.endpoint_server import Answer, Server, options, said
from tests.generate.rows import pairs

from rayonale import prompts, records, storage
from rayonale.enrich.generation import check_template
from rayonale.enrich.grades import GradeSettings
from rayonale.enrich.rationales import (
    VARIABLES,
    RationaleSettings,
    RationaleTask,
    chosen_first,
    derangement,
    run,
    style_of,
)
from rayonale.enrich.samples import SampleSettings
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.generate.settings import Completion, row_seed
from rayonale.generate.stream import Rejection
from rayonale.stages import StageContext, StageOutput

TEXT = "{{ prompt }}|{{ chosen if chosen_first else rejected }}|{{ chosen_first }}|{{ rejected }}"


def task(**settings: object) -> RationaleTask:
    chosen = RationaleSettings.model_validate(settings)
    return RationaleTask(TEXT, "rationale_general", chosen, chosen.sampling)


@given(st.lists(st.text(max_size=4), unique=True, min_size=2, max_size=60), st.integers(0, 9))
def test_permutation_is_a_derangement(ids: list[str], seed: int) -> None:
    order = derangement(ids, seed)
    assert sorted(order) == list(range(len(ids)))
    assert all(there != here for here, there in enumerate(order))
    assert derangement(ids, seed) == order


def test_permutation_depends_on_the_seed() -> None:
    ids = [str(i) for i in range(20)]
    assert derangement(ids, 0) != derangement(ids, 1)


def test_prompt_and_seeds_of_a_row() -> None:
    row = pairs(1)[0]
    asked = task(n=3).requests(row)
    assert isinstance(asked, list)
    assert asked[0].messages == [
        {
            "role": "user",
            "content": "Name 2 birds in a calm tone. (0)|Softly, here are two birds.|True|"
            "What a day, trees!",
        }
    ]
    assert len({request.seed for request in asked}) == 3


def test_reversed_control_swaps_the_responses() -> None:
    asked = task(control="reversed").requests(pairs(1)[0])
    assert isinstance(asked, list)
    assert "What a day, trees!|True|Softly" in asked[0].messages[0]["content"]


def test_other_splits_pass_without_rationales() -> None:
    row = pairs(4)[3]
    assert task().requests(row) is None
    assert task().collect(row, []) == {"rationales": []}


def test_shuffled_order_is_fixed_by_row_and_seed_and_even() -> None:
    settings = RationaleSettings(order="shuffled")
    first = [chosen_first(settings, str(i)) for i in range(1_000)]
    assert first == [chosen_first(settings, str(i)) for i in range(1_000)]
    assert 430 < sum(first) < 570
    assert all(chosen_first(RationaleSettings(), str(i)) for i in range(20))


def test_collect_records_each_sample_and_refuses_empty_text() -> None:
    row = pairs(1)[0]
    found = task(n=2).collect(
        row, [Completion(text=" good ", tokens=3, finish_reason="stop"), Completion(text=" ")]
    )
    assert isinstance(found, dict)
    (rationale,) = found["rationales"]
    assert (rationale["text"], rationale["style"], rationale["tokens"]) == ("good", "general", 3)
    empty = task().collect(row, [Completion(text="")])
    assert isinstance(empty, Rejection)
    assert empty.reason == "empty_rationale"


def test_text_of_data_is_never_template_code() -> None:
    row = pairs(1)[0]
    row["prompt"][0]["content"] = "{{ chosen }}{% if"
    asked = task().requests(row)
    assert isinstance(asked, list)
    assert asked[0].messages[0]["content"].startswith("{{ chosen }}{% if|Softly")


def test_templates_that_ship_ask_for_what_they_are_given() -> None:
    for name in ("rationale_general", "rationale_detailed", "tinyworld/rationale_general"):
        assert check_template(name, VARIABLES) == []
        text = prompts.render(name, prompt="P?", chosen="good", rejected="bad", chosen_first=False)
        assert text.index("bad") < text.index("good")


def test_template_problems_are_told(tmp_path: Path) -> None:
    (message,) = check_template("nowhere", VARIABLES)
    assert "no prompt template 'nowhere'" in message
    own = tmp_path / "own.jinja"
    own.write_text("{{ prompt }} {{ verdict }}")
    (message,) = check_template(str(own), VARIABLES)
    assert "uses verdict; given are chosen, chosen_first, prompt, rejected" in message


def test_an_endpoint_writes_the_rationales(tmp_path: Path, server: Server) -> None:
    """Limits and garbage are met with retries, cost is counted, a kill repeats nothing."""

    def script(number: int, body: dict[str, Any]) -> Answer:
        if number % 4 == 1:
            return 429, "slow down", {"retry-after": "0"}
        if number % 7 == 2:
            return 200, "<html>", {}
        if "(5)" in body["messages"][0]["content"]:
            return 500, "oops", {}
        return said(f"Because it keeps to the order. {body['seed']}")

    server.script = script
    rows = pairs(12)
    storage.write_rows(str(tmp_path / "pairs"), rows, records.PAIR)
    inputs = {"rows": StageOutput("pairs", str(tmp_path / "pairs"), "abc")}
    where = StageContext("why", str(tmp_path / "why"), inputs, None, "f" * 32, "c" * 32, run=None)  # type: ignore[arg-type]
    priced = options(server, input_price=2.0, output_price=5.0, unit_rows=4)
    told = {"endpoint": priced.model_dump(),
            "n": 2, "template": "rationale_general"}  # fmt: skip
    settings = RationaleSettings.model_validate(told)
    result = run(where, settings)
    asked = [row for row in rows if row["split"] == "train"]
    assert result.rejects == {"invalid": {"endpoint_failed": 1}}
    assert (result.rows_in, result.rows_out) == (12, 11)
    kept = [row for row in storage.read_rows(storage.join(where.out, "rows")) if row["rationales"]]
    assert len(kept) == len(asked) - 1
    for row in kept:
        seeds = [row_seed(0, row["id"], n) for n in range(2)]
        texts = [f"Because it keeps to the order. {seed}" for seed in seeds]
        assert [one["text"] for one in row["rationales"]] == texts
    metrics = result.metrics
    answered = sum(status == 200 and isinstance(body, dict) for status, body, _ in server.gave)
    assert metrics["cost"] == pytest.approx(answered * (10 * 2 + 4 * 5) / 1e6)
    assert (metrics["requests"], metrics["retries"] > 0) == (len(server.seen), True)
    assert metrics["failed"] >= 1 and metrics["unpriced"] > 0
    before = len(server.seen)
    again = run(where, settings)  # the units of the first run are all there
    assert len(server.seen) == before and again.metrics["cost"] == 0
    model = {"model": StageOutput("sft", "m", "abc")}
    where = StageContext("why", str(tmp_path / "x"), inputs | model, None, "f" * 32, "c" * 32, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the endpoint 'judge' generates; expected only one"):
        run(where, settings)


def test_an_endpoint_takes_the_place_of_a_model() -> None:
    endpoint = {"url": "http://h/v1", "served_model": "m"}
    with pytest.raises(ValidationError, match="endpoint: model, unit_rows would be ignored"):
        RationaleSettings.model_validate({"endpoint": endpoint, "model": "x", "unit_rows": 3})
    for stage in (RationaleSettings, GradeSettings, SampleSettings):
        assert stage.model_validate({"endpoint": endpoint}).endpoint is not None


def test_style_and_transcript() -> None:
    assert style_of("tinyworld/rationale_detailed") == "detailed"
    assert style_of("/somewhere/own.jinja") == "own"
    user = {"role": "user", "content": "Hi "}
    assistant = {"role": "assistant", "content": "Hello"}
    assert prompt_text([user]) == "Hi"  # type: ignore[list-item]
    assert prompt_text([user, assistant, user]) == "User: Hi\nAssistant: Hello\nUser: Hi"  # type: ignore[list-item]
    assert response_text([assistant]) == "Hello"  # type: ignore[list-item]
