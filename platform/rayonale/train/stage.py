"""The `train` stage: rows (and a model) in, a Hugging Face folder out.

rows/ ─ tokenise ahead ─► work/tokens/*.arrow ─ Ray Train ─► model/ (and model-seed<k>/)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import ray

from rayonale import losses, models, prompts, storage
from rayonale.enrich import goal_prompt
from rayonale.enrich.goal_prompt import GoalPrompt
from rayonale.records import REJECT
from rayonale.stages import Reads, Stage, StageContext, StageResult
from rayonale.train import estimates, history, launch, references, shards, watched
from rayonale.train.examples import (
    ENSEMBLE_VALUES,
    REFERENCE,
    Encoding,
    columns_of,
    sequences_of,
)
from rayonale.train.settings import RationalePrompt, TrainSettings
from rayonale.train.trees import RESPONSES_OF

log = logging.getLogger("rayonale")

LOG_EVERY = 10.0  # seconds between lines on the terminal

# Stages that add what losses read.
ADDED_BY = {
    "goal": "goals",
    "label": "reshape",
    "scores": "reshape",
    **dict.fromkeys(("reward_chosen", "reward_rejected", *ENSEMBLE_VALUES), "score"),
}


def run(context: StageContext, settings: TrainSettings) -> StageResult:
    """Tokenise, train each seed, choose the best, write `model/` and `rejects/`.

    Raises:
        ValueError: a column that the loss needs is missing, or reference log-probs are stale.
        RuntimeError: training failed more often than `max_failures`.
    """
    start = start_of(context, settings)
    rows = context.rows()
    require_columns(context, settings)
    encoding = encoding_of(settings, start, rationale_prompt(context, settings))
    tokens = storage.join(context.out, storage.WORK, "tokens")
    train = shards.tokenise(
        rows, "train", settings.limit, encoding, tokens, seed=settings.limit_seed
    )
    validation = tokenise_validation(rows, settings, encoding, tokens)
    rejects = list(shards.rejects_of(tokens))
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    usable = shards.TokenRows(train, encoding.sequences)
    require_rows(usable, rejects)
    require_one_ensemble(usable, settings)
    if losses.of(settings.loss).reference:
        references.check(
            usable, model=start, dtype=settings.dtype, allow_other=settings.allow_other_reference
        )
    watching = watched.of_stage(context, settings, encoding)
    told = goal_prompt.of_rows(context.inputs["rows"].manifest)
    jobs = {
        seed: job_of(
            context, settings, start=start, train=train, validation=validation, seed=seed,
            watching=watching, told=told,
        )
        for seed in settings.seeds
    }  # fmt: skip
    results = {seed: launch.run(job, teller(context)) for seed, job in jobs.items()}
    for job in jobs.values():
        if told is not None:
            goal_prompt.save(told, job.model)
    result = finish(context, settings, results, rejects, len(usable))
    if told is not None:
        result.details[goal_prompt.DETAIL] = told.model_dump(mode="json")
    result.prompts = [encoding.rationale.template] if encoding.rationale.template else []
    return result


def start_of(context: StageContext, settings: TrainSettings) -> str:
    """Folder or hub name of the model that training starts from."""
    read = context.inputs.get("model")
    return models.resolve(read.model if read is not None else settings.model)


def rationale_prompt(context: StageContext, settings: TrainSettings) -> RationalePrompt:
    """The rationale's prompt; without a template in the settings, the one that generated it.

    Raises:
        ValueError: the loss has a rationale term and neither names a template.
    """
    wanted = settings.rationale or RationalePrompt()
    if wanted.template is not None or "rationale" not in losses.get(settings.loss.name).sequences:
        return wanted
    found = generating_template(context.inputs["rows"].manifest)
    if found is None:
        raise ValueError(
            f"stages.{context.name}.rationale.template: the rows of "
            f"{context.inputs['rows'].name!r} do not come from a rationales stage, so the prompt "
            "of their rationales is unknown: name a template; choices: "
            f"{', '.join(name for name in prompts.names() if 'rationale' in name)}"
        )
    return wanted.model_copy(update={"template": found})


def generating_template(manifest: Mapping[str, Any]) -> str | None:
    """Template of the rationales stage that rows come from, found through the manifests."""
    if manifest.get("kind") == "rationales":
        return str(manifest["settings"]["template"])
    parent = (manifest.get("inputs") or {}).get("rows")
    if not isinstance(parent, dict) or parent.get("kind") == "external":
        return None
    uri = storage.join(parent["uri"], storage.MANIFEST)
    return generating_template(storage.read_json(uri)) if storage.exists(uri) else None


def encoding_of(settings: TrainSettings, start: str, rationale: RationalePrompt) -> Encoding:
    """How rows become tokens."""
    loss = losses.of(settings.loss)
    reference = (REFERENCE,) if loss.reference else ()
    return Encoding(
        model=start,
        sequences=sequences_of(loss),
        values=(*columns_of(loss), *reference),
        chat_template=settings.chat_template,
        max_length=settings.max_length,
        max_prompt_length=settings.max_prompt_length,
        rationale=rationale,
        seed=settings.seeds[0],
        fingerprint=loss.reference,
        together=settings.together,
    )


def require_columns(context: StageContext, settings: TrainSettings) -> None:
    """Refuse rows that lack what the loss reads, and say which stage adds it."""
    loss = losses.of(settings.loss)
    present = storage.schema(context.rows()).names
    texts = [name for name in RESPONSES_OF[loss.rows] if name in loss.sequences]
    if missing := [name for name in texts if name not in present]:
        raise ValueError(
            f"stages.{context.name}: loss {loss.name!r} reads rows of type {loss.rows!r}, and "
            f"{', '.join(missing)} is not in {context.rows()}; found: {', '.join(present)}. A "
            "reshape stage turns pairs into labelled rows and lists, and lists into pairs"
        )
    needed = {name: "reference_logprobs" for name in columns_of(loss) if name.startswith("ref_")}
    if "mismatched" in sequences_of(loss):
        needed["mismatched"] = "reference_logprobs"
    if "rationale" in loss.sequences:
        needed["rationales"] = "rationales"
    needed |= {name: ADDED_BY.get(name, "judgements or ingest") for name in loss.values}
    if settings.together is not None and settings.together not in present:
        raise ValueError(
            f"stages.{context.name}.together: no column {settings.together!r} in {context.rows()}; "
            f"found: {', '.join(present)}"
        )
    missing = [
        f"{name} (a {stage} stage adds it)" for name, stage in needed.items() if name not in present
    ]
    if missing:
        raise ValueError(
            f"stages.{context.name}: loss {loss.name!r} reads columns that the rows lack: "
            f"{', '.join(missing)}; found: {', '.join(present)}"
        )


def require_rows(rows: shards.TokenRows, rejects: list[dict[str, Any]]) -> None:
    """Refuse to train on nothing."""
    if len(rows) == 0:
        reasons = sorted({reject["reason"] for reject in rejects})
        raise ValueError(f"no rows are left to train on; all were left out: {', '.join(reasons)}")


def require_one_ensemble(rows: shards.TokenRows, settings: TrainSettings) -> None:
    """Refuse rewards of ensembles of several sizes, which could only come from several runs."""
    for name in set(ENSEMBLE_VALUES) & set(losses.of(settings.loss).values):
        sizes = {len(rewards) for rewards in rows.column(name)}
        if len(sizes) > 1:
            raise ValueError(
                f"{name}: found rewards of {', '.join(map(str, sorted(sizes)))} oracles in one "
                "data set; expected as many in every row: score all rows with the same oracles"
            )


def tokenise_validation(
    rows: str, settings: TrainSettings, encoding: Encoding, tokens: str
) -> list[str]:
    """Shards of the validation split; none when the rows have none."""
    try:
        found = shards.tokenise(rows, "validation", settings.validation_limit, encoding, tokens)
    except ValueError as error:
        if "no rows of split" not in str(error):
            raise
        log.info("no validation rows: the last weights are exported")
        return []
    return found if len(shards.TokenRows(found, encoding.sequences)) else []


def job_of(
    context: StageContext,
    settings: TrainSettings,
    *,
    start: str,
    train: list[str],
    validation: list[str],
    seed: int,
    watching: dict[str, list[str]],
    told: GoalPrompt | None,
) -> launch.Job:
    """The run of one seed."""
    use_gpu = settings.use_gpu
    if use_gpu is None:
        use_gpu = ray.cluster_resources().get("GPU", 0) > 0
    return launch.Job(
        settings=settings.model_dump_json(),
        start=start,
        shards=train,
        validation=validation,
        seed=seed,
        use_gpu=use_gpu,
        work=storage.join(context.out, storage.WORK, f"seed-{seed}"),
        model=model_folder(context, settings, seed),
        facts={
            "stage": context.name,
            "rows": f"{context.inputs['rows'].name} ({context.inputs['rows'].fingerprint})",
            "stage fingerprint": context.fingerprint,
            "code version": context.code_version,
            **(told.facts() if told is not None else {}),
        },
        watched=watching,
    )


def model_folder(context: StageContext, settings: TrainSettings, seed: int) -> str:
    """Where a seed's model goes."""
    name = storage.MODEL if len(settings.seeds) == 1 else f"{storage.MODEL}-seed{seed}"
    return storage.join(context.out, name)


