"""Each stage kind's arithmetic, with numbers worked out by hand; nothing is measured here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayonale import prompts, stages
from rayonale.planning.flow import Estimate, Flow
from rayonale.planning.given import Given
from rayonale.planning.outlook import Outlook, Session
from rayonale.planning.rates import RateBook
from rayonale.planning.sizes import CHARS_PER_TOKEN, TURN_TOKENS
from rayonale.tinyworld import base_model_path, generate_pairs
from rayonale.train.batches import collate
from rayonale.train.estimates import probe_rows
from rayonale.train.examples import encode
from rayonale.train.settings import TrainSettings
from rayonale.train.stage import encoding_of

# A pair of 10 + 21 and 11 tokens: its tree puts 10 + 20 + 10 = 40 tokens into the model.
TOKENS = {"prompt": 10.0, "chosen": 21.0, "rejected": 11.0}
FLOW = Flow(rows={"train": 100.0, "validation": 10.0, "test": 40.0}, tokens=TOKENS,
            bytes_per_row=500.0)  # fmt: skip
RATES = {
    "generate_tokens_per_second": 500.0, "engine_start_seconds": 30.0,
    "train_tokens_per_second": 1_000.0, "forward_tokens_per_second": 4_000.0,
    "train_start_seconds": 8.0,
}  # fmt: skip


def estimate(
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any],
    reads: dict[str, Any] | None = None,
    **given: float,
) -> Estimate:
    """A stage's own estimate, with rates given and nothing probed; `gpus` is the machine's."""
    stage = stages.get(kind)
    gpus = given.pop("gpus", 0.0)
    told = {k.replace("__", "."): v for k, v in given.items()}
    session = Session(RateBook(str(tmp_path), "here", may_probe=False), Given(RATES | told), gpus)
    outlook = Outlook("it", kind, session, reads or {"rows": FLOW})
    assert stage.estimate is not None
    return stage.estimate(outlook, stage.settings.model_validate(settings))


def world_rows(size: int) -> list[dict[str, Any]]:
    """Pairs of the small world, its first response as the chosen one."""
    return [
        {"id": str(n), "prompt": [{"role": "user", "content": r["prompt"]}],
         "chosen": [{"role": "assistant", "content": r["response_a"]}],
         "rejected": [{"role": "assistant", "content": r["response_b"]}],
         "score_chosen": r["score_a"]}
        for n, r in enumerate(generate_pairs(size, 0))
    ]  # fmt: skip


def test_rationales(tmp_path: Path) -> None:
    """100 rows of train, 2 completions of 50 tokens: 10,000 tokens, 10 s with 2 replicas."""
    found = estimate(
        tmp_path, "rationales", {"n": 2, "engine": {"replicas": 2}}, it__tokens=50, gpus=4
    )
    text = prompts.source("tinyworld/rationale_general")
    prompt = len(text) / CHARS_PER_TOKEN + TURN_TOKENS + 10 + 21 + 11
    assert found.tokens == {"generated": 10_000, "prompt": pytest.approx(200 * prompt)}
    assert found.parts == {"engine start": 30, "pass": 0, "generation": 10, "rows": 0}
    assert found.seconds == 40
    assert found.gpus == 2  # of 4: those that the replicas hold
    assert (found.rows_in, found.rows_out) == (150, 150)
    assert found.flow.tokens["rationale"] == 50
    assert found.flow.template == "tinyworld/rationale_general"
    assert found.bytes == 150 * 500 + 10_000 * 2


def test_completions_are_assumed_half_of_max_tokens_and_said_so(tmp_path: Path) -> None:
    found = estimate(tmp_path, "rationales", {"sampling": {"max_tokens": 64}})
    assert found.tokens["generated"] == 100 * 32
    assert "completions of 32 tokens assumed, half of max_tokens" in found.basis


def test_grades_drop_rows(tmp_path: Path) -> None:
    """3 rationales a row, of all splits; 80 % of the rows go on."""
    flow = Flow(rows=FLOW.rows, tokens={**TOKENS, "rationale": 50.0}, texts={"rationales": 3.0})
    found = estimate(tmp_path, "grade_rationales", {}, {"rows": flow}, it__tokens=20, it__keep=0.8)
    assert found.tokens["generated"] == 150 * 3 * 20
    assert found.rows_out == pytest.approx(120)
    assert found.flow.rows["train"] == pytest.approx(80)
    assumed = estimate(tmp_path, "grade_rationales", {}, {"rows": flow}, it__tokens=20)
    assert any("rows go on, assumed" in told for told in assumed.basis)


def test_only_rows_with_rationales_are_graded(tmp_path: Path) -> None:
    """110 rows of train and validation have one; test's 40 pass, and none of them is dropped."""
    flow = Flow(rows=FLOW.rows, tokens={**TOKENS, "rationale": 50.0},
                explained=("train", "validation"))  # fmt: skip
    found = estimate(tmp_path, "grade_rationales", {}, {"rows": flow}, it__tokens=20, it__keep=0.8)
    assert found.tokens["generated"] == 110 * 20
    assert found.flow.rows == pytest.approx({"train": 80, "validation": 8, "test": 40})


