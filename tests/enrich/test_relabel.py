"""Relabelling by hand: the paper's two worked examples, every variant, every row had back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.conftest import _make, run_ingest

from rayonale import storage
from rayonale.data import tokens
from rayonale.enrich import goal_prompt, relabel, relabelling
from rayonale.enrich.goal_prompt import GoalPrompt
from rayonale.enrich.goal_scores import Scale, linear, rank
from rayonale.enrich.relabelling import RelabelSettings
from rayonale.losses.dpo import dpo
from rayonale.records import PAIR
from rayonale.stages import StageContext, StageOutput

Row = dict[str, Any]


def said(text: str, role: str = "assistant") -> list[Row]:
    return [{"role": role, "content": text}]


METADATA = '{"attributes_chosen":{"tone":5,"order":1},"attributes_rejected":{"tone":2,"order":4}}'


def pair(
    number: int = 0, better: float | None = 9.0, worse: float | None = 8.0, **more: Any
) -> Row:
    return {
        "id": f"{number:032x}", "split": "train", "source": "s", "line": number, "format": "f",
        "annotator": None, "occurrence": 0, "prompt": said("Name a bird.", "user"),
        "chosen": said("wren"), "rejected": said("robin"), "score_chosen": better,
        "score_rejected": worse, "confidence": 3.0, "metadata": METADATA,
        **more,
    }  # fmt: skip


def run(tmp_path: Path, rows: list[Row], schema: Any = PAIR, **settings: Any) -> Any:
    """(rows, rejects, result, the goal prompt)"""
    storage.write_rows(str(tmp_path / "in"), iter(rows), schema)
    inputs = {"rows": StageOutput("rows", str(tmp_path / "in"), "abc")}
    out = str(tmp_path / "out")
    context = StageContext("ra", out, inputs, None, "f", "c", None)  # type: ignore[arg-type]
    settings = {"place": "system", "template": "tinyworld/goal_system"} | settings
    if "model" in settings:
        del settings["place"]
    result = relabel.run(context, RelabelSettings(**settings))
    told = GoalPrompt.model_validate(result.details[goal_prompt.DETAIL])
    found = list(storage.read_rows(f"{out}/rows"))
    return found, list(storage.read_rows(f"{out}/rejects")), result, told


def optimum(rows: list[Row], responses: list[str]) -> dict[str, dict[str, float]]:
    """Prompt text → what the policy that minimises DPO on the rows gives each response.

    The policy is a table of logits, a line a prompt (the goal is part of it); the reference is
    uniform.
    """
    prompts = sorted({str([m["content"] for m in row["prompt"]]) for row in rows})
    logits = torch.zeros(len(prompts), len(responses), requires_grad=True)
    place = torch.tensor([prompts.index(str([m["content"] for m in r["prompt"]])) for r in rows])
    better, worse = (
        torch.tensor([responses.index(row[side][0]["content"]) for row in rows])
        for side in ("chosen", "rejected")
    )
    reference = torch.full((len(rows),), -float(torch.log(torch.tensor(len(responses)))))
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        optimiser.zero_grad()
        logprob = logits.log_softmax(-1)
        loss = dpo(logprob[place, better], logprob[place, worse], reference, reference, beta=0.1)
        loss.sum().backward()
        optimiser.step()
    found = logits.softmax(-1).tolist()
    return {p: dict(zip(responses, found[at], strict=True)) for at, p in enumerate(prompts)}


def of_goal(found: dict[str, dict[str, float]], goal: str) -> dict[str, float]:
    (one,) = [dist for prompt, dist in found.items() if f"score: {goal} of 10" in prompt]
    return {name: round(p, 2) for name, p in one.items()}


def test_table_1_a_good_rejected_response_is_not_unlearnt(tmp_path: Path) -> None:
    """{y1 (9) ≻ y2 (8)}: plain DPO gives y2 nothing; asked for 8, the policy gives it all."""
    plain = [pair(0, 9.0, 8.0)]
    assert optimum(plain, ["wren", "robin"])["['Name a bird.']"]["robin"] < 0.01
    rows, _, _, _ = run(tmp_path, plain)
    found = optimum(rows, ["wren", "robin"])
    assert of_goal(found, "9") == {"wren": 1.0, "robin": 0.0}
    assert of_goal(found, "8") == {"wren": 0.0, "robin": 1.0}


def test_table_2_a_bad_chosen_response_is_told_apart(tmp_path: Path) -> None:
    """{y1 (9) ≻ y3 (0), y2 (1) ≻ y3 (0)}: plain DPO gives y1 and y2 the same."""
    plain = [
        pair(1, 9.0, 0.0, chosen=said("y1"), rejected=said("y3")),
        pair(2, 1.0, 0.0, chosen=said("y2"), rejected=said("y3")),
    ]
    names = ["y1", "y2", "y3"]
    (without,) = optimum(plain, names).values()
    assert without["y1"] == pytest.approx(0.5, abs=0.01) == without["y2"]
    rows, _, _, _ = run(tmp_path, plain, scale=(0, 10))
    found = optimum(rows, names)
    assert of_goal(found, "9") == {"y1": 1.0, "y2": 0.0, "y3": 0.0}
    assert of_goal(found, "1") == {"y1": 0.0, "y2": 1.0, "y3": 0.0}
    assert of_goal(found, "0") == {"y1": 0.0, "y2": 0.0, "y3": 1.0}


def test_two_rows_a_pair(tmp_path: Path) -> None:
    (first, second), rejects, result, told = run(tmp_path, [pair()])
    assert rejects == []
    assert first["prompt"] == [
        {"role": "system", "content": "Target overall score: 9 of 10."},
        *said("Name a bird.", "user"),
    ]
    assert (first["chosen"], first["rejected"]) == (said("wren"), said("robin"))
    assert (first["goal"], first["goal_of"], first["original_id"]) == (9.0, "chosen", "0" * 32)
    assert second["prompt"][0]["content"] == "Target overall score: 8 of 10."
    assert (second["chosen"], second["rejected"]) == (said("robin"), said("wren"))
    assert (second["score_chosen"], second["score_rejected"]) == (8.0, 9.0)
    swapped = (
        '{"attributes_rejected":{"tone":5,"order":1},"attributes_chosen":{"tone":2,"order":4}}'
    )
    assert second["metadata"] == swapped
    assert len({first["id"], second["id"], "0" * 32}) == 3
    assert [relabelling.original(row, told) for row in (first, second)] == [pair()] * 2
    assert result.rejects == {}
    assert result.details["account"] == {"pairs": 1, "pairs with 2 rows": 1}


@pytest.mark.parametrize("family", ["chatml", "llama3", "mistral", "gemma"])
@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("system", [False, True])
def test_both_responses_are_swapped_in_every_template(
    family: str, turns: int, system: bool, tmp_path: Path
) -> None:
    """With and without a system role, of one turn and of several: the prompt stays a prompt."""
    model = tmp_path / "model"
    _make(family).save_pretrained(model)
    (model / "config.json").write_text('{"model_type": "llama"}')
    talk = [*said("Hi.", "user"), *said("Hello."), *said("Name a bird.", "user")][-turns:]
    before = [*said("Be kind.", "system"), *talk] if system else talk
    rows, _, _, told = run(tmp_path, [pair(prompt=before)], model=str(model))
    assert told.place == ("system" if family in ("chatml", "llama3") else "user")
    tokenizer, goals = tokens.load_tokenizer(str(model)), []
    for row, better, worse in zip(rows, ("wren", "robin"), ("robin", "wren"), strict=True):
        assert [m["role"] for m in row["prompt"] if m["role"] != "system"] == [
            m["role"] for m in talk
        ]
        text = tokenizer.decode(tokens.encode_prompt(tokenizer, row["prompt"]))
        for message in before:  # nothing that was said before is lost
            assert message["content"] in text
        assert text.count("Target overall score") == 1
        goals.append(f"Target overall score: {row['goal']:g} of 10." in text)
        for side, expected in (("chosen", better), ("rejected", worse)):
            _, response = tokens.encode_example(tokenizer, row["prompt"], row[side])
            assert expected in tokenizer.decode(response)
        assert relabelling.original(row, told) == pair(prompt=before)
    assert goals == [True, True]


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    rows = [
        pair(1, 8.0, 8.0), pair(2, None, 3.0), pair(3, 4.0, 7.0), pair(4, 11.0, 3.0),
        pair(5, 8.0, 7.96), pair(6, float("nan"), 3.0), pair(7, 5.0, 0.5),
    ]  # fmt: skip
    found, rejects, result, _ = run(tmp_path, rows)
    assert [row["original_id"] for row in found] == [f"{3:032x}"] * 2
    assert {r["id"]: r["reason"] for r in rejects} == {
        f"{1:032x}": "equal_scores", f"{2:032x}": "no_score", f"{4:032x}": "off_scale",
        f"{5:032x}": "equal_goals", f"{6:032x}": "no_score", f"{7:032x}": "off_scale",
    }  # fmt: skip
    assert result.details["account"] == {
        "pairs": 7, "pairs with 2 rows": 1, "pairs without a row": 6, "inverted pairs": 1,
    }  # fmt: skip
    # The inverted pair: asked for 4, the response with 4 is the better one, whatever the label.
    assert [(row["goal"], row["chosen"][0]["content"]) for row in found] == [
        (4.0, "wren"), (7.0, "robin"),
    ]  # fmt: skip
    dropped, rejects, result, _ = run(tmp_path / "drop", [rows[2]], inverted="drop")
    assert (dropped, [r["reason"] for r in rejects]) == ([], ["inverted"])
    assert result.rejects == {"filtered": {"inverted": 1}}


def test_ra_plus_and_half_ra(tmp_path: Path) -> None:
    pairs = [pair(n) for n in range(5)] + [pair(5, split="test")]
    rows, rejects, _, _ = run(tmp_path / "plus", pairs, goals="chosen")
    assert [row["goal_of"] for row in rows] == ["chosen"] * 6
    rows, rejects, result, _ = run(tmp_path / "half", pairs, share=0.4)
    assert [row["original_id"][-1] for row in rows] == list("001155")  # and all test rows
    assert [r["reason"] for r in rejects] == ["beyond_share"] * 3
    assert result.rejects == {"limit": {"beyond_share": 3}}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"filter_high": 8.0}, [(1, 9.0), (2, 9.0), (2, 3.0)]),
        ({"filter_low": 3.0}, [(1, 9.0), (1, 8.0), (2, 9.0)]),
        ({"filter_high": 8.0, "filters": "pair"}, [(2, 9.0), (2, 3.0)]),
        ({"filter_low": 3.0, "filters": "pair"}, [(1, 9.0), (1, 8.0)]),
        ({"filter_low": 3.0, "filters": "pair", "goals": "chosen"}, [(1, 9.0)]),
    ],
)
def test_filters(settings: Row, kept: list[tuple[int, float]], tmp_path: Path) -> None:
    rows, rejects, result, _ = run(tmp_path, [pair(1, 9.0, 8.0), pair(2, 9.0, 3.0)], **settings)
    assert [(int(row["original_id"], 16), row["goal"]) for row in rows] == kept
    name = "rejected_high" if "filter_high" in settings else "rejected_low"
    assert [r["reason"] for r in rejects] == [name]
    assert result.rejects == {"filtered": {name: 1}}


def test_scales_by_a_known_line(tmp_path: Path) -> None:
    """8.5 of 1–10 is (8.5 − 1)/9 = 0.8333: 4.3 of 1–5, 83.5 of 1–100."""
    for scale, goals in (((1, 5), [4.3, 1.9]), ((1, 100), [83.5, 23.0])):
        settings = {"map": "linear", "from_scale": (1, 10), "scale": scale}
        rows, _, _, told = run(tmp_path / str(scale), [pair(1, 8.5, 3.0)], **settings)
        assert [row["goal"] for row in rows] == goals
        assert (
            rows[0]["prompt"][0]["content"] == f"Target overall score: {goals[0]:g} of {scale[1]}."
        )
        assert (told.low, told.high) == scale
    _, rejects, _, _ = run(
        tmp_path / "off", [pair(1, 11.0, 3.0)], map="linear", from_scale=(1, 10), scale=(1, 5)
    )
    assert [r["reason"] for r in rejects] == ["off_scale"]


def test_lines_and_ranks_of_what_is_found(tmp_path: Path) -> None:
    """Scores −1, 0, 1, 3: on a line of 1 to 10 they are 1, 3.25, 5.5, 10; by rank 1, 4, 7, 10."""
    rows = [pair(1, 3.0, -1.0), pair(2, 1.0, 0.0)]
    for kind, expected in (("linear", [10.0, 1.0, 5.5, 3.25]), ("rank", [10.0, 1.0, 7.0, 4.0])):
        found, _, _, _ = run(tmp_path / kind, rows, map=kind, digits=2)
        assert [row["goal"] for row in found] == expected
    found, _, _, told = run(tmp_path / "raw", rows, map="raw")
    assert [row["goal"] for row in found] == [3.0, -1.0, 1.0, 0.0]
    assert (told.low, told.high, told.top) == (-1.0, 3.0, 3.0)


def test_a_line_for_each_prompt(tmp_path: Path) -> None:
    """Of a prompt's own pairs, and of the list that they were picked from."""
    other = said("Name a tree.", "user")
    rows = [pair(1, 3.0, 1.0), pair(2, 2.0, 1.0), pair(3, 30.0, 10.0, prompt=other)]
    found, _, _, _ = run(tmp_path / "pairs", rows, map="linear", per="prompt")
    assert [row["goal"] for row in found] == [10.0, 1.0, 5.5, 1.0, 10.0, 1.0]
    listed = pair(1, 3.0, 1.0, scores=[5.0, 3.0, 1.0])
    schema = PAIR.append(pa.field("scores", pa.list_(pa.float64())))
    found, _, _, _ = run(tmp_path / "lists", [listed], schema, map="linear", per="prompt")
    assert [row["goal"] for row in found] == [5.5, 1.0]


