"""Label Studio's layouts: blind side-by-side tasks of rationales out, people's choices back in.

    {"data": {"task": "3f0c…", "conversation": "…", "response": "…", "rubric": "…", "score": "3",
              "rationale_1": "…", "rationale_2": "…"}}               which is whose is kept apart

    {"data": {"task": "3f0c…", …}, "annotations": [{"completed_by": 2, "was_cancelled": false,
       "result": [{"from_name": "preference", "value": {"choices": ["Rationale 2 is better"]}},
                  {"from_name": "reasons", "value": {"choices": ["more specific"]}}]}]}

The task follows the guideline of arXiv 2410.05495, appendix A.2: the criteria, the conversation and
two rationales for the same score; which is better, or a tie, and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

PREFERENCES: Mapping[str, float] = {
    "Rationale 1 is better": 1.0,
    "Rationale 2 is better": 2.0,
    "Tie: both are good": 1.5,
    "Tie: both are poor": 1.5,
}
REASONS = (
    "more coherent",
    "fits the conversation and the criteria better",
    "finds what matters",
    "more specific",
    "states something that is wrong (the other one)",
)
_SHOWN = (
    ("Criteria", "rubric"),
    ("Conversation", "conversation"),
    ("Response", "response"),
    ("Score that both give", "score"),
)
_COMPARED = (("Rationale 1", "rationale_1"), ("Rationale 2", "rationale_2"))


@dataclass(frozen=True)
class Choice:
    """What one person said of one task.

    Attributes:
        task: its id.
        annotator: their number or name, as text.
        value: 1, 1.5 or 2; None where nothing was chosen.
        reasons: those that were ticked.
        comment: their own words.
        problem: why there is no value: `cancelled`, `no_preference`, `unknown_preference`.
    """

    task: str
    annotator: str
    value: float | None
    reasons: tuple[str, ...] = ()
    comment: str = ""
    problem: str | None = None


def labelling_config() -> str:
    """The project's labelling interface (XML)."""

    def text(title: str, name: str) -> str:
        value = quoteattr("$" + name)
        return f"<Header value={quoteattr(title)}/><Text name={quoteattr(name)} value={value}/>"

    def choices(name: str, kind: str, values: Sequence[str], required: str) -> str:
        told = "\n".join(f"    <Choice value={quoteattr(value)}/>" for value in values)
        return (
            f'  <Choices name="{name}" toName="rationale_1" choice="{kind}" '
            f'required="{required}">\n{told}\n  </Choices>'
        )

    return "\n".join(
        [
            "<View>",
            *(f"  {text(*each)}" for each in _SHOWN),
            '  <View style="display: flex; gap: 2em">',
            *(f'    <View style="flex: 1">{text(*each)}</View>' for each in _COMPARED),
            "  </View>",
            '  <Header value="Which rationale judges the response better?"/>',
            choices("preference", "single-radio", list(PREFERENCES), "true"),
            '  <Header value="Why?"/>',
            choices("reasons", "multiple", REASONS, "false"),
            '  <TextArea name="comment" toName="rationale_1" rows="2" placeholder="Comment"/>',
            "</View>",
            "",
        ]
    )


def read_choices(exported: Sequence[Any], where: str) -> Iterator[Choice]:
    """Every annotation of an export (JSON, full).

    Raises:
        ValueError: a task that is none of ours; the message names it.
    """
    for number, task in enumerate(exported, 1):
        data = task.get("data") if isinstance(task, Mapping) else None
        if not isinstance(data, Mapping) or not isinstance(data.get("task"), str):
            raise ValueError(
                f"{where}: entry {number} has no data.task; expected Label Studio's JSON export of "
                "tasks made here"
            )
        for annotation in task.get("annotations") or ():
            yield _choice(data["task"], annotation)


def _choice(task: str, annotation: Mapping[str, Any]) -> Choice:
    told: dict[str, list[str]] = {}
    for result in annotation.get("result") or ():
        value = result.get("value") or {}
        found = value.get("choices") or value.get("text") or []
        told.setdefault(str(result.get("from_name")), []).extend(
            [found] if isinstance(found, str) else map(str, found)
        )
    annotator = _name(annotation.get("completed_by"))
    reasons, comment = tuple(told.get("reasons", ())), " ".join(told.get("comment", ()))
    chosen = told.get("preference", [])
    problem = None
    if annotation.get("was_cancelled"):
        problem = "cancelled"
    elif len(chosen) != 1:
        problem = "no_preference"
    elif chosen[0] not in PREFERENCES:
        problem = "unknown_preference"
    value = None if problem else PREFERENCES[chosen[0]]
    return Choice(task, annotator, value, reasons, comment, problem)


def _name(who: Any) -> str:
    if isinstance(who, Mapping):
        return str(who.get("email") or who.get("id"))
    return str(who)
