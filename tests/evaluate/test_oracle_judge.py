"""A reward model as judge: ties, rejects, advantages; what the report makes of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayonale.evaluate import oracle_judge, summary
from rayonale.evaluate.oracle_judge import OracleJudge
from rayonale.report import evidence
from rayonale.report.evidence import Evidence
from rayonale.report.sections import noise, overoptimisation, temperatures
from rayonale.stages import StageOutput

REWARDS = {"good": 3.0, "fair": 1.0, "bad": -2.0}


def item(number: int, a: str, b: str, comparison: str = "dpo_vs_sft") -> dict[str, Any]:
    first, second = comparison.split("_vs_")
    return {
        "comparison": comparison,
        "policy_a": first,
        "policy_b": second,
        "prompt_id": f"p{number}",
        "prompt": [{"role": "user", "content": "p"}],
        "sample": 0,
        "response_a": a,
        "response_b": b,
    }


def judged(items: list[dict[str, Any]], **options: Any) -> tuple[list, list]:
    prompt = items[0]["prompt"]
    known = {oracle_judge._key(prompt, text): reward for text, reward in REWARDS.items()}
    refused = {
        oracle_judge._key(prompt, "long"): {
            "kind": "limit", "reason": "over_long", "detail": "too long",
        }
    }  # fmt: skip
    judge = OracleJudge(kind="oracle", model="x", **options)
    return oracle_judge._compared(items, judge, known, refused)


def test_the_higher_reward_wins() -> None:
    items = [item(1, "good", "bad"), item(2, "bad", "fair"), item(3, "fair", "fair")]
    rows, rejects = judged([*items, item(4, "long", "good")])
    assert [row["outcome"] for row in rows] == [1, 0, 0.5]
    assert [(row["score_a"], row["score_b"]) for row in rows] == [(3, -2), (-2, 1), (1, 1)]
    assert [(each["kind"], each["reason"]) for each in rejects] == [("limit", "over_long")]
    rows, _ = judged(items, tie_margin=3.0)
    assert [row["outcome"] for row in rows] == [1, 0.5, 0.5]


def test_advantage_by_hand() -> None:
    """(3 + 2) and (−2 − 1): a mean of 1; the mean score of each policy beside it."""
    rows, _ = judged([item(1, "good", "bad"), item(2, "bad", "fair")])
    (found,) = summary.advantages(rows)
    assert (found["a"], found["b"], found["judge"], found["value"]) == ("dpo", "sft", "oracle", 1)
    means = {entry["policy"]: entry["value"] for entry in summary.scores(rows)}
    assert means == {"dpo": 0.5, "sft": -0.5}


def test_a_reward_model_is_needed_once() -> None:
    context: Any = SimpleNamespace(name="wins", inputs={})
    with pytest.raises(ValueError, match="stages.wins: judge 'oracle' needs a reward model"):
        oracle_judge._model(context, OracleJudge(kind="oracle"))


# --- the report ------------------------------------------------------------------------------


def stage(name: str, kind: str, **manifest: Any) -> StageOutput:
    return StageOutput(name, f"/{name}", "f", kind, manifest)


def read(name: str) -> dict[str, str]:
    return {"uri": f"/{name}", "name": name}


def entry(policy: str, scorer: str, value: float) -> dict[str, Any]:
    return {"policy": policy, "scorer": scorer, "attribute": "overall", "value": value}


def test_true_score_against_reward() -> None:
    trained = [
        stage(
            name,
            "train",
            settings={"loss": {"name": "dpo"}},
            metrics={"chosen_step": steps},
            inputs={},
        )
        for name, steps in (("dpo_long", 300), ("dpo", 100))
    ]
    values = [("dpo", 1.0, 6.0), ("dpo_long", 2.0, 5.0), ("texts", 0.5, 7.0)]
    details = {
        "judges": [{"judge": "oracle", "kind": "oracle"}],
        "scores": [
            each
            for policy, reward, true in values
            for each in (entry(policy, "oracle", reward), entry(policy, "tinyworld_rubric", true))
        ],
    }
    wins = stage("wins", "win_rates", details=details, inputs={})
    found = overoptimisation.section(Evidence("t", [*trained, wins]))
    assert found is not None
    by = {row["policy"]: row for row in found.numbers}
    assert (by["dpo_long"]["steps"], by["dpo_long"]["oracle"], by["dpo_long"]["true"]) == (
        300,
        2,
        5,
    )
    assert by["texts"]["loss"] == "other texts" and by["texts"]["steps"] is None
    assert "True score against oracle reward" in found.html


def test_win_rate_against_wrong_labels() -> None:
    outputs = []
    for rate in (0.0, 0.4):
        k = f"{int(100 * rate):02d}"
        world = stage(f"world_{k}", "tinyworld_pairs", settings={"flip_rate": rate}, inputs={})
        pairs = stage(f"pairs_{k}", "ingest", inputs={"raw": read(f"world_{k}")})
        policy = stage(
            f"dpo_{k}",
            "train",
            settings={"loss": {"name": "dpo"}},
            inputs={"rows": read(f"pairs_{k}")},
        )
        told = {"a": f"dpo_{k}", "judge": "tinyworld_rubric", "value": 0.9 - rate, "low": 0.4,
                "high": 0.95, "pairs": 100}  # fmt: skip
        outputs += [world, pairs, policy]
        outputs.append(stage(f"wins_{k}", "win_rates", details={"win_rates": [told]}, inputs={}))
    found = noise.section(Evidence("t", outputs))
    assert found is not None
    points = [(row["flip_rate"], row["value"]) for row in found.numbers]
    assert points == [(0.0, 0.9), (0.4, 0.5)]
    assert "Win rate against wrong labels" in found.html
    assert noise.section(Evidence("t", outputs[:4])) is None  # one rate is no curve


def test_win_rate_against_temperature() -> None:
    """Three stages compare one pair; the page shows the first one by one and all in the plot."""
    outputs = []
    for warmth, value in ((0.7, 0.6), (0.2, 0.5), (0.9, 0.8)):
        drawn = []
        for policy in ("dpo", "sft"):
            name = f"samples_{policy}_{warmth}"
            drawn.append(read(name))
            sampling = {"sampling": {"temperature": warmth}}
            outputs.append(stage(name, "samples", settings=sampling, inputs={}))
        told = {"a": "dpo", "b": "sft", "judge": "oracle", "value": value, "low": 0.4, "high": 0.9,
                "pairs": 100}  # fmt: skip
        outputs.append(
            stage(
                f"wins_{warmth}",
                "win_rates",
                details={"win_rates": [told]},
                inputs={"samples": drawn},
            )
        )
    hidden = evidence._hidden(outputs, {})
    assert hidden == {
        f"{kind}_{warmth}"
        for warmth in (0.2, 0.9)
        for kind in ("samples_dpo", "samples_sft", "wins")
    }
    found = temperatures.section(Evidence("t", outputs, hidden=hidden))
    assert found is not None
    points = [(row["temperature"], row["value"]) for row in found.numbers]
    assert points == [(0.2, 0.5), (0.7, 0.6), (0.9, 0.8)]
    assert "Win rate against temperature" in found.html
    assert temperatures.section(Evidence("t", outputs[:3])) is None  # one is no curve
    assert evidence._hidden(outputs[:3] + outputs[:3], {}) == set()  # the same twice is no sweep


def test_a_reference_text_is_shown_to_the_judge(tmp_path: Path) -> None:
    from rayonale.evaluate import judges, win_rates

    options = {"kind": "llm", "template": "judge_summaries"}
    shown = judges.LlmJudge(**options, reference="chosen")
    asked = judges._question({**item(1, "x", "y"), "reference": "gold"}, shown)
    assert "[A person's summary]\ngold" in asked["ab"]
    assert asked["ab"].index("x\n") < asked["ab"].index("y\n")
    with pytest.raises(ValueError, match="1 of 1 pairs have no text in `chosen`"):
        judges.judge_pairs(SimpleNamespace(), [item(1, "x", "y")], shown)  # type: ignore[arg-type]
    settings = win_rates.WinRateSettings(judges=[options])
    assert "uses reference" in win_rates._validate(settings)[0]
    ignored = {"kind": "llm", "template": "judge_pairwise", "reference": "chosen"}
    told = win_rates._validate(win_rates.WinRateSettings(judges=[ignored]))
    assert told == ["judges.0.reference: template 'judge_pairwise' does not show it"]
