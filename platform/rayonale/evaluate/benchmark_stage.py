"""What stages of question benchmarks share: whose answers there are, how bad a judge may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayonale import storage
from rayonale.evaluate.benchmark_files import Answers, Question, read_answers
from rayonale.lineage import fingerprints
from rayonale.records import RejectKind
from rayonale.stages import StageContext

Row = dict[str, Any]


def gather_answers(context: StageContext, files: Sequence[str]) -> Answers:
    """Answers of files and of the `answers` stages read, by model.

    Raises:
        ValueError: one model's answers come from two places.
    """
    found: Answers = {}
    given: list[tuple[str, Answers]] = [(uri, read_answers(uri)) for uri in files]
    for output in context.inputs.get("policies") or []:
        rows = storage.read_rows(output.rows, ["id", "answers"])
        policy = str(output.manifest.get("details", {}).get("policy") or output.name)
        given.append((output.name, {policy: {row["id"]: tuple(row["answers"]) for row in rows}}))
    for where, answers in given:
        if twice := sorted(found.keys() & answers.keys()):
            raise ValueError(f"{where}: answers of {', '.join(twice)} were read already")
        found |= answers
    return found


def known_model(name: str, answers: Answers, what: str) -> str:
    """`name`, when there are answers of it.

    Raises:
        ValueError: there are none; the message lists whose there are.
    """
    if name not in answers:
        choices = ", ".join(sorted(answers)) or "none"
        raise ValueError(f"{what}: no answers of {name!r}; answers of: {choices}")
    return name


def answered(question: Question, turns: Sequence[str] | None) -> bool:
    """Whether there is an answer to every turn."""
    return turns is not None and len(turns) >= len(question.turns)


def stop_when_unreadable(judge: str, readable: int, rejects: Iterable[Row], share: float) -> None:
    """Stop when more than a share of a judge's texts was unreadable.

    Raises:
        ValueError: says how many, why, and shows one.
    """
    refused = [row for row in rejects if row["kind"] != RejectKind.FILTERED]
    whole = readable + len(refused)
    if not refused or (len(refused) <= share * whole and (readable or share == 1)):
        return
    reasons = Counter(row["reason"] for row in refused).most_common(3)
    told = ", ".join(f"{reason} {times}" for reason, times in reasons)
    raise ValueError(
        f"judge {judge!r}: {len(refused)} of {whole} left out, more than max_unreadable "
        f"{share:.0%}: {told}; for example: {refused[0]['detail'][:300]}"
    )


def counted(rejects: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Rejects by kind and reason."""
    counts: dict[str, dict[str, int]] = {}
    for row in rejects:
        of_kind = counts.setdefault(row["kind"], {})
        of_kind[row["reason"]] = of_kind.get(row["reason"], 0) + 1
    return counts


def seen_files(*named: str | Sequence[str] | None) -> Mapping[str, str]:
    """Fingerprints of files and folders, for a stage's `external_inputs`."""
    uris = [uri for one in named if one for uri in ([one] if isinstance(one, str) else one)]
    return {f"file:{uri}": fingerprints.of_folder(uri) for uri in uris}