def test_attributes(tmp_path: Path) -> None:
    rows, _, _, told = run(
        tmp_path, [pair()], attributes=("order", "tone"), template="tinyworld/attributes_system"
    )
    assert [row["prompt"][0]["content"] for row in rows] == [
        "Target scores: order 1, tone 5 of 5.",
        "Target scores: order 4, tone 2 of 5.",
    ]
    assert [dict(row["goals"]) for row in rows] == [
        {"order": 1, "tone": 5},
        {"order": 4, "tone": 2},
    ]
    assert rows[0]["goal"] is None
    assert told.top == {"order": 5, "tone": 5}
    assert [relabelling.original(row, told) for row in rows] == [pair()] * 2
    _, rejects, _, _ = run(tmp_path / "none", [pair(metadata="{}")], attributes=("order",),
                           template="tinyworld/attributes_system")  # fmt: skip
    assert [r["reason"] for r in rejects] == ["no_score"]


def test_implicit_rewards_from_their_columns(tmp_path: Path) -> None:
    schema = PAIR
    for side in ("chosen", "rejected"):
        schema = schema.append(pa.field(f"reward_{side}", pa.float64()))
    rows = [pair(1, None, None, reward_chosen=0.3, reward_rejected=-0.1)]
    found, _, _, told = run(tmp_path, rows, schema, scores="reward", map="linear")
    assert [(row["goal"], row["reward_chosen"]) for row in found] == [(10.0, 0.3), (1.0, -0.1)]
    assert relabelling.original(found[1], told) == rows[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"map": "raw", "scale": (1, 10)}, "scale: ignored"),
        ({"from_scale": (1, 10)}, "from_scale: ignored"),
        ({"per": "prompt"}, "per: ignored"),
        ({"filters": "pair"}, "filters: ignored"),
        ({"filter_low": 3, "goals": "chosen"}, "no rows with the rejected score"),
        ({"attributes": ("a",), "scores": "reward"}, "scores: ignored"),
        ({"place": "user", "model": "tinyworld"}, "model: ignored"),
    ],
)
def test_options_that_would_be_ignored(settings: Row, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelabelSettings(**settings)


def test_columns_that_the_goal_makes_stale(tmp_path: Path) -> None:
    schema = PAIR.append(pa.field("ref_chosen_logprob", pa.float32()))
    with pytest.raises(ValueError, match="ref_chosen_logprob would no longer hold"):
        run(tmp_path, [pair(ref_chosen_logprob=-3.0)], schema)
    with pytest.raises(ValueError, match="no column reward_chosen"):
        run(tmp_path, [pair()], scores="reward")


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_maps_keep_the_order_and_stay_on_the_scale(scores: list[float]) -> None:
    wanted, found = Scale(1, 10), Scale(min(scores), max(scores))
    ordered = np.sort(np.asarray(scores))
    for low, high in zip(sorted(scores), sorted(scores)[1:], strict=False):
        assert 1 <= rank(low, ordered, wanted) <= rank(high, ordered, wanted) <= 10
        if found.low < found.high:
            assert linear(low, found, wanted) <= linear(high, found, wanted) <= 10 + 1e-9


def test_real_rows_are_all_accounted_for(shared_data: Path, tmp_path: Path) -> None:
    """UltraFeedback: each pair gives two rows or a reason, and comes back as it was."""
    file = shared_data / "ultrafeedback" / "binarized_train400.jsonl"
    run_ingest(tmp_path / "pairs", sources=[{"uri": str(file)}], max_invalid_share=0.06)
    pairs = {row["id"]: row for row in storage.read_rows(f"{tmp_path}/pairs/rows")}
    inputs = {"rows": StageOutput("pairs", f"{tmp_path}/pairs/rows", "abc")}
    out = str(tmp_path / "ra")
    context = StageContext("ra", out, inputs, None, "f", "c", None)  # type: ignore[arg-type]
    result = relabel.run(context, RelabelSettings(place="user"))
    told = GoalPrompt.model_validate(result.details[goal_prompt.DETAIL])
    rows = list(storage.read_rows(f"{out}/rows"))
    rejects = Counter(r["reason"] for r in storage.read_rows(f"{out}/rejects"))
    assert (len(pairs), len(rows), rejects) == (399, 714, {"equal_scores": 42})
    assert result.details["account"] == {
        "pairs": 399, "pairs with 2 rows": 357, "pairs without a row": 42,
    }  # fmt: skip
    for row in rows:
        assert relabelling.original(row, told) == pairs[row["original_id"]]
    assert Counter(row["goal_of"] for row in rows) == {"chosen": 357, "rejected": 357}
