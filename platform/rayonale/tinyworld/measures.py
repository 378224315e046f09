"""Measures the base model against the rubric.

All prompts are drawn from a stream of their own, apart from the training stream.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import correlation, mean
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayonale.prompts import render as render_template
from rayonale.tinyworld.claims import names_true_difference
from rayonale.tinyworld.grading import CRITERIA
from rayonale.tinyworld.judgements import best_and_worst, flawed_judgement, grade_of_judgement
from rayonale.tinyworld.rationales import (
    detailed_rationale,
    general_rationale,
    reverse_rationale,
)
from rayonale.tinyworld.requests import parse, sample_prompt
from rayonale.tinyworld.responses import write_response
from rayonale.tinyworld.rubric import score

_RESULT = re.compile(r"\[RESULT\] (\d)\s*\Z")

Generate = Callable[[Sequence[str], bool, int], list[str]]


@dataclass(frozen=True)
class Pair:
    """A held-out pair; `first`: whether the chosen response is shown first."""

    prompt: str
    chosen: str
    rejected: str
    first: bool
    gap: float

    def variables(self) -> dict[str, Any]:
        """Template variables of the rationale prompts."""
        return {
            "prompt": self.prompt,
            "chosen": self.chosen,
            "rejected": self.rejected,
            "chosen_first": self.first,
        }

    def arguments(self) -> tuple[str, str, str]:
        """Prompt, chosen, rejected: the first arguments of the teacher's functions."""
        return self.prompt, self.chosen, self.rejected