def test_samples_are_as_long_as_chosen_responses(tmp_path: Path) -> None:
    """40 prompts of test, at most 30: 30 · 21 tokens at 500 a second."""
    found = estimate(tmp_path, "samples", {"limit": 30})
    assert found.tokens["generated"] == 30 * 21
    assert found.parts["generation"] == pytest.approx(30 * 21 / 500)
    assert found.flow.total == 30
    capped = estimate(tmp_path, "samples", {"sampling": {"max_tokens": 16}})
    assert capped.tokens["generated"] == 40 * 16


def test_reference(tmp_path: Path) -> None:
    """150 rows · 40 tokens = 6,000, forward only, by two workers of 4,000 tokens/s."""
    found = estimate(tmp_path, "reference_logprobs", {"workers": 2, "use_gpu": True})
    assert found.tokens == {"scored": 6_000}
    assert found.parts == {"start": 8, "forward": 0.75}
    assert found.gpus == 2


def test_sft(tmp_path: Path) -> None:
    """100 rows · 2 epochs · (10 + 20) tokens; 4 steps an epoch; validated after each epoch."""
    found = estimate(tmp_path, "train", {"loss": "sft", "epochs": 2, "batch_pairs": 32})
    assert found.tokens == {"trained": 6_000, "scored": 2 * 10 * 30}
    assert found.parts["start and export"] == 8
    assert found.parts["steps"] == 6
    assert found.parts["validation"] == pytest.approx(0.6 / 3)  # forward is a third of a step
    assert found.seconds == pytest.approx(14.2)


def test_dpo_on_a_third_by_two_workers_and_three_seeds(tmp_path: Path) -> None:
    """50 rows · 40 tokens · 3 seeds; start and export are paid for each seed."""
    settings = {
        "loss": {"name": "dpo", "beta": 0.1}, "limit": 0.5, "workers": 2, "seeds": [0, 1, 2],
        "use_gpu": True, "dtype": "bfloat16",
    }  # fmt: skip
    found = estimate(tmp_path, "train", settings)
    assert found.rows_in == 50
    assert found.tokens["trained"] == 3 * 50 * 40
    assert found.parts["start and export"] == 24
    assert found.parts["steps"] == 6_000 / 2_000
    parameters = found.bytes / (4 * 2)  # model/ and one for each seed, two bytes a parameter
    assert 1.2e6 < parameters < 1.5e6
    # Two checkpoints hold the weights, float32 masters and Adam's two moments, 14 bytes.
    assert found.peak_bytes == pytest.approx(found.bytes + 2 * 14 * parameters + 50 * 40 * 4)


