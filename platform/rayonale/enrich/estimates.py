"""What the enrichment stages will take; see `rayonale.planning`.

rationales        asked rows · n completions          rows go on with `rationales`
grade_rationales  asked rows · rationales completions rows go on that the grades leave
samples           distinct prompts · n completions
reference         rows · tokens of their trees, forward only
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayonale import prompts
from rayonale.enrich.pass_estimates import generation_pass, known_length, passed
from rayonale.planning.arithmetic import FORWARD_FLOPS, seconds
from rayonale.planning.flow import (
    Estimate,
    Flow,
    Row,
    distinct_share,
    not_estimated,
)
from rayonale.planning.outlook import (
    TRAIN_START_SECONDS,
    Outlook,
    is_here,
    key_of_read,
    model_key,
)
from rayonale.planning.rates import Rates, Values
from rayonale.planning.sizes import Unknown
from rayonale.train.trees import (
    PROMPT_OF,
    REFERENCED,
    SHARED,
    may_share,
    row_type_of,
    trees_of,
)

if TYPE_CHECKING:
    from rayonale.enrich.directions import DirectionSettings
    from rayonale.enrich.goals import GoalSettings
    from rayonale.enrich.grades import GradeSettings
    from rayonale.enrich.permuted import PermuteSettings
    from rayonale.enrich.rationales import RationaleSettings
    from rayonale.enrich.reference import ReferenceSettings
    from rayonale.enrich.reference_texts import ReferenceTextSettings
    from rayonale.enrich.relabelling import RelabelSettings
    from rayonale.enrich.samples import SampleSettings


def goals(outlook: Outlook, settings: GoalSettings) -> Estimate:
    """Every row is told its goal: timed on the sample."""
    from rayonale.data.estimates import timed_rows

    flow, told = outlook.flow(), settings.told()

    def convert(row: Row) -> list[Row]:
        known = row.get(settings.goal) if isinstance(settings.goal, str) else settings.goal
        goal = told.top if known is None else known
        return [{**row, "prompt": told.put(row["prompt"], goal), "goal": None}]

    return timed_rows(outlook, flow, convert)


def relabel(outlook: Outlook, settings: RelabelSettings) -> Estimate:
    """A row of each goal of a pair: timed on the sample, with the middle of the scale told."""
    from rayonale.data.estimates import timed_rows
    from rayonale.enrich.goal_prompt import GoalPrompt
    from rayonale.enrich.relabelling import swapped

    wanted, name = settings.wanted(), settings.template_name()
    told = GoalPrompt(
        template=name, text=prompts.source(name), place="system", low=wanted.low, high=wanted.high,
        attributes=settings.attributes,
    )  # fmt: skip

    def convert(row: Row) -> list[Row]:
        new = {**row, "prompt": told.put(row["prompt"], told.top), "goal": None}
        return [new, swapped(new)] if settings.goals == "both" else [new]

    found = timed_rows(outlook, outlook.flow(), convert)
    if settings.share == 1 or found.flow is None:
        return found
    left = found.flow.scaled(settings.share, ("train",))
    return replace(found, rows_out=left.total, flow=left)


def directions(outlook: Outlook, settings: DirectionSettings) -> Estimate:
    """A labelled row of each pair that has attributes: timed on the sample."""
    from rayonale.data.estimates import timed_rows
    from rayonale.enrich.directions import WEIGHT, learnt
    from rayonale.enrich.goal_prompt import GoalPrompt

    told = GoalPrompt(
        template=settings.template, text=prompts.source(settings.template), place="system",
        low=-WEIGHT, high=WEIGHT, attributes=settings.attributes, digits=0,
    )  # fmt: skip
    gone = ("chosen", "rejected")

    def convert(row: Row) -> list[Row]:
        made = learnt(row, settings, told)
        return [{name: value for name, value in made.items() if name not in gone}]

    return timed_rows(outlook, outlook.flow(), convert)


def permuted(outlook: Outlook, settings: PermuteSettings) -> Estimate:
    """Rows are read twice and written once: timed on the sample."""
    from rayonale.data.estimates import timed_rows

    return timed_rows(outlook, outlook.flow(), lambda row: [dict(row)])


def reference_texts(outlook: Outlook, settings: ReferenceTextSettings) -> Estimate:
    """One text of each distinct prompt; nothing is generated."""
    from rayonale.data.estimates import timed_rows
    from rayonale.enrich.reward_task import text_of

    flow = outlook.flow()
    distinct = flow.of(settings.splits) * _distinct(flow)
    count = min(distinct, settings.limit) if settings.limit else distinct
    asked = replace(flow, rows={"": count})
    found = timed_rows(
        outlook, asked, lambda row: [{**row, "responses": [text_of(row[settings.column])]}]
    )
    left = replace(found.flow, rows={"": count}, texts={"responses": 1.0})
    return replace(found, flow=left)


def rationales(outlook: Outlook, settings: RationaleSettings) -> Estimate:
    """`n` completions for every row of the asked splits."""
    from rayonale.enrich.rationales import RationaleTask

    flow = outlook.flow()
    template = prompts.source(settings.template)
    task = RationaleTask(template, settings.template, settings, settings.sampling)
    names = ("engine", "sampling", "template", "n", "control")
    try:
        found = generation_pass(
            outlook, settings, task, flow, per_row=settings.n, template=template,
            shown=("prompt", "chosen", "rejected"), names=names,
            counted=lambda m: m["rationales"] + m["rationales_empty"],
        )  # fmt: skip
    except Unknown as error:
        length = outlook.given("tokens")
        left = replace(
            flow, tokens={**flow.tokens, **({"rationale": length} if length else {})},
            texts={**flow.texts, "rationales": settings.n}, template=settings.template,
            explained=settings.splits,
        )  # fmt: skip
        return not_estimated(str(error), left, rows_in=flow.total)
    left = replace(
        flow,
        sample=found.rates.rows or flow.sample,
        tokens={**flow.tokens, **known_length("rationale", found)},
        texts={**flow.texts, "rationales": settings.n},
        template=settings.template,
        explained=settings.splits,
    )
    return passed(outlook, found, flow, left, settings.splits, assumed_keep=1.0)


def grades(outlook: Outlook, settings: GradeSettings) -> Estimate:
    """A completion for every rationale; rows that are left with none are dropped."""
    from rayonale.enrich.grades import GRADED, GradeTask
    from rayonale.generate.stream import Rejection
    from rayonale.records import RejectKind

    flow = outlook.flow()
    explained = settings.splits if flow.explained is None else flow.explained
    splits = tuple(split for split in settings.splits if split in explained)
    template = prompts.source(settings.template)
    task = GradeTask(
        template, settings.template, settings, settings.sampling, settings.json_schema()
    )

    def change(row: Row) -> Row | Rejection:
        graded = row.pop(GRADED)
        if graded and not row["rationales"]:
            return Rejection(RejectKind.FILTERED, "low_grade", "")
        return row

    names = ("engine", "sampling", "template", "output", "explain", "drop_at_or_below")
    try:
        found = generation_pass(
            outlook, settings, task, flow, per_row=flow.texts.get("rationales", 1.0),
            template=template, shown=("prompt", "chosen", "rejected", "rationale"), names=names,
            counted=lambda m: m["rationales_graded"], change=change, without=(GRADED,),
            needs="rationales", asked=flow.of(splits),
        )  # fmt: skip
    except Unknown as error:
        return not_estimated(str(error), flow, rows_in=flow.total)
    left = replace(flow, sample=found.rates.rows or flow.sample)
    return passed(outlook, found, flow, left, splits, assumed_keep=0.9)


def samples(outlook: Outlook, settings: SampleSettings) -> Estimate:
    """`n` completions for every distinct prompt of the asked splits."""
    from rayonale.enrich.samples import SampleTask

    flow = outlook.flow()
    distinct = flow.of(settings.splits) * _distinct(flow)
    asked = min(distinct, settings.limit) if settings.limit else distinct
    sizes = outlook.session.sizes.of(flow, outlook.model(settings.model))
    answer = sizes.get("chosen", sizes.get("response"))
    expected = None
    if answer is not None:
        expected = (answer, f"completions of {answer:.0f} tokens, as the chosen responses")
    trained = isinstance(outlook.reads.get("model"), Flow)
    try:
        found = generation_pass(
            outlook, settings, SampleTask(settings, settings.sampling), flow, per_row=settings.n,
            template="", shown=("prompt",), names=("engine", "sampling", "n"),
            counted=lambda m: m["responses"], expected=expected, measured_length=not trained,
            rows=asked, asked=asked,
        )  # fmt: skip
    except Unknown as error:
        left = Flow(rows={"": asked}, sample=flow.sample, tokens=flow.tokens)
        return not_estimated(str(error), left, rows_in=asked)
    left = Flow(
        rows={"": asked},
        sample=flow.sample,
        tokens={**flow.tokens, "responses": found.completion_tokens},
        texts={"responses": float(settings.n)},
    )
    return passed(outlook, found, Flow(rows={"": asked}, bytes_per_row=flow.bytes_per_row), left,
                   ("",), assumed_keep=1.0)  # fmt: skip


def reference(outlook: Outlook, settings: ReferenceSettings) -> Estimate:
    """Every row through the model once, forward only."""
    flow = outlook.flow()
    model = outlook.model(settings.model)
    try:
        sequences = REFERENCED[row_type(flow)]
        tokens = flow.total * tree_tokens(
            outlook.session.sizes.of(flow, model, settings.chat_template), flow, sequences
        )
        rates = forward_rates(outlook, settings, model, flow)
    except Unknown as error:
        return not_estimated(str(error), flow, rows_in=flow.total)
    parts = {
        "start": rates["start_seconds"],
        "forward": seconds(tokens, rates["tokens_per_second"], settings.workers),
    }
    size = flow.total * (flow.bytes_per_row + 24)  # three numbers or hashes more
    return Estimate(
        rows_in=flow.total, rows_out=flow.total, tokens={"scored": tokens}, parts=parts,
        bytes=size, peak_bytes=size, basis=(f"speed {rates.source}",), flow=flow,
        gpus=float(settings.workers) if outlook.uses_gpu(settings.use_gpu) else 0.0,
    )  # fmt: skip


def forward_rates(outlook: Outlook, settings: ReferenceSettings, model: str, flow: Flow) -> Rates:
    """Start of a scorer, and tokens/s of each.

    Raises:
        Unknown: there is no rate; the message says what to give.
    """
    names = ("dtype", "workers", "cpus_per_worker", "use_gpu", "micro_batch_tokens")
    counts = {name: getattr(settings, name) for name in names}
    key = model_key(model)

    def read(manifest: Mapping[str, Any]) -> Values | None:
        told, metrics = manifest["settings"], manifest["metrics"]
        if any(told.get(name) != value for name, value in counts.items()):
            return None
        if "start_seconds" not in metrics or key_of_read(manifest, told["model"]) != key:
            return None
        working = metrics["seconds"] - metrics["start_seconds"]
        rate = metrics["computed_tokens"] / max(working, 1e-9) / settings.workers
        start = manifest["seconds"] - working
        return {"tokens_per_second": rate, "start_seconds": start}

    rows = list(flow.sample)
    rates = outlook.rates(
        {"component": "forward", "model": key, "settings": counts, "rows": row_type(flow)},
        given=outlook.compute("forward", model, FORWARD_FLOPS, TRAIN_START_SECONDS),
        read=read, kind="reference_logprobs",
        measure=(lambda probes: probes.forward(settings, model, rows))
        if rows and is_here(model) else None,
    )  # fmt: skip
    if rates is None:
        raise Unknown(outlook.no_rates(model))
    return rates


def tree_tokens(sizes: Mapping[str, float], flow: Flow, sequences: tuple[str, ...]) -> float:
    """Mean tokens that a row puts into the model: prompts, and responses less their last tokens.

    Args:
        sizes: column → tokens; `rationale_prompt` among them where a rationale is computed, and
            `shared`, those of prompt and chosen that this need not compute again.

    Raises:
        Unknown: a column's tokens are not known.
    """
    total = -sizes.get(SHARED, 0.0) if may_share(sequences) else 0.0
    for prompt, names in trees_of(sequences).items():
        total += _needed(sizes, prompt)
        for name in names:
            column = "response" if name == "mismatched" else name
            total += (_needed(sizes, column) - 1) * _texts(flow, name)
    return total


def _needed(sizes: Mapping[str, float], name: str) -> float:
    if name not in sizes:
        raise Unknown(f"tokens of {name} are not known: give --assume <stage>.{name}_tokens")
    return sizes[name]


def _texts(flow: Flow, name: str) -> float:
    """Texts of a sequence in a row: one, but for lists."""
    if name != "responses":
        return 1.0
    counts = [len(row["responses"]) for row in flow.sample if row.get("responses")]
    return sum(counts) / len(counts) if counts else flow.texts.get("responses", 2.0)


def row_type(flow: Flow) -> str:
    """Type of the rows, by the sample or by what is told of their tokens.

    Raises:
        Unknown: neither tells.
    """
    present = {name for row in flow.sample[:1] for name, value in row.items() if value}
    try:
        return row_type_of(sorted((present or set(flow.tokens)) & set(PROMPT_OF)))
    except ValueError:
        raise Unknown("what the rows hold is not known before they are there") from None


def _distinct(flow: Flow) -> float:
    """Share of rows whose prompt is new; of few rows it is told rather high."""
    return distinct_share(flow.sample) if flow.sample else flow.distinct
