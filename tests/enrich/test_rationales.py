"""What the model is asked, and the permuted control."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.generate.rows import pairs

from rayonale import prompts
from rayonale.enrich.generation import check_template
from rayonale.enrich.rationales import (
    VARIABLES,
    RationaleSettings,
    RationaleTask,
    chosen_first,
    derangement,
    style_of,
)
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.generate.settings import Completion
from rayonale.generate.stream import Rejection

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


def test_style_and_transcript() -> None:
    assert style_of("tinyworld/rationale_detailed") == "detailed"
    assert style_of("/somewhere/own.jinja") == "own"
    user = {"role": "user", "content": "Hi "}
    assistant = {"role": "assistant", "content": "Hello"}
    assert prompt_text([user]) == "Hi"  # type: ignore[list-item]
    assert prompt_text([user, assistant, user]) == "User: Hi\nAssistant: Hello\nUser: Hi"  # type: ignore[list-item]
    assert response_text([assistant]) == "Hello"  # type: ignore[list-item]