def test_max_steps_count_batches(tmp_path: Path) -> None:
    settings = {"loss": "sft", "max_steps": 7, "batch_pairs": 8, "validate_every": 3}
    found = estimate(tmp_path, "train", settings)
    assert found.tokens == {"trained": 7 * 8 * 30, "scored": 3 * 10 * 30}  # after 3, 6, 7


def test_rationale_term_has_a_prompt_of_its_own(tmp_path: Path) -> None:
    """The second tree: a prompt that shows both responses, and the rationale less one token."""
    text = prompts.source("tinyworld/rationale_general")
    flow = Flow(rows={"train": 100.0}, tokens={**TOKENS, "rationale": 51.0},
                template="tinyworld/rationale_general")  # fmt: skip
    loss = {"name": "rdpo", "beta": 0.1, "gamma": 1.0, "form": "paper", "reduction": "mean"}
    found = estimate(tmp_path, "train", {"loss": loss}, {"rows": flow})
    second = len(text) / CHARS_PER_TOKEN + TURN_TOKENS + 42 + 50
    assert found.tokens["trained"] == pytest.approx(100 * (40 + second))


def test_a_rationale_that_follows_chosen_shares_its_tokens(tmp_path: Path) -> None:
    """Told lengths: 30 of x and y_w are counted once. A sample: the tokens that training counts."""
    loss = {"name": "rdpo", "beta": 0.1, "gamma": 1.0, "form": "paper", "reduction": "mean"}
    settings: dict[str, Any] = {"loss": loss, "rationale": {"follows": "chosen"}}
    flow = Flow(rows={"train": 100.0}, tokens={**TOKENS, "rationale": 51.0})
    found = estimate(tmp_path, "train", settings, {"rows": flow})
    text = prompts.source("rationale_follow_up")
    second = len(text) / CHARS_PER_TOKEN + TURN_TOKENS + 42 + 50
    assert found.tokens["trained"] == pytest.approx(100 * (40 + second - 30))

    said = {"text": "Response A keeps to the request.", "chosen_first": True}
    sample = [{**row, "rationales": [said]} for row in world_rows(20)]
    sampled = Flow(rows={"train": 20.0}, sample=tuple(sample))
    found = estimate(tmp_path, "train", settings, {"rows": sampled})
    known = TrainSettings.model_validate(settings)
    assert known.rationale is not None
    encoding = replace(
        encoding_of(known, str(base_model_path()), known.rationale), values=(), fingerprint=False
    )
    encoded = [encode(encoding.tokenizer(), row, encoding)[0] for row in sample]
    batch = collate([row for row in encoded if row], encoding.sequences, one_row=True)
    assert found.tokens["trained"] == pytest.approx(batch.tokens.numel())


def test_losses_that_look_ahead_score_too(tmp_path: Path) -> None:
    """KTO: 10 + 20 tokens with gradient, the same for the mismatched response without."""
    flow = Flow(rows={"train": 100.0}, tokens={"prompt": 10.0, "response": 21.0})
    found = estimate(tmp_path, "train", {"loss": {"name": "kto"}}, {"rows": flow})
    assert found.tokens == {"trained": 3_000, "scored": 3_000}
    assert found.parts["steps"] == pytest.approx(3 + 1)


def test_margins(tmp_path: Path) -> None:
    """40 pairs of test through the reference and two policies."""
    reads = {"rows": FLOW, "policies": [Flow(), Flow()]}
    found = estimate(tmp_path, "margins", {}, reads)
    assert found.tokens == {"scored": 3 * 40 * 40}
    assert found.parts == {"start": 24, "forward": 1.2}
    assert found.rows_out == 80


