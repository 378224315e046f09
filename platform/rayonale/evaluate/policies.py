"""Reads the samples of the policies that are compared, and matches them on prompt ids.

    samples of sft  {id, prompt, responses: [s0, s1]} ─┐
    samples of rdpo {id, prompt, responses: [s0, s1]} ─┴─► Match(prompt, (s0, s0), (s1, s1))

Evaluation sets are hundreds to thousands of prompts and are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rayonale import storage
from rayonale.records import Message
from rayonale.stages import StageOutput


@dataclass(frozen=True)
class Answers:
    """One policy's samples for one prompt.

    `tokens` are None where the stage did not count; `reference` is the data's own preferred text,
    where the rows have one.
    """

    prompt: list[Message]
    responses: list[str]
    tokens: list[int | None]
    reference: str | None = None


@dataclass(frozen=True)
class PolicySamples:
    """All samples of one policy.

    Attributes:
        label: the policy's name in comparisons.
        stage: name of the `samples` stage.
        answers: prompt id → answers.
    """

    label: str
    stage: str
    answers: dict[str, Answers]


def labels(outputs: Sequence[StageOutput]) -> list[str]:
    """Names of the policies: the sampled model's stage, or the samples stage where unclear.

    Answers from a file have the name that the file gives (`details.policy`). A policy that was
    sampled twice (two temperatures, say) is named after its samples stages.
    """
    models = [_policy_of(output) for output in outputs]
    return [
        model if model is not None and models.count(model) == 1 else output.name
        for model, output in zip(models, outputs, strict=True)
    ]


def labels_of_models(outputs: Sequence[StageOutput]) -> list[str]:
    """Names of models that are read directly.

    Raises:
        ValueError: one comes twice.
    """
    names = [output.name for output in outputs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is read twice; expected each policy once")
    return names


def _policy_of(output: StageOutput) -> str | None:
    if told := output.manifest.get("details", {}).get("policy"):
        return str(told)
    read = output.manifest.get("inputs", {})
    for role in ("policy", "model"):
        if isinstance(read.get(role), dict):
            return str(read[role]["name"])
    return None


def read_policies(outputs: Sequence[StageOutput]) -> list[PolicySamples]:
    """Read every policy's samples.

    Raises:
        ValueError: two policies of one name, or an id twice in one policy's samples.
    """
    named = labels(outputs)
    twice = sorted({label for label in named if named.count(label) > 1})
    if twice:
        raise ValueError(f"samples of {', '.join(twice)} are read twice; expected each once")
    return [
        PolicySamples(label, output.name, dict(_answers(output)))
        for label, output in zip(named, outputs, strict=True)
    ]


def _answers(output: StageOutput) -> Iterator[tuple[str, Answers]]:
    wanted = ("id", "prompt", "responses", "response_tokens", "chosen")
    columns = [name for name in wanted if name in storage.schema(output.rows).names]
    seen: set[str] = set()
    for row in storage.read_rows(output.rows, columns):
        if row["id"] in seen:
            raise ValueError(
                f"{output.rows}: id {row['id']} comes twice; expected one row a prompt"
            )
        seen.add(row["id"])
        responses = [response or "" for response in row["responses"]]
        tokens = _tokens(row.get("response_tokens"), responses)
        said = row.get("chosen")
        reference = said[-1]["content"] if said else None
        yield row["id"], Answers(row["prompt"], responses, tokens, reference)


def _tokens(counted: Any, responses: list[str]) -> list[int | None]:
    if isinstance(counted, list) and len(counted) == len(responses):
        return [None if number is None else int(number) for number in counted]
    return [None] * len(responses)


def find(policies: Sequence[PolicySamples], name: str) -> PolicySamples:
    """The policy that a comparison names, by its label or by its samples stage.

    Raises:
        ValueError: no such policy; the message lists the choices.
    """
    for policy in policies:
        if name in (policy.label, policy.stage):
            return policy
    choices = ", ".join(policy.label for policy in policies)
    raise ValueError(f"comparisons: no samples of policy {name!r}; choices: {choices}")


@dataclass(frozen=True)
class Match:
    """One prompt that both policies answered, and one sample of each."""

    id: str
    prompt: list[Message]
    sample: int
    response_a: str
    response_b: str
    tokens_a: int | None
    tokens_b: int | None
    reference: str | None = None


def match(a: PolicySamples, b: PolicySamples) -> tuple[list[Match], list[tuple[str, str]]]:
    """Samples paired by prompt id and index, in id order; and (id, reason) of what stays single.

    The reasons: `unmatched_prompt` (only one policy answered it), `unmatched_sample` (one policy
    has more samples of it than the other).
    """
    matches: list[Match] = []
    single = [(key, "unmatched_prompt") for key in sorted(a.answers.keys() ^ b.answers.keys())]
    for key in sorted(a.answers.keys() & b.answers.keys()):
        first, second = a.answers[key], b.answers[key]
        both = min(len(first.responses), len(second.responses))
        longest = max(len(first.responses), len(second.responses))
        single += [(key, "unmatched_sample")] * (longest - both)
        matches += [
            Match(
                id=key,
                prompt=first.prompt,
                sample=sample,
                response_a=first.responses[sample],
                response_b=second.responses[sample],
                tokens_a=first.tokens[sample],
                tokens_b=second.tokens[sample],
                reference=first.reference,
            )
            for sample in range(both)
        ]
    return matches, single
