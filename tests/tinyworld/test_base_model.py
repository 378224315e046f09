"""The tokenizer, the training code in small, and the model that ships."""

import dataclasses
import json
import random
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rayonale.tinyworld import base_model_path, teacher
from rayonale.tinyworld.base_model import (
    CHECKPOINT,
    BaseModelSettings,
    rate_factor,
    train,
)
from rayonale.tinyworld.batches import micro_batches, tokenise
from rayonale.tinyworld.measures import (
    held_out_pairs,
    load_generator,
    measure_pairwise,
    measure_pointwise,
    measure_rationales,
    measure_responses,
)
from rayonale.tinyworld.model_card import MEASURES
from rayonale.tinyworld.muon import orthogonalise
from rayonale.tinyworld.rubric import score
from rayonale.tinyworld.tasks import EARLY_EXAMPLES, example, stream


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(base_model_path())


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_round_trips(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text


def test_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= 2048
    assert tokenizer.convert_ids_to_tokens(tokenizer("12 345").input_ids) == [
        "1", "2", "Ġ3", "4", "5",
    ]  # fmt: skip
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    for text in (" the", " crow", " Response", '{"', " [", "RESULT"):
        assert len(tokenizer(text).input_ids) == 1, text
    assert tokenizer.model_max_length >= 2048


def test_chat_template_has_one_bos_and_a_system_role(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|bos|><|system|>S<|end|><|user|>Hi<|end|><|assistant|>Yo<|end|>"
    for special in (True, False):
        ids = tokenizer(text, add_special_tokens=special).input_ids
        assert ids.count(tokenizer.bos_token_id) == 1
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)
    with pytest.raises(Exception, match="Unknown role"):
        tokenizer.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def test_the_template_without_system_role_refuses_it(tokenizer: PreTrainedTokenizerFast) -> None:
    template = (base_model_path() / "chat_template_no_system.jinja").read_text("utf-8")
    user = [{"role": "user", "content": "Hi"}]
    plain = tokenizer.apply_chat_template(user, tokenize=False, chat_template=template)
    assert plain == tokenizer.apply_chat_template(user, tokenize=False)
    with pytest.raises(Exception, match="System role not supported"):
        tokenizer.apply_chat_template(
            [{"role": "system", "content": "S"}, *user], tokenize=False, chat_template=template
        )


ALL_TASKS = {
    "respond", "rationale_general", "rationale_detailed", "grade_rationale",
    "judge_pointwise", "judge_pairwise", "grade_judgement", "pick_rationale",
}  # fmt: skip


def test_the_stream_is_seeded_and_holds_every_task() -> None:
    first = list(islice(stream(0, early=0), 300))
    assert first[7] == example(0, 7, early=0)
    assert list(islice(stream(0, 100, early=0), 5)) == first[100:105]
    assert example(1, 7) != example(0, 7)
    assert {item.task for item in first} == ALL_TASKS
    assert {item.task for item in islice(stream(0), 100)} == {"respond", "judge_pointwise"}
    assert {item.task for item in islice(stream(0, EARLY_EXAMPLES), 300)} == ALL_TASKS
    for item in first:
        if item.task == "grade_rationale":
            assert tuple(json.loads(item.answer)) == ("explanation", *teacher.CRITERIA)
    assert any((item.system or "").startswith("Target overall score: ") for item in first)


def test_rows_know_where_their_responses_end(tokenizer: PreTrainedTokenizerFast) -> None:
    for item in islice(stream(3, early=0), 100):
        row = tokenise(item, tokenizer)
        assert tokenizer.decode(row.ids[row.prompt :]) == item.answer + "<|end|>"
        for response, end, values in zip(item.shown, row.ends, row.values, strict=True):
            last = "<|end|>" if response == item.answer else ""
            assert tokenizer.decode(row.ids[: end + 1]).endswith(response + last)
            assert [v + 1 for v in values] == list(score(item.prompt, response).attributes.values())


def test_micro_batches_keep_every_token_once(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [tokenise(item, tokenizer) for item in islice(stream(0, early=0), 16)]
    batches = list(micro_batches(rows, 3, tokenizer.pad_token_id))
    assert len(batches) == 3
    kept = sorted(
        tuple(line[line != tokenizer.pad_token_id].tolist()) for b in batches for line in b.ids
    )
    assert kept == sorted(tuple(row.ids) for row in rows)
    answers = sum(int(batch.answer.sum()) for batch in batches)
    assert answers == sum(len(row.ids) - row.prompt for row in rows)
    assert sum(len(batch.values) for batch in batches) == sum(len(row.ends) for row in rows)


def test_rate_warms_up_stays_and_falls_to_zero() -> None:
    settings_ = BaseModelSettings(steps=100, warmup=10, decay=0.3, late_steps=10, late_rate=0.4)
    found = [rate_factor(settings_, step) for step in (0, 9, 50, 70, 85, 100, 105, 110)]
    assert found == pytest.approx([0.1, 1, 1, 1, 0.5, 0.4, 0.2, 0])


def test_orthogonalise_gives_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 20, 50), (2, 50, 20)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_training_goes_on_exactly_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    monkeypatch.setattr("rayonale.tinyworld.base_model.build_tokenizer", lambda *_: tokenizer)
    small = BaseModelSettings(
        steps=3, late_steps=1, examples=2, micro_batches=1, warmup=1, hidden=32, layers=2, heads=1,
        inner=32,         probe_layer=1,
        save_every=0.0,
    )  # fmt: skip
    train(small, tmp_path / "whole", tmp_path / "whole_out")

    calls = iter(range(10))

    def killed_at_the_third(self: torch.optim.Optimizer, closure: None = None) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return original(self)

    original = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(small, tmp_path / "work", tmp_path / "out")
    monkeypatch.setattr(torch.optim.AdamW, "step", original)
    assert torch.load(tmp_path / "work" / CHECKPOINT, weights_only=True)["step"] == 2
    train(small, tmp_path / "work", tmp_path / "out")
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole_out", "out")
    ]
    assert weights[0] == weights[1]
    with pytest.raises(ValueError, match="found settings .*expected"):
        train(dataclasses.replace(small, rate=1.0), tmp_path / "work", tmp_path / "out")
    with pytest.raises(ValueError, match="past the start of the decay"):
        train(dataclasses.replace(small, steps=2), tmp_path / "work", tmp_path / "out")