def answers(count: float = 40.0) -> Flow:
    return Flow(rows={"": count}, tokens={"prompt": 10.0, "responses": 21.0},
                texts={"responses": 1.0})  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "pairs"), [({}, 3), ({"baseline": "a"}, 2), ({"comparisons": [["a", "b"]]}, 1)]
)
def test_judge(tmp_path: Path, choice: dict[str, Any], pairs: int) -> None:
    """Three policies: 3, 2 or 1 comparisons; 40 prompts, both orders, 16 tokens each."""
    judge = {"kind": "llm", "template": "tinyworld/judge_pairwise"}
    reads = {"samples": [answers(), answers(50.0), answers(60.0)]}
    found = estimate(tmp_path, "win_rates", {"judges": [judge], **choice}, reads, it__tokens=16)
    assert found.tokens["generated"] == pairs * 40 * 2 * 16
    assert found.parts["llm: generation"] == pytest.approx(pairs * 40 * 32 / 500)


def test_an_endpoint_costs_what_its_prices_say(tmp_path: Path) -> None:
    """40 pairs · 2 orders · 3 repeats = 240 answers of 100 tokens: 24,000 at 15 a million."""
    judge = {
        "kind": "endpoint", "repeats": 3, "sampling": {"temperature": 1.0, "max_tokens": 200},
        "endpoint": {"url": "http://x", "served_model": "m", "output_price": 15.0,
                     "concurrency": 4, "requests_per_minute": 60},
    }  # fmt: skip
    found = estimate(tmp_path, "win_rates", {"judges": [judge]}, {"samples": [answers()] * 2})
    assert found.tokens["generated"] == 24_000
    assert found.money == pytest.approx(0.36)
    assert found.seconds == pytest.approx(300)  # 240 · 5 s / 4; the limit of one a second is less


def test_scorers_are_timed_on_the_rows_own_responses(tmp_path: Path) -> None:
    flow = Flow(rows={"": 20.0}, sample=world_rows(20))
    judges = {"judges": [{"kind": "scorer", "name": "tinyworld_rubric"}]}
    found = estimate(tmp_path, "win_rates", judges, {"samples": [flow, flow]})
    assert found.seconds is not None
    assert 0 < found.seconds < 1


def test_rewards_of_an_ensemble(tmp_path: Path) -> None:
    """150 rows · (10 + 21 + 10 + 11) tokens · 2 members = 15,600, at 4,000 a second; one start."""
    oracle = Flow(model="org/oracle")
    reads = {"rows": FLOW, "oracles": [oracle, oracle]}
    found = estimate(tmp_path, "score", {}, reads)
    assert found.tokens == {"scored": 15_600}
    assert found.parts["forward"] == pytest.approx(3.9)
    assert found.parts["engine start"] == 30
    assert found.rows_out == 150
    test = estimate(tmp_path, "score", {"splits": ["test"], "columns": ["chosen"]}, reads)
    assert test.tokens == {"scored": 40 * 31 * 2}
    assert test.flow.rows == {"test": 40}


def test_rewards_by_rubric_and_by_policy(tmp_path: Path) -> None:
    rows = world_rows(20)
    flow = Flow(rows={"train": 200.0}, sample=rows)
    rubric = estimate(tmp_path, "score", {"scorer": {"kind": "rubric"}}, {"rows": flow})
    assert rubric.rows_out == 200 and 0 < rubric.parts["rows"] < 5
    assert rubric.flow.sample[0]["reward_chosen"] == rows[0]["score_chosen"]
    reads = {"rows": FLOW, "policy": Flow(model="org/base"), "reference": Flow(model="org/base")}
    policy = estimate(tmp_path, "score", {"scorer": {"kind": "implicit"}}, reads)
    assert policy.tokens == {"scored": 2 * 150 * 40}
    assert policy.parts == {"start": 2 * 8, "forward": pytest.approx(3.0)}


