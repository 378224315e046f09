"""From a pair to rows with goals, and back: the pure transform of the `relabel` stage.

    x: A (9) ≻ B (8)  ─┬─►  "aim at 9" x: A ≻ B     goal_of chosen
                       └─►  "aim at 8" x: B ≻ A     goal_of rejected

Both responses are swapped in the second row, with all that is said of either (`<name>_chosen` and
`<name>_rejected`, columns and metadata), and the prompt stays the prompt, whether or not the
template has a system role. A new row names its pair (`original_id`); `original` gives it back.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator
from pydantic_core import to_json

from rayonale.data import ids
from rayonale.data.left_out import LeftOut, reject
from rayonale.enrich import goal_prompt
from rayonale.enrich.goal_prompt import GoalPrompt
from rayonale.enrich.goal_scores import OVERALL, Map, Scale, ScoreMap, Source
from rayonale.records import RejectKind
from rayonale.stages import Settings

Row = dict[str, Any]

SIDES = ("chosen", "rejected")
OTHER = {"chosen": "rejected", "rejected": "chosen"}
ADDS = pa.schema(
    [
        ("goal", pa.float64()),  # null where attributes are told
        ("goals", pa.map_(pa.string(), pa.float64())),  # attribute → goal, else null
        ("goal_of", pa.string()),  # the side of the original pair whose score is the goal
        ("original_id", pa.string()),
    ]
)


class RelabelSettings(Settings):
    """Settings of `relabel`.

    Attributes:
        goals: `both` is RA, two rows a pair; `chosen` is RA+, one row a pair.
        scores: prefix of the columns with the scores: `score` takes `score_chosen` and
            `score_rejected`, `reward` what a score stage added (implicit rewards: IRA).
        attributes: tell a score of each of these in place of an overall one.
        attributes_from: the metadata's `attributes_chosen` and `attributes_rejected`, or columns
            `<attribute>_chosen` and `<attribute>_rejected` (score stages with that prefix).
        scale: worst and best goal; 1 to 10 unless told, 1 to 5 of attributes, and for `map: raw`
            what is found.
        map: how scores come onto the scale; see `goal_scores.py`.
        from_scale: of the scores, for a linear map; without it the least and greatest found.
        per: what is mapped as one: all rows, or the rows of each prompt.
        digits: decimals of a goal; halves are rounded up.
        share: of each split's rows, the first ones in order; 0.5 with both goals is half-RA.
            Validation and test rows are all taken.
        filter_high: leave out what has a rejected response with at least this score (as a goal).
        filter_low: the same with at most this score.
        filters: leave out only the row whose goal that is, or the whole pair.
        inverted: what happens to pairs whose chosen response has the lower score.
        template: of the sentence; by default `goal_system`, or `goal_attributes`.
        place: of the goal; `auto` finds out whether the chat template of the model (read in the
            role `model`, or named) has a system role.
        model, chat_template: whose chat template that is.
    """

    goals: Literal["both", "chosen"] = "both"
    scores: str = "score"
    attributes: tuple[str, ...] = ()
    attributes_from: Literal["metadata", "columns"] = "metadata"
    scale: tuple[float, float] | None = None
    map: Map = "none"
    from_scale: tuple[float, float] | None = None
    per: Literal["data_set", "prompt"] = "data_set"
    digits: int = Field(default=1, ge=0, le=6)
    share: float = Field(default=1.0, gt=0, le=1)
    filter_high: float | None = None
    filter_low: float | None = None
    filters: Literal["goal", "pair"] = "goal"
    inverted: Literal["keep", "drop"] = "keep"
    template: str | None = None
    place: Literal["auto", "system", "user"] = "auto"
    model: str = "tinyworld"
    chat_template: str | None = None

    @model_validator(mode="after")
    def _choices_fit(self) -> RelabelSettings:
        given, filtered = self.model_fields_set, (self.filter_high, self.filter_low) != (None, None)
        ignored = [
            ("map: raw has the scale that is found", "scale", self.map == "raw"),
            ("only map: linear has one", "from_scale", self.map != "linear"),
            ("map: none and raw map nothing", "per", self.map in ("none", "raw")),
            ("from_scale is the same for all", "per", self.from_scale is not None),
            ("attributes take the place of an overall score", "scores", bool(self.attributes)),
            ("there are no attributes", "attributes_from", not self.attributes),
            ("there is no filter_high or filter_low", "filters", not filtered),
            ("the place is given", "model", self.place != "auto"),
            ("the place is given", "chat_template", self.place != "auto"),
        ]
        problems = [f"{name}: ignored, {why}" for why, name, so in ignored if so and name in given]
        if self.attributes and (filtered or self.map == "raw"):
            problems.append("attributes: filters and map: raw are of an overall score")
        if filtered and self.goals == "chosen" and self.filters == "goal":
            problems.append(
                "filters: goals: chosen has no rows with the rejected score as the goal"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def source(self) -> Source:
        """Where the scores are."""
        return Source(self.scores, self.attributes, self.attributes_from == "metadata")

    def wanted(self) -> Scale:
        """The scale that goals are told on, where it is not found."""
        return Scale(*(self.scale or ((1, 5) if self.attributes else (1, 10))))

    def template_name(self) -> str:
        """Template of the sentence."""
        default = goal_prompt.ATTRIBUTES if self.attributes else goal_prompt.OVERALL
        return self.template or default


def swapped(row: Row) -> Row:
    """The pair the other way round, with all that is said of either response."""
    found = {name: row[_other(name)] if _other(name) in row else row[name] for name in row}
    told = json.loads(row.get("metadata") or "{}")
    if any(_other(name) != name for name in told):
        sides = {_other(name): value for name, value in told.items()}
        found["metadata"] = to_json(sides, inf_nan_mode="strings").decode()  # as at ingestion
    return found


def _other(name: str) -> str:
    """`chosen` ⇄ `rejected`, by themselves or at the end of a name."""
    for side, other in OTHER.items():
        if name == side or name.endswith(f"_{side}"):
            return name.removesuffix(side) + other
    return name


def original(row: Row, told: GoalPrompt) -> Row:
    """The pair that a new row was made of.

    Raises:
        ValueError: the row's goal is not told in its prompt (another goal prompt).
    """
    goal = dict(row["goals"]) if row["goals"] is not None else row["goal"]
    pair = {name: value for name, value in row.items() if name not in ADDS.names}
    pair["prompt"] = told.take_back(row["prompt"], goal)
    pair["id"] = row["original_id"]
    return swapped(pair) if row["goal_of"] == "rejected" else pair


@dataclass
class Relabeller:
    """Turns pairs into rows with goals, and counts what happens to them.

    Attributes:
        taken: pairs of each split that are taken, the first ones.
        counts: pairs by what became of them; goals: how often each was told.
    """

    settings: RelabelSettings
    told: GoalPrompt
    scores: ScoreMap
    taken: dict[str, int]
    counts: Counter[str] = field(default_factory=Counter)
    goals: Counter[str] = field(default_factory=Counter)
    _seen: Counter[str] = field(default_factory=Counter)

    def rows(self, row: Row) -> tuple[list[Row], list[Any]]:
        """The rows of a pair, and the rejects: of the pair, or of one of its rows."""
        self.counts["pairs"] += 1
        try:
            self._require_taken(row)
            goals = self._goals(row)
            self._note_inverted(row, goals)
            self._require_pair(goals)
        except LeftOut as left_out:
            self.counts["pairs without a row"] += 1
            return [], [reject(row, left_out.kind, left_out.reason, str(left_out))]
        made, rejects = [], []
        for side in SIDES if self.settings.goals == "both" else SIDES[:1]:
            new = self._row(row, side, goals[side])
            why = self._filtered(goals["rejected"]) if side == "rejected" else None
            if why is None:
                made.append(new)
                self.goals[self.told.sentence(goals[side])] += 1
            else:
                rejects.append(reject(new, RejectKind.FILTERED, *why))
        self.counts[f"pairs with {len(made)} row{'s' if len(made) > 1 else ''}"] += 1
        return made, rejects

    def _require_taken(self, row: Row) -> None:
        split = row["split"]
        self._seen[split] += 1
        if split in self.taken and self._seen[split] > self.taken[split]:
            why = (
                f"row {self._seen[split]} of split {split}, the first {self.taken[split]} are taken"
            )
            raise LeftOut(RejectKind.LIMIT, "beyond_share", why)

    def _goals(self, row: Row) -> dict[str, goal_prompt.Goal]:
        source, per_prompt = self.settings.source(), self.settings.per == "prompt"
        scores = {side: source.scores(row, side) for side in SIDES}
        if scores["chosen"] == scores["rejected"]:
            raise LeftOut(RejectKind.FILTERED, "equal_scores", f"both have {scores['chosen']}")
        found = {side: self.scores.goals(row, scores[side], per_prompt) for side in SIDES}
        goals: dict[str, goal_prompt.Goal] = {
            side: each if source.attributes else each[OVERALL] for side, each in found.items()
        }
        if self.told.sentence(goals["chosen"]) == self.told.sentence(goals["rejected"]):
            why = f"both are told as {self.told.sentence(goals['chosen'])!r}"
            raise LeftOut(RejectKind.FILTERED, "equal_goals", why)
        return goals

    def _note_inverted(self, row: Row, goals: dict[str, goal_prompt.Goal]) -> None:
        both = [goals[side] for side in SIDES]
        if self.settings.attributes:
            both = [row.get(f"score_{side}") for side in SIDES]  # type: ignore[misc]
        chosen, rejected = both
        if not isinstance(chosen, float) or not isinstance(rejected, float) or chosen >= rejected:
            return
        self.counts["inverted pairs"] += 1
        if self.settings.inverted == "drop":
            why = f"chosen has {chosen:g}, rejected {rejected:g}"
            raise LeftOut(RejectKind.FILTERED, "inverted", why)

    def _require_pair(self, goals: dict[str, goal_prompt.Goal]) -> None:
        if self.settings.filters == "pair" and (why := self._filtered(goals["rejected"])):
            raise LeftOut(RejectKind.FILTERED, *why)

    def _filtered(self, goal: goal_prompt.Goal) -> tuple[str, str] | None:
        high, low = self.settings.filter_high, self.settings.filter_low
        if isinstance(goal, float) and high is not None and goal >= high:
            return "rejected_high", f"the rejected response has {goal:g}, at least {high:g}"
        if isinstance(goal, float) and low is not None and goal <= low:
            return "rejected_low", f"the rejected response has {goal:g}, at most {low:g}"
        return None

    def _row(self, row: Row, side: str, goal: goal_prompt.Goal) -> Row:
        pair = swapped(row) if side == "rejected" else row
        # What was told can be told again: goals are stored as they are written.
        if isinstance(goal, dict):
            goal = {
                name: goal_prompt.rounded(score, self.settings.digits)
                for name, score in goal.items()
            }
        else:
            goal = goal_prompt.rounded(goal, self.settings.digits)
        return {
            **pair,
            "id": ids.key_of(f"{row['id']} goal {side}").hex(),
            "prompt": self.told.put(row["prompt"], goal),
            "goal": None if isinstance(goal, dict) else goal,
            "goals": list(goal.items()) if isinstance(goal, dict) else None,
            "goal_of": side,
            "original_id": row["id"],
        }