def load_generator(folder: Path, batch: int = 100) -> Generate:
    """A function of (user texts, sample?, seed) that gives one answer for each text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer.padding_side = "left"

    def generate(users: Sequence[str], sample: bool = False, seed: int = 0) -> list[str]:
        torch.manual_seed(seed)
        decoding = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
        order = sorted(range(len(users)), key=lambda index: len(users[index]))
        answers: dict[int, str] = {}
        for start in range(0, len(users), batch):
            chunk = order[start : start + batch]
            texts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": users[index]}],
                    add_generation_prompt=True,
                    tokenize=False,
                )
                for index in chunk
            ]
            inputs = tokenizer(
                texts, return_tensors="pt", padding=True, add_special_tokens=False,
                return_token_type_ids=False,
            )  # fmt: skip
            with torch.inference_mode():
                out = model.generate(**inputs, max_new_tokens=140, **decoding)
            tails = out[:, inputs["input_ids"].shape[1] :]
            decoded = tokenizer.batch_decode(tails, skip_special_tokens=True)
            answers.update(zip(chunk, decoded, strict=True))
        return [answers[index] for index in range(len(users))]

    return generate


def held_out_pairs(count: int, seed: int = 1) -> list[Pair]:
    """Pairs of unequal score that are not of the training stream."""
    rng = random.Random(f"tinyworld card {seed}")
    pairs: list[Pair] = []
    while len(pairs) < count:
        prompt = sample_prompt(rng)
        request = parse(prompt)
        a, b = write_response(request, rng), write_response(request, rng)
        gap = score(prompt, a).overall - score(prompt, b).overall
        if gap:
            chosen, rejected = (a, b) if gap > 0 else (b, a)
            pairs.append(Pair(prompt, chosen, rejected, rng.random() < 0.5, abs(gap)))
    return pairs


def measure(folder: Path, prompts: int = 300) -> dict[str, float]:
    """Every figure of the model card, from `prompts` held-out prompts for each task."""
    generate = load_generator(folder)
    pairs = held_out_pairs(prompts)
    return {
        **measure_responses(generate, pairs),
        **measure_rationales(generate, pairs),
        **measure_grades(generate, pairs),
        **measure_pointwise(generate, pairs),
        **measure_pairwise(generate, pairs),
        **measure_judging_of_judgements(generate, pairs),
    }


def measure_responses(generate: Generate, pairs: list[Pair]) -> dict[str, float]:
    """Mean overall (1–10), greedy and sampled at temperature 1, and diversity."""
    prompts = [pair.prompt for pair in pairs]
    greedy = generate(prompts, False, 0)
    drawn = [generate(prompts, True, seed) for seed in (1, 2, 3, 4)]
    scored = [[score(p, text).overall for p, text in zip(prompts, d, strict=True)] for d in drawn]
    return {
        "greedy_overall": mean(
            score(p, text).overall for p, text in zip(prompts, greedy, strict=True)
        ),
        "sampled_overall": mean(value for row in scored for value in row),
        "best_of_4_overall": mean(map(max, zip(*scored, strict=True))),
        "distinct_of_4": mean(len(set(texts)) / 4 for texts in zip(*drawn, strict=True)),
    }


def measure_rationales(generate: Generate, pairs: list[Pair]) -> dict[str, float]:
    """Share of greedy rationales that name a true difference."""
    found = {}
    for style in ("general", "detailed"):
        template = f"tinyworld/rationale_{style}"
        texts = generate([render_template(template, **p.variables()) for p in pairs], False, 0)
        found[f"true_difference_{style}"] = mean(
            names_true_difference(*pair.arguments(), text, pair.first)
            for pair, text in zip(pairs, texts, strict=True)
        )
    return found


def measure_grades(generate: Generate, pairs: list[Pair]) -> dict[str, float]:
    """Mean grades that it gives to true, shuffled and reversed rationales."""
    rng = random.Random("tinyworld card grades")
    true = [
        rng.choice((general_rationale, detailed_rationale))(*pair.arguments(), rng, pair.first)
        for pair in pairs
    ]
    kinds = {
        "true": true,
        "shuffled": [*true[1:], true[0]],
        "reversed": [reverse_rationale(text) for text in true],
    }
    figures: dict[str, float] = {}
    parsed_all: list[bool] = []
    for kind, texts in kinds.items():
        users = [
            render_template("tinyworld/grade_rationale", rationale=text, **pair.variables())
            for pair, text in zip(pairs, texts, strict=True)
        ]
        grades = [_grades(answer) for answer in generate(users, False, 0)]
        parsed = [grade for grade in grades if grade is not None]
        parsed_all += [grade is not None for grade in grades]
        for criterion in CRITERIA:
            figures[f"grade_{kind}_{criterion}"] = mean(g[criterion] for g in parsed or [_ZERO])
        figures[f"kept_{kind}"] = mean(min(g.values()) > 3 for g in parsed or [_ZERO])
    return {"grade_parse_rate": mean(parsed_all), **figures}


def measure_pointwise(generate: Generate, pairs: list[Pair]) -> dict[str, float]:
    """Pearson correlation of the written verdict with the true overall."""
    shown = [(pair.prompt, response) for pair in pairs for response in (pair.chosen, pair.rejected)]
    users = [
        render_template(
            "tinyworld/judge_pointwise", prompt=prompt, response=text, reference=None, rubric=None
        )
        for prompt, text in shown
    ]
    given = [_verdict(answer) for answer in generate(users, False, 0)]
    read = [
        (value, score(*pair).overall)
        for pair, value in zip(shown, given, strict=True)
        if value is not None
    ]
    verdicts, truths = [value for value, _ in read], [truth for _, truth in read]
    varied = len(set(verdicts)) > 1
    return {
        "pointwise_pearson": correlation(verdicts, truths) if varied else 0.0,
        "pointwise_parse_rate": len(read) / len(shown),
    }


def measure_pairwise(generate: Generate, pairs: list[Pair]) -> dict[str, float]:
    """Accuracy in both orders, position bias and consistency of the pairwise judge."""
    orders = [[(p.chosen, p.rejected) for p in pairs], [(p.rejected, p.chosen) for p in pairs]]
    verdicts = []
    for order in orders:
        users = [
            render_template(
                "tinyworld/judge_pairwise", prompt=p.prompt, response_1=one, response_2=two
            )
            for p, (one, two) in zip(pairs, order, strict=True)
        ]
        verdicts.append([_verdict(answer) for answer in generate(users, False, 0)])
    right = [[v == 1 for v in verdicts[0]], [v == 2 for v in verdicts[1]]]
    wide = [index for index, pair in enumerate(pairs) if pair.gap >= 2]
    every = verdicts[0] + verdicts[1]
    return {
        "pairwise_accuracy": mean(right[0] + right[1]),
        "pairwise_accuracy_gap_2": mean(side[index] for side in right for index in wide),
        "pairwise_says_first": mean(v == 1 for v in every),
        "pairwise_flip_rate": mean(a != b for a, b in zip(*right, strict=True)),
        "pairwise_parse_rate": mean(v in (1, 2) for v in every),
    }


def measure_judging_of_judgements(generate: Generate, pairs: list[Pair]) -> dict[str, float]:
    """Correlation of its grades of judgements with the true ones; accuracy of its picks."""
    rng = random.Random("tinyworld card judgements")
    texts = [
        flawed_judgement(p.prompt, p.chosen, rng, rng.randint(0, 4), rng.randint(-2, 2))
        for p in pairs
    ]
    users = [
        render_template(
            "tinyworld/grade_judgement", prompt=p.prompt, response=p.chosen, judgement=text
        )
        for p, text in zip(pairs, texts, strict=True)
    ]
    given = [_verdict(answer) or 1 for answer in generate(users, False, 0)]
    truths = [
        grade_of_judgement(p.prompt, p.chosen, text) for p, text in zip(pairs, texts, strict=True)
    ]
    lists = [
        [flawed_judgement(p.prompt, p.chosen, rng, w).partition(" [RESULT]")[0] for w in wrongs]
        for p, wrongs in ((p, rng.sample(range(6), 3)) for p in pairs)
    ]
    users = [
        render_template(
            "tinyworld/pick_rationale", prompt=p.prompt, response=p.chosen, rationales=options
        )
        for p, options in zip(pairs, lists, strict=True)
    ]
    picks = generate(users, False, 0)
    goals = [
        str(best_and_worst(p.prompt, p.chosen, options))
        for p, options in zip(pairs, lists, strict=True)
    ]
    varied = len(set(given)) > 1
    return {
        "grade_judgement_pearson": correlation(given, truths) if varied else 0.0,
        "pick_best_of_3": mean(a[:2] == b[:2] for a, b in zip(picks, goals, strict=True)),
    }


_ZERO: Final = dict.fromkeys(CRITERIA, 0)


def _verdict(answer: str) -> int | None:
    found = _RESULT.search(answer)
    return int(found[1]) if found else None


def _grades(answer: str) -> dict[str, int] | None:
    try:
        value = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    grades = {name: grade for name in CRITERIA if isinstance(grade := value.get(name), int)}
    return grades if len(grades) == len(CRITERIA) else None
