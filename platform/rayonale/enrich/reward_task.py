"""What scoring a row's responses is: the texts handed out, and the columns that come back.

    column                     texts   added
    chosen: [message]          one     reward_chosen: float, rewards_chosen: [float a member]
    responses: [[message], …]  each    reward_responses: [float], rewards_responses: [[float]]
    responses: [text, …]       each

One pass an oracle; the last one gathers what the others left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa

from rayonale.enrich.transcript import prompt_text
from rayonale.evaluate import scorers
from rayonale.generate.settings import Completion, Request, Sampling
from rayonale.generate.stream import Rejection
from rayonale.records import MESSAGES, RejectKind

Row = dict[str, Any]
Shape = Literal["one", "list"]
_NUMBER = pa.float64()


def shapes_of(schema: pa.Schema, columns: Sequence[str], where: str) -> dict[str, Shape]:
    """Whether each column holds one response a row or a list of them.

    Raises:
        ValueError: a column is not there, holds no text, or none is named.
    """
    if not columns:
        raise ValueError(f"{where}: no column of responses; found {', '.join(schema.names)}")
    found: dict[str, Shape] = {}
    for name in columns:
        if name not in schema.names:
            raise ValueError(f"{where}: no column {name!r}; found {', '.join(schema.names)}")
        kind = schema.field(name).type
        if _is_response(kind):
            found[name] = "one"
        elif pa.types.is_list(kind) and _is_response(kind.value_type):
            found[name] = "list"
        else:
            raise ValueError(f"{where}: {name!r} is {kind}; expected texts, messages or lists")
    return found


def _is_response(kind: pa.DataType) -> bool:
    messages = pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
    return bool(pa.types.is_string(kind) or kind.equals(MESSAGES) or messages)


def text_of(response: Any) -> str | None:
    """A response's text; None where it is missing or not one assistant message."""
    if isinstance(response, str):
        return response
    if isinstance(response, list) and len(response) == 1 and response[0]["role"] == "assistant":
        return str(response[0]["content"])
    return None


@dataclass(frozen=True)
class RewardTask:
    """A pass that gives every response a reward; see `rayonale.generate.stream.Task`.

    Attributes:
        shapes: columns of responses.
        prefix: of the added columns.
        members: passes in all; each member but the last leaves a column for the last to gather.
        scorer: what is stored as the rewards' origin.
        member: number of this pass.
        labels: which label of each member is the reward; None: it has only one.
    """

    shapes: Mapping[str, Shape]
    prefix: str
    members: int
    scorer: str
    member: int = 0
    labels: tuple[int | None, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    json_schema: dict[str, Any] | None = None

    def of_member(self, number: int) -> RewardTask:
        """The pass of one member."""
        return replace(self, member=number)

    @property
    def adds(self) -> pa.Schema:
        fields = []
        for name, shape in self.shapes.items():
            each = _NUMBER if shape == "one" else pa.list_(_NUMBER)
            several = pa.list_(_NUMBER) if shape == "one" else pa.list_(pa.list_(_NUMBER))
            if self.member < self.members - 1:
                fields.append((self._own(self.member, name), each))
            else:
                fields += [(f"{self.prefix}_{name}", each), (f"{self.prefix}s_{name}", several)]
        if self.member == self.members - 1:
            fields.append((f"{self.prefix}_scorer", pa.string()))
        return pa.schema(fields)

    def _own(self, member: int, column: str) -> str:
        return f"_{self.prefix}_{member}_{column}"

    def gathered(self, number: int) -> tuple[str, ...]:
        """Columns that the last pass has gathered and that go."""
        if number < self.members - 1:
            return ()
        return tuple(self._own(m, c) for m in range(self.members - 1) for c in self.shapes)

    def without(self, row: Row) -> Row:
        """A row without them, after the last pass."""
        if f"{self.prefix}_scorer" not in row:
            return row
        gone = set(self.gathered(self.members - 1))
        return {name: value for name, value in row.items() if name not in gone}

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        asked = []
        label = self.labels[self.member] if self.labels else None
        for name, shape in self.shapes.items():
            responses = [row[name]] if shape == "one" else row[name]
            texts = [text_of(response) for response in responses or [None]]
            if None in texts:
                told = f"{name}: found {str(row[name])[:80]}, expected one assistant message each"
                return Rejection(RejectKind.INVALID, f"no_{name}", told)
            asked += [Request(row["prompt"], response=text, label=label) for text in texts]
        return asked

    def collect(self, row: Row, completions: list[Completion]) -> Row | Rejection:
        given = iter(completion.reward for completion in completions)
        last, found = self.member == self.members - 1, Row()
        for name, shape in self.shapes.items():
            own: Any = next(given) if shape == "one" else [next(given) for _ in row[name]]
            if not last:
                found[self._own(self.member, name)] = own
                continue
            every = [*(row[self._own(m, name)] for m in range(self.member)), own]
            if shape == "list":  # of members, by response
                every = [list(values) for values in zip(*every, strict=True)]
            found[f"{self.prefix}s_{name}"] = every
            found[f"{self.prefix}_{name}"] = (
                _mean(every) if shape == "one" else [_mean(values) for values in every]
            )
        return found | ({f"{self.prefix}_scorer": self.scorer} if last else {})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class RubricSource:
    """A scorer of `evaluate/scorers.py` in the place of an engine."""

    name: str

    def client(self) -> RubricSource:
        """Itself: it holds nothing open."""
        return self

    def generate(
        self,
        rows: list[list[Request]],
        sampling: Sampling,
        json_schema: dict[str, Any] | None = None,
        logprobs: bool = False,
    ) -> list[list[Completion]]:
        """Rewards of each row's responses; a text that cannot be scored rejects its row."""
        scorer = scorers.get(self.name)
        return [[_scored(scorer, request) for request in row] for row in rows]


def _scored(scorer: scorers.Scorer, request: Request) -> Completion:
    try:
        found = scorer(prompt_text(request.messages), request.response or "")
    except ValueError as error:
        return Completion(error="not_scorable", detail=str(error))
    return Completion(reward=found.overall)