def teller(context: StageContext) -> Any:
    """Follows a run's steps: metrics to MLflow, a line on the terminal at a limited rate."""
    last = 0.0

    def tell(entry: dict[str, Any]) -> None:
        nonlocal last
        numbers = {k: v for k, v in entry.items() if isinstance(v, int | float) and k != "step"}
        context.run.log_metrics(numbers, step=entry["step"])
        if time.monotonic() - last > LOG_EVERY:
            last = time.monotonic()
            log.info(
                "%s: step %d, loss %.4f, %.1f pairs/s, %.0f tokens/s, %.2f GiB",
                context.name,
                entry["step"] + 1,
                entry["loss"],
                entry["pairs_per_second"],
                entry["tokens_per_second"],
                entry["memory_gib"],
            )

    return tell


def finish(
    context: StageContext,
    settings: TrainSettings,
    results: dict[int, dict[str, Any]],
    rejects: list[dict[str, Any]],
    rows: int,
) -> StageResult:
    """Choose among seeds and report."""
    best = min(results, key=lambda s: results[s].get("validation_loss", results[s]["train_loss"]))
    if len(results) > 1:
        fs, source = storage.filesystem(model_folder(context, settings, best))
        target = storage.join(context.out, storage.MODEL)
        storage.remove(target)
        fs.copy(source, storage.filesystem(target)[1], recursive=True)
    counted: dict[str, dict[str, int]] = {}
    for reject in rejects:
        kind = counted.setdefault(reject["kind"], {})
        kind[reject["reason"]] = kind.get(reject["reason"], 0) + 1
    chosen = {k: v for k, v in results[best].items() if k != "history"}
    return StageResult(
        rows_in=rows + len(rejects),
        rows_out=rows,
        rejects=counted,
        metrics={name: float(value) for name, value in chosen.items()},
        details={
            "loss": settings.loss.model_dump(mode="json"),
            "seed": best,
            "curves": history.curves(results[best]["history"]),
            "seeds": {
                str(seed): {k: v for k, v in result.items() if k != "history"}
                for seed, result in results.items()
            },
        },
    )


def templates_of(settings: TrainSettings) -> list[str]:
    """Prompt templates that the settings name."""
    return (
        [settings.rationale.template] if settings.rationale and settings.rationale.template else []
    )


def sources(settings: TrainSettings) -> list[str]:
    """What a run's code version includes beside this package."""
    return [
        *(f"module:{module}" for module in losses.modules(settings.loss.name)),
        *(f"prompt:{name}" for name in templates_of(settings)),
    ]


STAGE = Stage(
    kind="train",
    settings=TrainSettings,
    run=run,
    sources=sources,
    gives=("model",),
    own_devices=True,
    beside=True,
    reads={
        "rows": Reads("rows", columns=("id", "split", "prompt")),
        "model": Reads("model", optional=True),
        "watch": Reads(
            "rows", columns=("id", "split", "prompt", "rejected"), many=True, optional=True
        ),
    },
    estimate=estimates.train,
)
