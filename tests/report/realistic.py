"""Stage outputs as a real recipe leaves them, out of real tinyworld texts, without models.

Policies are the world's own writer at different qualities; everything after the samples (scores,
win rates, rejects, the report) is computed by the code under test.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayonale import storage
from rayonale.enrich.transcript import prompt_text
from rayonale.evaluate import summary
from rayonale.evaluate.comparisons import ROWS, judge_both_orders
from rayonale.evaluate.margins import margins_of
from rayonale.evaluate.policies import match, read_policies
from rayonale.evaluate.win_rates import ScorerJudge, score_pairs
from rayonale.records import MESSAGES, PAIR, RATIONALE, REJECT, RejectKind
from rayonale.stages import StageOutput
from rayonale.tinyworld import generate_pairs
from rayonale.tinyworld.judgements import pairwise_judgement
from rayonale.tinyworld.rationales import detailed_rationale, reverse_rationale
from rayonale.tinyworld.requests import parse
from rayonale.tinyworld.responses import write_response

# policy → (loss, training pairs, mean quality of its answers)
POLICIES = {
    "sft": ({"name": "sft"}, 1_800, 0.52),
    "dpo": ({"name": "dpo", "beta": 0.1}, 1_800, 0.70),
    "rdpo": ({"name": "rdpo", "beta": 0.1, "gamma": 2.0, "form": "paper"}, 1_800, 0.78),
    "rdpo_third": ({"name": "rdpo", "beta": 0.1, "gamma": 2.0, "form": "paper"}, 600, 0.68),
}
COMPARISONS = [
    ("dpo", "sft"), ("rdpo", "sft"), ("rdpo_third", "sft"), ("rdpo", "dpo"), ("rdpo_third", "dpo")
]  # fmt: skip

SAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", MESSAGES),
        ("responses", pa.list_(pa.string())),
        ("response_tokens", pa.list_(pa.int64())),
    ]
)


def write_stage(
    folder: Path,
    name: str,
    kind: str,
    reads: dict[str, Any] | None = None,
    *,
    rows: tuple[list[dict[str, Any]], pa.Schema] | None = None,
    rejects: list[dict[str, Any]] | None = None,
    **manifest: Any,
) -> StageOutput:
    """A finished stage's folder: rows, rejects, manifest."""
    out = str(folder / name)
    if rows is not None:
        storage.write_rows(storage.join(out, "rows"), rows[0], rows[1])
    counted: dict[str, dict[str, int]] = {}
    if rejects is not None:
        storage.write_rows(storage.join(out, "rejects"), rejects, REJECT)
        for row in rejects:
            of_kind = counted.setdefault(row["kind"], {})
            of_kind[row["reason"]] = of_kind.get(row["reason"], 0) + 1
    fingerprint = f"{random.Random(name).getrandbits(128):032x}"
    full = {
        "name": name, "kind": kind, "fingerprint": fingerprint, "code_version": fingerprint[::-1],
        "settings": {}, "rows_in": 0, "rows_out": len(rows[0]) if rows else 0, "rejects": counted,
        "metrics": {}, "details": {}, "prompts": {}, "raw_inputs": [], "seconds": 1.0,
        "mlflow_run_id": fingerprint[:32],
        "inputs": {
            role: [_described(one) for one in read] if isinstance(read, list) else _described(read)
            for role, read in (reads or {}).items()
        },
        **manifest,
    }  # fmt: skip
    storage.write_json(storage.join(out, "manifest.json"), full)
    return StageOutput(name, out, fingerprint, kind, full)


def _described(output: StageOutput) -> dict[str, Any]:
    return {"name": output.name, "uri": output.uri, "fingerprint": output.fingerprint,
            "kind": output.kind, "mlflow_run_id": output.manifest["mlflow_run_id"]}  # fmt: skip