def test_the_shipped_model_is_small_and_whole() -> None:
    folder = base_model_path()
    assert (folder / "model.safetensors").stat().st_size <= 8 * 2**20
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() <= 3_000_000
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings >= 2048
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def recorded(name: str) -> float:
    return float(json.loads((base_model_path() / MEASURES).read_text("utf-8"))[name])


def test_the_card_reaches_its_targets() -> None:
    assert 5 <= recorded("greedy_overall") <= 7
    assert recorded("true_difference_detailed") >= 0.6
    assert recorded("pointwise_pearson") >= 0.5


@pytest.mark.xfail(strict=True, reason="half the general rationales: the card has the value")
def test_general_rationales_name_a_true_difference() -> None:
    assert recorded("true_difference_general") >= 0.6


@pytest.mark.xfail(strict=True, reason="its grades do not tell reversed rationales from true ones")
def test_grades_tell_reversed_rationales() -> None:
    assert recorded("kept_true") - recorded("kept_reversed") >= 0.3


def test_the_card_holds_on_a_small_sample() -> None:
    """The recorded values hold within sampling error, and the targets that are reached."""
    generate = load_generator(base_model_path())
    pairs = held_out_pairs(60, seed=9)
    found = {
        **measure_responses(generate, pairs),
        **measure_rationales(generate, pairs),
        **measure_pointwise(generate, pairs),
        **measure_pairwise(generate, pairs),
    }
    for name, spread in {
        "greedy_overall": 0.8,
        "sampled_overall": 0.6,
        "true_difference_general": 0.2,
        "true_difference_detailed": 0.2,
        "pointwise_pearson": 0.2,
        "pairwise_accuracy": 0.2,
    }.items():
        assert abs(found[name] - recorded(name)) <= spread, name
    assert found["pointwise_parse_rate"] > 0.95
    readme = (base_model_path() / "README.md").read_text("utf-8")
    assert f"| pointwise_pearson | {recorded('pointwise_pearson'):.3f} |" in readme


def test_example_texts_are_short(tokenizer: PreTrainedTokenizerFast) -> None:
    """The demo's time budget rests on these lengths, in tokens."""
    rng = random.Random(0)
    pairs = held_out_pairs(50, seed=2)
    longest = max(
        len(tokenizer(teacher.pointwise_judgement(p.prompt, p.chosen, rng)).input_ids)
        for p in pairs
    )
    assert longest < 70