def test_an_oracle_scores_each_answer_once(tmp_path: Path) -> None:
    """Three policies, 40 answers each of 10 + 25 tokens, however they are compared."""
    answers = Flow(rows={"": 40.0}, tokens={"prompt": 10.0, "responses": 25.0})
    reads = {"samples": [answers] * 3, "oracle": Flow(model="org/oracle")}
    found = estimate(tmp_path, "win_rates", {"judges": [{"kind": "oracle"}]}, reads)
    assert found.tokens == {"scored": 3 * 40 * 35}
    assert found.parts["oracle: forward"] == pytest.approx(3 * 40 * 35 / 4_000)
    assert found.rows_out == 3 * 40  # pairs of policies
    reads["oracle"] = Flow()
    assert (
        "reward model"
        in estimate(tmp_path, "win_rates", {"judges": [{"kind": "oracle"}]}, reads).missing
    )


def test_ambiguous_pairs_are_counted_on_the_sample(tmp_path: Path) -> None:
    """Four pairs of rising confidence and distance: the two lower ones are lc_le."""
    said = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    rows = [
        {"id": str(n), "prompt": [], "chosen": said("a b c d"), "confidence": float(n),
         "rejected": said(" ".join("abcd"[: 4 - n] + "wxyz"[:n]))} for n in range(4)
    ]  # fmt: skip
    flow = Flow(rows={"train": 400.0}, sample=rows, bytes_per_row=10.0)
    found = estimate(tmp_path, "ambiguity", {"keep": "lc_le"}, {"rows": flow})
    assert found.rows_out == 200
    assert [row["id"] for row in found.flow.sample] == ["0", "1"]
    assert estimate(tmp_path, "ambiguity", {}, {"rows": flow}).rows_out == 400


def test_texts_and_permutations_generate_nothing(tmp_path: Path) -> None:
    rows = world_rows(20)
    flow = Flow(rows={"train": 100.0, "test": 50.0}, sample=rows)
    texts = estimate(tmp_path, "reference_texts", {"limit": 30}, {"rows": flow})
    assert texts.rows_out == 30 and texts.flow.texts == {"responses": 1.0} and not texts.tokens
    permuted = estimate(tmp_path, "permute_rationales", {}, {"rows": flow})
    assert permuted.rows_out == 150 and not permuted.tokens
    accuracy = estimate(tmp_path, "reward_accuracy", {}, {"rows": flow})
    assert accuracy.rows_in == 50


@pytest.mark.parametrize("loss", ["dpo", "e_dpo", "drdo", "rpo"])
def test_probes_of_training_have_all_that_the_loss_reads(loss: str) -> None:
    """Rewards of an ensemble are lists, others numbers; empty ones of the sample are filled."""
    settings = TrainSettings(loss=loss)
    flow = Flow(rows={"train": 9.0}, sample=[{**row, "reward_chosen": None}
                                             for row in world_rows(4)])  # fmt: skip
    rows = probe_rows(settings, flow)
    encoding = encoding_of(settings, "anything", settings.rationale)
    values = [field for field in encoding.schema() if field.name in encoding.values]
    table = pa.Table.from_pylist(rows, schema=pa.schema(values))
    assert table.num_rows == 4
    assert all(table[field.name].null_count == 0 for field in values)


def test_nothing_to_do_is_no_estimate(tmp_path: Path) -> None:
    """A stage that would stop for lack of rows takes no known time, not zero."""
    empty = {"rows": Flow(rows={"validation": 5.0}, tokens=TOKENS)}
    for kind, settings in (("train", {"loss": "sft"}), ("samples", {}), ("margins", {})):
        reads = empty | ({"policies": [Flow()]} if kind == "margins" else {})
        found = estimate(tmp_path, kind, settings, reads)
        assert found.seconds is None
        assert "are expected, so it would stop" in found.missing


def test_lengths_that_nobody_knows_are_asked_for(tmp_path: Path) -> None:
    found = estimate(tmp_path, "train", {"loss": "sft"}, {"rows": Flow(rows={"train": 9.0})})
    assert found.seconds is None
    assert "tokens of prompt are not known" in found.missing


