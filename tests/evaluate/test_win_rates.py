"""The stage, from samples on disk to rows, rejects and metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from tests.report.realistic import SAMPLES, pair_rows, samples, write_stage

from rayonale import storage
from rayonale.evaluate.win_rates import STAGE, WinRateSettings, run
from rayonale.records import MESSAGES
from rayonale.stages import StageContext, StageOutput
from rayonale.tinyworld import score

RUBRIC = {"kind": "scorer", "name": "tinyworld_rubric"}
TINYWORLD = {
    "kind": "llm",
    "name": "tiny",
    "template": "tinyworld/judge_pairwise",
    "sampling": {"temperature": 0.0, "top_p": 1.0, "max_tokens": 96},
}


def context(
    folder: Path, outputs: list[StageOutput], engines: Any = None, name: str = "compared"
) -> StageContext:
    inputs: dict[str, Any] = {"samples": outputs}
    return StageContext(name, str(folder / name), inputs, engines, "f" * 32, "c" * 32, run=None)  # type: ignore[arg-type]


def sampled(folder: Path, policy: str, rows: list[dict[str, Any]]) -> StageOutput:
    model = write_stage(folder, policy, "train")
    return write_stage(
        folder, f"samples_{policy}", "samples", {"model": model}, rows=(rows, SAMPLES)
    )


@pytest.fixture()
def outputs(tmp_path: Path) -> list[StageOutput]:
    """40 prompts answered by a poor and by a good policy."""
    prompts = pair_rows(40)
    return [
        sampled(tmp_path, "poor", samples("poor", 0.2, prompts)),
        sampled(tmp_path, "good", samples("good", 0.95, prompts)),
    ]


def rejects_of(where: StageContext) -> list[dict[str, Any]]:
    return list(storage.read_rows(storage.join(where.out, "rejects")))


def rows_of(where: StageContext) -> list[dict[str, Any]]:
    return list(storage.read_rows(storage.join(where.out, "rows")))


def test_the_datas_preferred_texts_stay_with_the_rows(tmp_path: Path) -> None:
    """Samples of preference pairs hold `chosen`; compared rows keep it beside both responses."""
    prompts = pair_rows(3)
    schema = SAMPLES.append(pa.field("chosen", MESSAGES))
    outputs = []
    for policy, share in (("poor", 0.2), ("good", 0.95)):
        said = samples(policy, share, prompts)
        rows = [
            {**row, "chosen": [{"role": "assistant", "content": f"text {number}"}]}
            for number, row in enumerate(said)
        ]
        model = write_stage(tmp_path, policy, "train")
        read = {"model": model}
        outputs.append(
            write_stage(tmp_path, f"samples_{policy}", "samples", read, rows=(rows, schema))
        )
    where = context(tmp_path, outputs)
    run(where, WinRateSettings.model_validate({"judges": [RUBRIC]}))
    assert sorted(row["reference"] for row in rows_of(where)) == ["text 0", "text 1", "text 2"]


def test_exact_rubric_ranks_the_better_policy(tmp_path: Path, outputs: list[StageOutput]) -> None:
    where = context(tmp_path, outputs)
    result = run(where, WinRateSettings.model_validate({"judges": [RUBRIC]}))
    (entry,) = result.details["win_rates"]
    assert (entry["a"], entry["b"], entry["prompts"]) == ("good", "poor", 40)
    assert entry["low"] > 0.6 and entry["p_value"] < 0.01
    assert result.metrics["win_rate/good_vs_poor/tinyworld_rubric"] == entry["value"]
    assert (result.rows_in, result.rows_out, result.rejects) == (40, 40, {})
    # every row can be worked out by hand from its texts
    rows = rows_of(where)
    for row in rows:
        prompt = row["prompt"][0]["content"]
        a, b = (score(prompt, row[f"response_{side}"]).overall for side in "ab")
        assert (row["score_a"], row["score_b"]) == (a, b)
        assert row["outcome"] == (0.5 if a == b else float(a > b))
    assert entry["value"] == pytest.approx(sum(row["outcome"] for row in rows) / 40)
    means = {e["policy"]: e["value"] for e in result.details["scores"]
             if e["attribute"] == "overall"}  # fmt: skip
    assert means["good"] > means["poor"] + 1
    assert result.metrics["length/good/characters"] > 20
    assert result.metrics["length/good/tokens"] > 5


def test_a_policy_against_itself_ties_everywhere(tmp_path: Path) -> None:
    rows = samples("same", 0.5, pair_rows(10))
    outputs = [sampled(tmp_path, "one", rows), sampled(tmp_path, "other", rows)]
    result = run(context(tmp_path, outputs), WinRateSettings.model_validate({"judges": [RUBRIC]}))
    (entry,) = result.details["win_rates"]
    assert (entry["value"], entry["ties"], entry["p_value"]) == (0.5, 10, 1.0)
    assert entry["low"] < 0.5 < entry["high"]  # ten ties are no proof of equality


def test_prompts_that_one_policy_lacks_are_counted(
    tmp_path: Path, outputs: list[StageOutput]
) -> None:
    rows = samples("short", 0.5, pair_rows(40))[:30]
    rows[0]["responses"] *= 2  # one more sample than the others have
    rows[0]["response_tokens"] *= 2
    outputs = [outputs[0], sampled(tmp_path, "short", rows)]
    where = context(tmp_path, outputs)
    result = run(where, WinRateSettings.model_validate({"judges": [RUBRIC]}))
    assert result.rejects == {"filtered": {"unmatched_prompt": 10, "unmatched_sample": 1}}
    assert (result.rows_in, result.rows_out) == (41, 30)
    details = {row["detail"] for row in rejects_of(where)}
    assert any("poor has 1 response(s) to this prompt, short has 0" in text for text in details)


def test_several_samples_are_paired_by_index_and_averaged_by_prompt(tmp_path: Path) -> None:
    prompts = pair_rows(8)
    first, second = samples("first", 0.2, prompts), samples("second", 0.9, prompts)
    both = [
        {**f, "responses": f["responses"] + s["responses"], "response_tokens": [1, 2]}
        for f, s in zip(first, second, strict=True)
    ]
    turned = [{**row, "responses": row["responses"][::-1]} for row in both]
    outputs = [sampled(tmp_path, "a", both), sampled(tmp_path, "b", turned)]
    result = run(
        context(tmp_path, outputs),
        WinRateSettings.model_validate({"judges": [RUBRIC], "comparisons": [["a", "b"]]}),
    )
    (entry,) = result.details["win_rates"]
    # sample 0 loses exactly where sample 1 wins: half a win in every prompt
    assert (entry["value"], entry["prompts"], entry["pairs"]) == (0.5, 8, 16)
    assert entry["wins"] == entry["losses"] > 0


def test_foreign_prompts_are_rejects_not_low_scores(tmp_path: Path) -> None:
    prompts = pair_rows(20)
    rows = [samples("a", 0.5, prompts), samples("b", 0.9, prompts)]
    for policy in rows:
        policy[3]["prompt"][0]["content"] = "Tell me a joke."
    outputs = [sampled(tmp_path, name, r) for name, r in zip("ab", rows, strict=True)]
    where = context(tmp_path, outputs)
    result = run(where, WinRateSettings.model_validate({"judges": [RUBRIC]}))
    assert result.rejects == {"invalid": {"not_scorable": 1}}
    assert result.details["win_rates"][0]["unreadable"] == 1
    (row,) = rejects_of(where)
    assert json.loads(row["row"])["judge"] == "tinyworld_rubric"


def test_nothing_to_compare_is_told(tmp_path: Path, outputs: list[StageOutput]) -> None:
    def settings(**more: Any) -> WinRateSettings:
        return WinRateSettings.model_validate({"judges": [RUBRIC], **more})

    with pytest.raises(ValueError, match="no samples of policy 'best'; choices: poor, good"):
        run(context(tmp_path, outputs), settings(comparisons=[["best", "poor"]]))
    other = sampled(tmp_path, "other", samples("other", 0.5, pair_rows(5, seed=9)))
    with pytest.raises(ValueError, match="no prompt in common"):
        run(context(tmp_path, [outputs[0], other]), settings())
    with pytest.raises(ValueError, match="expected two or more"):
        run(context(tmp_path, outputs[:1]), settings())
    with pytest.raises(ValueError, match="read twice"):
        run(context(tmp_path, [outputs[0], outputs[0]]), settings())


def test_settings_that_contradict_are_refused() -> None:
    def refused(match: str, **values: Any) -> None:
        with pytest.raises(ValidationError, match=match):
            WinRateSettings.model_validate({"judges": [RUBRIC], **values})

    refused("exclude each other", comparisons=[["a", "b"]], baseline="b")
    refused("with itself", comparisons=[["a", "a"]])
    refused("comes twice", judges=[RUBRIC, RUBRIC])
    refused("the same judgement 3 times", judges=[{**TINYWORLD, "repeats": 3}])
    refused("at least 1 item", judges=[])
    unknown = WinRateSettings.model_validate({"judges": [{"kind": "scorer", "name": "best"}]})
    assert STAGE.validate(unknown) == ["judges.0.name: no scorer 'best'; choices: tinyworld_rubric"]
    missing = WinRateSettings.model_validate({"judges": [{**TINYWORLD, "template": "nowhere"}]})
    assert "no prompt template 'nowhere'" in STAGE.validate(missing)[0]


def test_baseline_compares_each_other_policy_with_it(
    tmp_path: Path, outputs: list[StageOutput]
) -> None:
    third = sampled(tmp_path, "third", samples("third", 0.5, pair_rows(40)))
    result = run(
        context(tmp_path, [*outputs, third]),
        WinRateSettings.model_validate({"judges": [RUBRIC], "baseline": "poor"}),
    )
    assert [e["comparison"] for e in result.details["win_rates"]] == [
        "good_vs_poor", "third_vs_poor"
    ]  # fmt: skip


def test_real_judge_in_both_orders(
    tmp_path: Path, outputs: list[StageOutput], engines: Any, tinyworld_model: Path
) -> None:
    judges = [RUBRIC, {**TINYWORLD, "model": str(tinyworld_model)}]
    settings = WinRateSettings.model_validate({"judges": judges, "max_unreadable": 1.0})
    same = storage.read_rows(outputs[0].rows)
    rows = list(storage.read_rows(outputs[1].rows))
    rows[0]["responses"] = next(iter(same))["responses"]  # equal answers: not asked
    outputs = [outputs[0], sampled(tmp_path, "good", rows)]
    where = context(tmp_path, outputs, engines)
    result = run(where, settings)
    judged = [row for row in rows_of(where) if row["judge"] == "tiny"]
    refused = [row for row in rejects_of(where) if row["kind"] == "invalid"]
    assert len(judged) + len(refused) == 40 and len(judged) >= 20
    for row in judged:
        if row["response_a"] == row["response_b"]:
            assert (row["outcome"], row["text_ab"], row["flipped"]) == (0.5, None, None)
            continue
        assert row["text_ab"].rstrip().endswith(f"[RESULT] {row['verdict_ab']:.0f}")
        assert row["flipped"] == (row["verdict_ab"] == row["verdict_ba"])
        if row["flipped"]:
            assert row["outcome"] == 0.5
    entry = next(e for e in result.details["win_rates"] if e["judge"] == "tiny")
    assert entry["unreadable"] == len(refused)
    assert 0 <= entry["flip_rate"] <= 1
    (agreed,) = result.details["agreement"]
    assert agreed["pairs"] == len(judged)
    fact = next(f for f in result.details["judges"] if f["judge"] == "tiny")
    assert fact["equal_responses"] == 1 and fact["generated_tokens"] > 0
    assert result.prompts == ["tinyworld/judge_pairwise"]
    # the work of the pass is kept until the stage is done: doing it again generates nothing
    again = run(where, settings)
    fact = next(f for f in again.details["judges"] if f["judge"] == "tiny")
    assert (fact["generated_tokens"], fact["rows_resumed"]) == (0, 39)
    assert again.details["win_rates"] == result.details["win_rates"]


def test_too_many_unreadable_verdicts_stop_the_stage(
    tmp_path: Path, outputs: list[StageOutput], engines: Any, tinyworld_model: Path
) -> None:
    # four tokens are never enough for a verdict
    judge = {**TINYWORLD, "model": str(tinyworld_model), "sampling": {"max_tokens": 4}}
    settings = WinRateSettings.model_validate({"judges": [judge], "max_unreadable": 0.2})
    where = context(tmp_path, outputs, engines)
    with pytest.raises(ValueError, match=r"40 of 40 pairs left out.*unreadable_cut_off 40"):
        run(where, settings)
    # with 1 none is too many: every pair is a reject, and there is no win rate
    result = run(where, settings.model_copy(update={"max_unreadable": 1.0}))
    assert result.details["win_rates"] == [] and rows_of(where) == []
    assert len(rejects_of(where)) == 40