def pair_rows(size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of schema PAIR out of the world's generator."""
    rows = []
    for line, raw in enumerate(generate_pairs(size, seed), start=1):
        good, bad = ("a", "b") if raw["preferred"] == "a" else ("b", "a")
        key = f"{random.Random(f'{seed} {line}').getrandbits(128):032x}"
        rows.append(
            {
                "id": key, "split": "test" if int(key[0], 16) < 2 else "train",
                "source": "pairs.jsonl", "line": line, "format": "tinyworld",
                "annotator": raw["annotator"], "occurrence": 0,
                "prompt": [{"role": "user", "content": raw["prompt"]}],
                "chosen": [{"role": "assistant", "content": raw[f"response_{good}"]}],
                "rejected": [{"role": "assistant", "content": raw[f"response_{bad}"]}],
                "score_chosen": raw[f"score_{good}"], "score_rejected": raw[f"score_{bad}"],
                "confidence": float(raw["confidence"]), "metadata": "{}",
            }
        )  # fmt: skip
    return rows


def rationale(row: dict[str, Any], rng: random.Random, wrong: bool) -> dict[str, Any]:
    """A graded rationale of a pair; a wrong one says the reverse and is graded so."""
    prompt, chosen, rejected = (
        row[name][0]["content"] for name in ("prompt", "chosen", "rejected")
    )
    first = rng.random() < 0.5
    text = detailed_rationale(prompt, chosen, rejected, rng, first)
    names = ("helpfulness", "relatedness", "correctness", "coherence")
    grades = dict(zip(names, (2, 4, 1, 4) if wrong else rng.choice([(5, 5, 5, 5), (4, 5, 5, 5)]),
                      strict=True))  # fmt: skip
    return {"text": reverse_rationale(text) if wrong else text, "style": "detailed",
            "chosen_first": first, "seed": rng.getrandbits(40), "tokens": len(text.split()),
            "finish_reason": "stop", "grades": grades}  # fmt: skip


def samples(name: str, quality: float, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers of one policy."""
    rng = random.Random(name)
    rows = []
    for row in prompts:
        text = write_response(parse(row["prompt"][0]["content"]), rng, rng.gauss(quality, 0.2))
        rows.append({"id": row["id"], "prompt": row["prompt"], "responses": [text],
                     "response_tokens": [len(text) // 3]})  # fmt: skip
    return rows


def curves(loss: str, steps: int, final: float) -> dict[str, list[Any]]:
    """Metrics of a training, as the train stage records them."""
    rng, found = random.Random(loss + str(steps)), {}
    start = 3.1 if loss == "sft" else math.log(2)
    pace = [1 - math.exp(-4 * step / steps) for step in range(steps)]
    found["step"] = list(range(steps))
    found["loss"] = [start + (final - start) * p + rng.gauss(0, 0.03) for p in pace]
    found["learning_rate"] = [5e-4 * math.cos(step / steps * math.pi / 2) for step in range(steps)]
    found["grad_norm"] = [1.5 - p + abs(rng.gauss(0, 0.2)) for p in pace]
    if loss != "sft":
        found["rewards/accuracy"] = [min(1, 0.5 + 0.3 * p + rng.gauss(0, 0.06)) for p in pace]
        found["rewards/margin"] = [1.2 * p + rng.gauss(0, 0.1) for p in pace]
    if loss == "rdpo":
        found["terms/preference"] = [0.7 - 0.3 * p for p in pace]
        found["terms/rationale"] = [2 - p for p in pace]
    found["validation/step"] = [round(steps * k / 4) for k in range(1, 5)]
    found["validation/loss"] = [start + (final - start) * 0.9 * k / 4 for k in range(1, 5)]
    return found


def recipe(folder: Path, pairs: int = 1_000, hostile: str | None = None) -> list[StageOutput]:
    """All stages of a small RDPO recipe; the last three are what a report reads.

    Args:
        hostile: a text put into prompts, answers, rationales, rejects, names of sources.
    """
    rng = random.Random(0)
    rows = pair_rows(pairs)
    if hostile is not None:
        for row in rows[::7]:
            row["chosen"][0]["content"] += hostile
        for row in rows[1::7]:
            row["prompt"][0]["content"] += f" {hostile}"
    bad = [
        reject(None, RejectKind.INVALID, "unparsable_line", line=line,
               detail=f"pairs.jsonl:{line}: Expecting ',' delimiter: column 40",
               row='{"prompt": "Name two' + (hostile or ""))
        for line in (1_003, 1_017)
    ] + [
        reject(None, RejectKind.INVALID, "chosen_equals_rejected", line=1_020,
               detail="pairs.jsonl:1020: both responses are 'Well, I see owl.'",
               row=json.dumps(rows[0]))
    ]  # fmt: skip
    ingest = write_stage(
        folder, "pairs", "ingest", rows=(rows, PAIR), rejects=bad, rows_in=pairs + 3, seconds=2.4,
        raw_inputs=[{"uri": "data/pairs.jsonl", "bytes": 734_003, "sha256": "ab" * 32}],
        settings={"sources": [{"uri": "data/pairs.jsonl", "format": "tinyworld"}]},
        metrics={"rows_per_second": 8_123.0},
    )  # fmt: skip
    schema = pa.schema([*PAIR, ("rationales", pa.list_(RATIONALE))])
    clean = [row for row in rows if not hostile or hostile not in row["prompt"][0]["content"]]
    graded = [
        {**row, "rationales": [rationale(row, rng, rng.random() < 0.12)]}
        for row in clean
        if row["split"] == "train"
    ]
    if hostile is not None:
        for row in graded[::5]:
            row["rationales"][0]["text"] += hostile
    good = [r for r in graded if min(r["rationales"][0]["grades"].values()) > 3]
    dropped = [
        reject(r["id"], RejectKind.FILTERED, "low_grade", detail="correctness 1: expected above 3",
               row=json.dumps({**r, "rationales": [], "graded": r["rationales"]}))
        for r in graded
        if r not in good
    ]  # fmt: skip
    written = write_stage(
        folder, "rationales", "rationales", {"rows": ingest}, rows=(graded, schema), rejects=[],
        rows_in=len(graded), seconds=94.0, settings={"template": "tinyworld/rationale_detailed"},
        prompts={"tinyworld/rationale_detailed": {
            "fingerprint": "0123456789abcdef", "text": "Which is better?"}},
        metrics={"rows_per_second": 11.2, "tokens_per_second": 3_210.0},
    )  # fmt: skip
    grades = write_stage(
        folder, "graded", "grade_rationales", {"rows": written}, rows=(good, schema),
        rejects=dropped, rows_in=len(graded), seconds=61.0, metrics={"rows_per_second": 15.0},
        details={"grades": {
            name: {str(g): sum(r["rationales"][0]["grades"][name] == g for r in graded)
                   for g in range(1, 6)}
            for name in ("helpfulness", "relatedness", "correctness", "coherence")
        }},
    )  # fmt: skip
    trained, sampled = {}, []
    held_out = [row for row in clean if row["split"] == "test"]
    for name, (loss, size, quality) in POLICIES.items():
        reads = {"rows": grades} | ({"model": trained["sft"]} if name != "sft" else {})
        trained[name] = write_stage(
            folder, name, "train", reads, rows_in=size, rows_out=size, rejects=[],
            settings={"loss": loss, "learning_rate": 5e-4, "batch_pairs": 32, "epochs": 1.0},
            details={"loss": loss, "seed": 0,
                     "curves": curves(loss["name"], size // 16, 1.9 if name == "sft" else 0.42)},
            metrics={"pairs_per_second": 21.0, "tokens_per_second": 4_100.0}, seconds=size / 20,
        )  # fmt: skip
        answers = samples(name, quality, held_out)
        if hostile is not None:
            for row in answers[::3]:
                row["responses"][0] += hostile
        sampled.append(write_stage(
            folder, f"samples_{name}", "samples", {"rows": ingest, "model": trained[name]},
            rows=(answers, SAMPLES), rejects=[], rows_in=len(answers), seconds=21.0,
            metrics={"tokens_per_second": 2_900.0},
        ))  # fmt: skip
    compared = compare(folder, sampled, rng)
    return [compared, margins(folder, grades, trained, rng), grades]


def reject(
    key: str | None,
    kind: RejectKind,
    reason: str,
    *,
    detail: str,
    row: str,
    line: int | None = None,
) -> dict[str, Any]:
    """A row of schema REJECT."""
    return {"id": key, "kind": str(kind), "reason": reason, "detail": detail,
            "source": "pairs.jsonl" if line else None,
            "line": line, "row": row}  # fmt: skip


def compare(folder: Path, sampled: list[StageOutput], rng: random.Random) -> StageOutput:
    """A win_rates stage: the exact rubric, and a judge that errs in a fifth of its verdicts."""
    policies = {policy.label: policy for policy in read_policies(sampled)}
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for a, b in COMPARISONS:
        items = [
            {"comparison": f"{a}_vs_{b}", "policy_a": a, "policy_b": b, "prompt_id": m.id,
             "prompt": m.prompt, "sample": 0, "response_a": m.response_a,
             "response_b": m.response_b, "tokens_a": m.tokens_a, "tokens_b": m.tokens_b}
            for m in match(policies[a], policies[b])[0]
        ]  # fmt: skip
        scored, refused, _ = score_pairs(items, ScorerJudge(kind="scorer", name="tinyworld_rubric"))
        rows += scored
        rejects += refused
        for item in items:
            judged = _noisy_judge(item, rng)
            (rows if "outcome" in judged else rejects).append(judged)
    details = {
        "policies": list(policies),
        "judges": [{"judge": "tinyworld", "kind": "llm", "model": "tinyworld"}],
        "win_rates": summary.win_rates(rows, rejects),
        "scores": summary.scores(rows),
        "lengths": summary.lengths(list(policies.values())),
        "agreement": summary.agreement(rows),
    }
    return write_stage(
        folder, "win_rates", "win_rates", {"samples": sampled}, rows=(rows, ROWS),
        rejects=rejects, rows_in=len(rows) + len(rejects), details=details,
        metrics=summary.metrics(details), seconds=48.0,
    )  # fmt: skip


def _noisy_judge(item: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    prompt = prompt_text(item["prompt"])
    a, b = item["response_a"], item["response_b"]
    texts = [pairwise_judgement(prompt, a, b, rng), pairwise_judgement(prompt, b, a, rng)]
    for at, text in enumerate(texts):
        if rng.random() < 0.2:
            texts[at] = text[:-1] + ("2" if text.endswith("1") else "1")
    if rng.random() < 0.03:
        texts[0] = texts[0].partition("[RESULT]")[0]
    both = judge_both_orders(*texts)
    row = {**item, "id": f"{item['comparison']}/tinyworld/{item['prompt_id']}/0/0",
           "judge": "tinyworld", "judge_kind": "llm", "repeat": 0, "text_ab": texts[0],
           "text_ba": texts[1], "verdict_ab": both.ab.value, "verdict_ba": both.ba.value,
           "flipped": both.flipped}  # fmt: skip
    if both.outcome is None:
        return summary.reject(row, RejectKind.INVALID, str(both.reason), texts[0])
    return {**row, "outcome": both.outcome}


def margins(
    folder: Path, grades: StageOutput, trained: dict[str, StageOutput], rng: random.Random
) -> StageOutput:
    """A margins stage with curves of the paper's shape."""
    entries = [
        margins_of(policy, 0.1, [rng.gauss(mean, width) for _ in range(400)])
        for policy, mean, width in (("dpo", 4.0, 9.0), ("rdpo", 5.0, 6.0))
    ]
    reads = {"rows": grades, "policies": [trained["dpo"], trained["rdpo"]]}
    return write_stage(
        folder, "margins", "margins", reads, details={"margins": entries}, rows_in=400,
        rows_out=800, seconds=9.0,
    )  # fmt: skip