def judged_inputs(size: int, *responses: str) -> list[dict[str, Any]]:
    """Inputs of a judge with a judgement of their own of 12 characters and a score of 3."""
    given = {"text": "ok [RESULT] 3", "rationale": "ok", "verdict": 3.0, "order": None}
    return [
        {"id": str(n), "split": "train", "label": 3.0, "rubric": None, "reference": None,
         "prompt": [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": text}] for text in responses],
         "judgements": [given]}
        for n in range(size)
    ]  # fmt: skip


def test_judging(tmp_path: Path) -> None:
    """Of 100 rows 30 are wanted; 30 · 2 orders · 5 judgements of 20 tokens: 6,000 tokens, 12 s."""
    flow = Flow(rows={"train": 80.0, "test": 20.0}, sample=judged_inputs(4, "owl", "oak"))
    settings = {"limit": 30, "n": 5, "sampling": {"temperature": 1.0, "max_tokens": 64}}
    found = estimate(tmp_path, "judge", settings, {"rows": flow}, it__tokens=20)
    assert found.tokens["generated"] == 6_000
    assert found.parts == {"engine start": 30, "pass": 0, "generation": 12, "rows": 0}
    assert (found.rows_in, found.rows_out) == (30, 30)
    assert found.flow.rows == {"train": pytest.approx(24), "test": pytest.approx(6)}
    assert found.flow.tokens["judgement"] == 20
    one = estimate(tmp_path, "judge", {**settings, "orders": "shuffled"}, {"rows": flow})
    # nobody tells how long judgements are: as long as those of the data
    assert one.tokens["generated"] < 30 * 5 * 20 and "as those of the data" in str(one.basis)
    rest = estimate(tmp_path, "judge", {**settings, "skip": 90}, {"rows": flow})
    assert rest.rows_in == 10
    assert "no rows" in estimate(tmp_path, "judge", {"skip": 100}, {"rows": flow}).missing


def test_an_api_judge_of_inputs_costs_what_its_prices_say(tmp_path: Path) -> None:
    """100 rows, a judgement each of 10 tokens at 20 a million; 60 a minute, so 100 s."""
    endpoint = {"url": "http://x", "served_model": "m", "output_price": 20.0, "concurrency": 50,
                "requests_per_minute": 60}  # fmt: skip
    flow = Flow(rows={"test": 100.0}, sample=judged_inputs(4, "owl"))
    found = estimate(tmp_path, "judge", {"endpoint": endpoint}, {"rows": flow}, it__tokens=10)
    assert found.money == pytest.approx(100 * 10 * 20 / 1e6)
    assert found.parts == {"answers": pytest.approx(100)}
    assert found.gpus == 0


def test_pairs_are_made_of_the_judgements_that_are_there(tmp_path: Path) -> None:
    """Verdicts 3, 3, 1 of a label of 3: 2 pairs an input; where none are there, 4 assumed."""
    rows = judged_inputs(4, "owl")
    for row in rows:
        told = [{**row["judgements"][0], "verdict": v, "text": f"{i} [RESULT] {v:g}"}
                for i, v in enumerate((3.0, 3.0, 1.0))]  # fmt: skip
        row |= {"judgements": told, "judge_prompts": [{"order": None, "text": "Judge."}]}
    judged = Flow(rows={"train": 100.0}, sample=rows)
    unknown = Flow(rows={"train": 10.0}, tokens={"judge_prompt": 50.0, "judgement": 20.0})
    found = estimate(tmp_path, "curate", {}, {"rows": [judged, unknown]})
    assert found.rows_out == 100 * 2 + 10 * 4 and len(found.flow.sample) == 8
    assert estimate(tmp_path, "curate", {"limit": 11}, {"rows": [judged, unknown]}).rows_in == 11
    alone = estimate(tmp_path, "curate", {}, {"rows": [unknown]})
    assert alone.flow.tokens == {"prompt": 50, "chosen": 20, "rejected": 20}
    assert "assumed" in alone.basis[0]
    examples = estimate(tmp_path, "judgement_examples", {"show": []}, {"rows": judged})
    assert examples.rows_out == 100 and examples.flow.sample[0]["chosen"]


def test_judgements_are_judged(tmp_path: Path) -> None:
    """A rating of each of 3 readable judgements of 100 rows; picks need two good ones."""
    rows = judged_inputs(4, "owl")
    for row in rows:
        row["judgements"] = [{**row["judgements"][0], "rationale": f"r{i}"} for i in range(3)]
    flow = Flow(rows={"train": 100.0}, sample=rows)
    rated = estimate(tmp_path, "judge_judgements", {}, {"rows": flow}, it__tokens=7)
    assert rated.tokens["generated"] == 300 * 7
    picked = estimate(tmp_path, "judge_judgements", {"ask": "pick"}, {"rows": flow}, it__tokens=7)
    assert picked.tokens["generated"] == 100 * 7
    assert (
        "no judgements yet"
        in estimate(tmp_path, "judge_judgements", {}, {"rows": Flow(rows={"train": 100.0})}).missing
    )


def test_accuracy_resamples_every_input(tmp_path: Path) -> None:
    """500 inputs of two judges, two verdicts each, drawn 2,000 times: 2·10⁶ rows at 10⁶/s."""
    flows = [Flow(rows={"test": 300.0}), Flow(rows={"test": 200.0})]
    settings = {"strategies": ["first", "vote"], "resamples": 2_000}
    found = estimate(tmp_path, "judge_accuracy", settings, {"judgements": flows})
    assert (found.rows_in, found.rows_out, found.seconds) == (500, 1_000, 2)


def test_merging_moves_weights(tmp_path: Path) -> None:
    """Two models of 8·10⁹ parameters read and one written, 2 bytes each: 48 GB at 200 MB/s."""
    model = Flow(model="org/Llama-8B")
    found = estimate(tmp_path, "merge", {}, {"models": [model, model]})
    assert found.seconds == pytest.approx(240)
    assert found.bytes == pytest.approx(16e9) and found.flow.model == "org/Llama-8B"


def test_judged_data_that_is_not_here_is_told(tmp_path: Path) -> None:
    """Two responses of 50 tokens to a prompt of 20, judgements of 30; both orders of 100 rows."""
    told = {"it__rows": 100, "it__prompt_tokens": 20, "it__response_tokens": 50,
            "it__responses": 2, "it__judgement_tokens": 30}  # fmt: skip
    source = {"uri": "hf:org/judged", "format": "preference_collection"}
    ingest = {"sources": [source], "splits": {"train": 1.0, "validation": 0.0, "test": 0.0}}
    asked = estimate(tmp_path, "ingest", ingest, {})
    assert all(name.replace("__", ".") in asked.missing for name in told)
    flow = estimate(tmp_path, "ingest", ingest, {}, **told).flow
    template = len(prompts.source("judge_rubric_pairwise")) / CHARS_PER_TOKEN + TURN_TOKENS
    judged = estimate(tmp_path, "judge", {}, {"rows": flow})
    assert judged.tokens["generated"] == 200 * 30
    assert judged.tokens["prompt"] == pytest.approx(200 * (template + 20 + 2 * 50))
    examples = estimate(tmp_path, "judgement_examples", {}, {"rows": flow})
    assert examples.flow.tokens == {"prompt": pytest.approx(template + 120), "chosen": 30}
    bare = estimate(tmp_path, "judgement_examples", {"rationale": False}, {"rows": flow})
    assert bare.flow.tokens["chosen"] == 6
    trained = estimate(tmp_path, "train", {"loss": {"name": "sft"}}, {"rows": examples.flow})
    assert not trained.missing
