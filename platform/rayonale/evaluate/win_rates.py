"""The `win_rates` stage: policies compared by scorers and by LLM judges, on the same prompts.

samples (many) ─ matched by prompt id ─┬─ scorers ────────────┐
                                       └─ LLM judges, a|b b|a ┴─► rows/ ─ summary ─► metrics
                                                              └─► rejects/ (unreadable …)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rayonale import storage
from rayonale.enrich.generation import check_template
from rayonale.enrich.transcript import prompt_text
from rayonale.evaluate import estimates, scorers, summary
from rayonale.evaluate.comparisons import ROWS, attributes_column
from rayonale.evaluate.judges import VARIABLES, EndpointJudge, LlmJudge, PairJudge, judge_pairs
from rayonale.evaluate.oracle_judge import OracleJudge, judge_by_reward
from rayonale.evaluate.policies import Match, PolicySamples, find, match, read_policies
from rayonale.evaluate.statistics import outcome
from rayonale.prompts import variables
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

log = logging.getLogger("rayonale")

Row = dict[str, Any]


class ScorerJudge(Settings):
    """Compares by a reward function.

    Attributes:
        name: a scorer of `evaluate/scorers.py`.
        tie_margin: scores that differ by no more than this are a tie.
    """

    kind: Literal["scorer"]
    name: str
    tie_margin: float = Field(0.0, ge=0)


Judge = Annotated[ScorerJudge | LlmJudge | EndpointJudge | OracleJudge, Field(discriminator="kind")]


class WinRateSettings(Settings):
    """Settings of the `win_rates` stage.

    Attributes:
        comparisons: [a, b] pairs of policies (names of the models' stages or of the samples
            stages); the win rate is a's against b. None compares all pairs, the later read
            against the earlier.
        baseline: compare every other policy with this one; excludes `comparisons`.
        judges: who compares.
        level: confidence level of intervals.
        seed: of the bootstrap.
        max_unreadable: share of an LLM judge's pairs that may be unreadable before the stage
            stops; with 1 it never does, and a judge that read none has no win rate.
    """

    comparisons: tuple[tuple[str, str], ...] | None = None
    baseline: str | None = None
    judges: tuple[Judge, ...] = Field(min_length=1)
    level: float = Field(0.95, gt=0, lt=1)
    seed: int = 0
    max_unreadable: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _choices_fit(self) -> WinRateSettings:
        problems = []
        if self.comparisons is not None and self.baseline is not None:
            problems.append("comparisons and baseline exclude each other: give one")
        if self.comparisons is not None:
            problems += [f"comparisons: {a!r} with itself" for a, b in self.comparisons if a == b]
        names = [judge.name for judge in self.judges]
        problems += [
            f"judges: the name {name!r} comes twice; give each its own `name`"
            for name, times in Counter(names).items()
            if times > 1
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def run(context: StageContext, settings: WinRateSettings) -> StageResult:
    """Compare policies on the prompts that both answered.

    Raises:
        ValueError: an unknown policy, no prompt in common, too many unreadable verdicts.
    """
    policies = read_policies(context.inputs["samples"])
    pairs = chosen_pairs(policies, settings)
    rows: list[Row] = []
    rejects: list[Row] = []
    matched: dict[str, list[Match]] = {}
    for a, b in pairs:
        comparison = comparison_name(a, b)
        matched[comparison], single = match(a, b)
        if not matched[comparison]:
            raise ValueError(
                f"{comparison}: no prompt in common; {a.label} has {len(a.answers)} prompts, "
                f"{b.label} has {len(b.answers)}: sample both from the same rows"
            )
        rejects += [_single_reject(comparison, a, b, key, reason) for key, reason in single]
    items = [_item(a, b, found) for a, b in pairs for found in matched[comparison_name(a, b)]]
    facts: list[dict[str, Any]] = []
    for judge in settings.judges:
        judged, refused, fact = judge_by(context, items, judge)
        log.info("%s: %s judged %d pairs, %d left out", context.name, judge.name, len(judged),
                 len(refused))  # fmt: skip
        _stop_when_unreadable(judge, len(judged), refused, settings.max_unreadable)
        rows += judged
        rejects += refused
        facts.append({"judge": judge.name, "kind": judge.kind, **fact})
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    return _result(policies, rows, rejects, facts, settings)


def judge_by(
    context: StageContext, items: Sequence[Row], judge: Judge
) -> tuple[list[Row], list[Row], Row]:
    """(rows, rejects, facts) of one judge, of any kind."""
    if isinstance(judge, ScorerJudge):
        return score_pairs(items, judge)
    if isinstance(judge, OracleJudge):
        return judge_by_reward(context, items, judge)
    return judge_pairs(context, items, judge)


def chosen_pairs(
    policies: Sequence[PolicySamples], settings: WinRateSettings
) -> list[tuple[PolicySamples, PolicySamples]]:
    """The pairs (a, b) to compare.

    Raises:
        ValueError: a name that no policy has, or fewer than two policies.
    """
    if settings.comparisons is not None:
        found = [(find(policies, a), find(policies, b)) for a, b in settings.comparisons]
        names = [comparison_name(a, b) for a, b in found]
        twice = sorted({name for name in names if names.count(name) > 1})
        itself = [a.label for a, b in found if a is b]
        if twice or itself:
            raise ValueError(
                f"comparisons: expected each pair of policies once; found twice: {twice}, with "
                f"itself: {itself}"
            )
        return found
    if len(policies) < 2:
        raise ValueError(f"samples of {len(policies)} policy read; expected two or more")
    if settings.baseline is not None:
        base = find(policies, settings.baseline)
        return [(policy, base) for policy in policies if policy is not base]
    return [(later, earlier) for at, later in enumerate(policies) for earlier in policies[:at]]


def comparison_name(a: PolicySamples, b: PolicySamples) -> str:
    """`<a>_vs_<b>`, as in metrics and rows."""
    return f"{a.label}_vs_{b.label}"


def _item(a: PolicySamples, b: PolicySamples, found: Match) -> Row:
    """What every judge gets: one pair of responses (columns of `ROWS`)."""
    values = asdict(found)
    return {
        "comparison": comparison_name(a, b),
        "policy_a": a.label,
        "policy_b": b.label,
        "prompt_id": values.pop("id"),
        **values,
    }


def score_pairs(items: Sequence[Row], judge: ScorerJudge) -> tuple[list[Row], list[Row], Row]:
    """(rows, rejects, facts) of a scorer; each response is scored once."""
    scorer = scorers.get(judge.name)
    rows, rejects = [], []
    known: dict[tuple[str, str], scorers.Scored] = {}
    for item in items:
        prompt = prompt_text(item["prompt"])
        row = {
            **item,
            "id": f"{item['comparison']}/{judge.name}/{item['prompt_id']}/{item['sample']}/0",
            "judge": judge.name,
            "judge_kind": "scorer",
            "repeat": 0,
        }
        try:
            for side in ("a", "b"):
                key = (prompt, item[f"response_{side}"])
                if key not in known:
                    known[key] = scorer(*key)
                row[f"score_{side}"] = known[key].overall
                row[f"attributes_{side}"] = attributes_column(known[key].attributes)
        except ValueError as error:
            rejects.append(summary.reject(row, RejectKind.INVALID, "not_scorable", str(error)))
            continue
        apart = abs(row["score_a"] - row["score_b"]) > judge.tie_margin
        row["outcome"] = outcome(row["score_a"], row["score_b"]) if apart else 0.5
        rows.append(row)
    return rows, rejects, {}


def _single_reject(
    comparison: str, a: PolicySamples, b: PolicySamples, key: str, reason: str
) -> Row:
    has, lacks = (a, b) if len(_responses(a, key)) > len(_responses(b, key)) else (b, a)
    detail = (
        f"{comparison}: {has.label} has {len(_responses(has, key))} response(s) to this prompt, "
        f"{lacks.label} has {len(_responses(lacks, key))}"
    )
    row = {"id": key, "comparison": comparison}
    return summary.reject(row, RejectKind.FILTERED, reason, detail)


def _responses(policy: PolicySamples, key: str) -> list[str]:
    return policy.answers[key].responses if key in policy.answers else []


def _stop_when_unreadable(
    judge: Judge, readable: int, refused: Sequence[Row], share: float
) -> None:
    invalid = [row for row in refused if row["kind"] == RejectKind.INVALID]
    if (readable or share == 1) and len(invalid) <= share * (readable + len(invalid)):
        if not readable:
            log.warning(
                "judge %r could read none of %d pairs: there is no win rate by it",
                judge.name,
                len(invalid),
            )
        return
    reasons = Counter(row["reason"] for row in invalid).most_common(3)
    example = f"; for example: {invalid[0]['detail'][:300]}" if invalid else ""
    raise ValueError(
        f"judge {judge.name!r}: {len(invalid)} of {readable + len(invalid)} pairs left out, more "
        f"than max_unreadable {share:.0%}: "
        f"{', '.join(f'{reason} {times}' for reason, times in reasons)}{example}"
    )


def _result(
    policies: Sequence[PolicySamples],
    rows: Sequence[Row],
    rejects: Sequence[Row],
    facts: list[Row],
    settings: WinRateSettings,
) -> StageResult:
    counted: dict[str, dict[str, int]] = {}
    for row in rejects:
        kind = counted.setdefault(row["kind"], {})
        kind[row["reason"]] = kind.get(row["reason"], 0) + 1
    details = {
        "policies": [policy.label for policy in policies],
        "judges": facts,
        "win_rates": summary.win_rates(rows, rejects, level=settings.level, seed=settings.seed),
        "scores": summary.scores(rows, level=settings.level, seed=settings.seed),
        "lengths": summary.lengths(policies, level=settings.level, seed=settings.seed),
        "agreement": summary.agreement(rows),
        "advantages": summary.advantages(rows, level=settings.level, seed=settings.seed),
    }
    return StageResult(
        rows_in=len(rows) + len(rejects),
        rows_out=len(rows),
        rejects=counted,
        metrics=summary.metrics(details),
        details=details,
        prompts=sorted({j.template for j in settings.judges if isinstance(j, PairJudge)}),
    )


def _sources(settings: WinRateSettings) -> Iterator[str]:
    for judge in settings.judges:
        if isinstance(judge, ScorerJudge):
            yield f"module:{scorers.module_of(judge.name)}"
        elif isinstance(judge, PairJudge):
            yield f"prompt:{judge.template}"


def _validate(settings: WinRateSettings) -> list[str]:
    problems = []
    for number, judge in enumerate(settings.judges):
        if isinstance(judge, ScorerJudge) and judge.name not in scorers.SCORERS:
            choices = ", ".join(sorted(scorers.SCORERS))
            problems.append(f"judges.{number}.name: no scorer {judge.name!r}; choices: {choices}")
        elif isinstance(judge, PairJudge):
            unseen = frozenset() if judge.reference else frozenset({"reference"})
            told = check_template(judge.template, VARIABLES - unseen)
            if judge.reference and not told and "reference" not in variables(judge.template):
                told = [f"reference: template {judge.template!r} does not show it"]
            problems += [f"judges.{number}.{message}" for message in told]
    return problems


STAGE = Stage(
    kind="win_rates",
    settings=WinRateSettings,
    run=run,
    reads={
        "samples": Reads("rows", columns=("id", "prompt", "responses"), many=True),
        "judge_model": Reads("model", optional=True),
        "oracle": Reads("model", optional=True),
    },
    adds=tuple(ROWS.names),
    sources=lambda settings: list(_sources(settings)),
    validate=_validate,
    estimate=estimates.win_rates,
)
