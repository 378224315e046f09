"""Every published number that the public samples let us reproduce, beside ours: one command.

    python benchmarks/published_numbers.py                    folder: RAYONALE_TEST_DATA
    python benchmarks/published_numbers.py --data FOLDER

The exit status is 1 when a number is off and its reason is not known. What `tiny_lm` is compared
with was computed from its published weights by another program; no leaderboard prints it.

The samples are no part of the project. A part whose files are absent is skipped, and said so.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rayonale.data import formats
from rayonale.data.fields import BadRow
from rayonale.evaluate import alpaca_eval, length_control, mt_bench, verdict_layouts
from rayonale.evaluate.published import (
    ALPACA_EVAL,
    lines,
    published_alpaca_eval,
    published_penalty,
)
from rayonale.evaluate.soft_verdicts import soft_preference
from rayonale.evaluate.statistics import cohen_kappa
from rayonale.evaluate.verdicts import scale

_FOLDS = (
    "the publisher's folds chose C = {:.2f}: the gamed rows at hand equal the published ones "
    "only at a fixed C, not fold by fold"
)

# Instances of each set (arXiv 2310.07641, section 3) and Cohen's κ (PandaLM's README).
LLMBAR = {"Natural": 100, "Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46}
PANDALM = {(1, 2): 0.85, (1, 3): 0.88, (2, 3): 0.86}
# Human-labelled pairs without ties in LLMBar's repository, and the data card of HHH alignment.
PROCESSED = {"FairEval": 66, "LLMEval^2": 200, "MT-Bench": 200}
HHH = {"helpful": 59, "honest": 61, "harmless": 58, "other": 43}

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Number:
    """A published number and ours.

    Attributes:
        off: the largest difference that counts as none.
        known: why this one is off, where that is understood; it is printed as off all the same.
    """

    what: str
    published: float
    ours: float
    off: float
    note: str = ""
    known: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the difference is within `off`."""
        return math.isfinite(self.ours) and abs(self.ours - self.published) <= self.off


def alpaca_eval_rates(data: Path) -> Iterator[Number]:
    """Win rate, standard error, counts and length of six models of the leaderboard."""
    annotations = alpaca_eval.read_annotations(
        str(data / ALPACA_EVAL / "annotations_compact_6models.jsonl")
    )
    for model, told in published_alpaca_eval(data).items():
        rate = alpaca_eval.win_rate(annotations[model]).as_dict()
        for name in ("win_rate", "standard_error", "discrete_win_rate"):
            yield Number(f"AlpacaEval 2 · {model} · {name}", told[name], rate[name], 1e-12)
        for name in ("n_wins", "n_wins_base", "n_draws", "n_total", "avg_length"):
            yield Number(f"AlpacaEval 2 · {model} · {name}", told[name], rate[name], 0)


def length_controlled_rates(data: Path) -> Iterator[Number]:
    """The length-controlled win rate, without penalty, as published, and by folds here."""
    folder = data / ALPACA_EVAL
    annotations = alpaca_eval.read_annotations(str(folder / "annotations_compact_6models.jsonl"))
    known = length_control.read_difficulty(str(folder / "instruction_difficulty_805.jsonl"))
    gamed = length_control.read_gamed(str(folder / "df_gamed_equivalent_1610.jsonl"))
    for model, told in published_alpaca_eval(data).items():
        own = annotations[model]
        difficulty = length_control.difficulties_of(own, known)
        rate = told["length_controlled_winrate"]
        penalty = published_penalty(own, difficulty, told["glm_weights"])

        def fitted(
            choice: Any, own: Any = own, difficulty: Any = difficulty
        ) -> length_control.LengthControlled:
            return length_control.length_controlled(own, difficulty, gamed, choice)

        same = fitted(penalty)
        folds = fitted("cv")
        at = f"AlpacaEval 2 · {model} · LC win rate"
        yield Number(f"{at}, no penalty", rate, fitted(length_control.NO_PENALTY).win_rate, 0.12)
        note = f"C = {penalty:.2f}, told by the published coefficients"
        yield Number(f"{at}, published penalty", rate, same.win_rate, 0.02, note)
        note = f"C = {folds.inverse_penalty:.2f}, chosen here"
        why = "" if folds.inverse_penalty == penalty else _FOLDS.format(penalty)
        yield Number(f"{at}, penalty by 5 folds", rate, folds.win_rate, 0.02, note, why)
        if told["lc_standard_error"] is not None:
            error = told["lc_standard_error"]
            yield Number(f"{at}, standard error", error, same.standard_error, 0.005)


def soft_preferences(data: Path) -> Iterator[Number]:
    """Preferences that a judge's stored log-probabilities give: the largest difference of all."""
    rows = list(lines(data / ALPACA_EVAL / "judge_logprobs_claude-2.1.jsonl"))
    ours, differences = [], []
    for row in rows:
        switched = bool(row["is_switched_derived"])
        found = soft_preference(row["top_logprobs"], ("M", "m"), switched=switched, variants=False)
        # the publisher counts what has no log-probabilities as a tie
        ours.append(1.5 if found.preference is None else found.preference)
        if found.preference is not None:
            differences.append(abs(found.preference - row["preference"]))
    note = f"{len(differences)} of {len(rows)} rows have log-probs"
    yield Number("soft preferences · largest difference", 0, max(differences), 1e-10, note)
    rate = published_alpaca_eval(data)["claude-2.1"]["win_rate"]
    mine = 100 * (sum(ours) / len(ours) - 1)
    yield Number("AlpacaEval 2 · claude-2.1 · win_rate from log-probs", rate, mine, 1e-8)


def pretrained_weights(data: Path) -> Iterator[Number]:
    """Real weights in Transformers: greedy text and the likelihood of three texts."""
    import json

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rayonale import llama2c

    folder = data / "tiny_lm"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as place:
        source = folder / "babyllama_tok105_model5000.bin"
        llama2c.convert(source, folder / "tok105.json", Path(place))
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float64).eval()
        tokenizer = AutoTokenizer.from_pretrained(place)
    told = expected["greedy_from_bos_200"]["ids"]
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([told[:1]]),
            max_new_tokens=len(told) - 1,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0].tolist()
    same = sum(a == b for a, b in zip(ids, told, strict=True))
    yield Number("tiny_lm · greedy tokens that agree", len(told), same, 0)
    greedy = expected["greedy_prompt"]
    prompt = torch.tensor([tokenizer(greedy["prompt"])["input_ids"]])
    with torch.no_grad():
        ids = model.generate(
            prompt,
            max_new_tokens=1 + len(greedy["text"]) - prompt.shape[1],
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0].tolist()
    written = tokenizer.decode(ids, skip_special_tokens=True)
    same = sum(a == b for a, b in zip(written, greedy["text"], strict=True))
    name = "tiny_lm · characters after a prompt that agree"
    yield Number(name, len(greedy["text"]), same, 0)
    for text in expected["nll_per_char"]:
        found = torch.tensor([tokenizer(text["text"])["input_ids"]])
        with torch.no_grad():
            nll = model(found, labels=found).loss.item()
        name = f"tiny_lm · nats a character of “{text['text'][:24]}…”"
        yield Number(name, text["nll"], nll, 1e-6)


def judges_texts(data: Path) -> Iterator[Number]:
    """Grades that Auto-J's authors stored, read here from the critiques that end in them."""
    rows = list(lines(data / "autoj" / "single_gpt4_critiques_300.jsonl"))
    same = sum(mt_bench.read_grade(row["target_output"])[0] == row["pred_score"] for row in rows)
    yield Number("Auto-J · grades read from critiques as stored", len(rows), same, 0)


def output_lengths(data: Path) -> Iterator[Number]:
    """Characters of the outputs of a model and its baseline, as its annotations store them."""
    folder = data / ALPACA_EVAL
    texts = list(lines(folder / "text_alpaca-7b_vs_baseline_400.jsonl"))
    stored = {
        row["index"]: (row["len_1"], row["len_2"])
        for row in lines(folder / "annotations_compact_6models.jsonl")
        if row["generator_2"] == "alpaca-7b"
    }
    same = sum(
        (len(row["output_1"]), len(row["output_2"])) == stored[row["index"]] for row in texts
    )
    yield Number("AlpacaEval 2 · output lengths as stored", len(texts), same, 0)


def human_labels(data: Path) -> Iterator[Number]:
    """Human labels: sizes of LLMBar's sets, FairEval's labels in them, PandaLM's annotators."""
    for subset, size in LLMBAR.items():
        found = [row for row in lines(data / "llmbar" / "llmbar_419.jsonl")
                 if row["subset"] == subset]  # fmt: skip
        yield Number(f"LLMBar · instances of {subset}", size, len(found), 0)
    processed = [row for row in lines(data / "llmbar" / "processed_nontie_466.jsonl")
                 if row["subset"] == "FairEval"]  # fmt: skip
    labels: dict[tuple[str, str], int] = {}
    for row in lines(data / "faireval" / "gpt35_vs_vicuna13b_80.jsonl"):
        one, two = row["answer_gpt35"].strip(), row["answer_vicuna_13b"].strip()
        if row["human"] != "TIE":
            better = 1 if row["human"] == "CHATGPT" else 2
            labels |= {(one, two): better, (two, one): 3 - better}
    yield Number("FairEval · pairs that are no tie, as in LLMBar", len(processed),
                 len(labels) / 2, 0)  # fmt: skip
    same = sum(
        labels.get((row["output_1"].strip(), row["output_2"].strip())) == row["label"]
        for row in processed
    )
    yield Number("FairEval · labels as in LLMBar", len(processed), same, 0)
    rows = list(lines(data / "pandalm" / "pandalm7b_reasons_300.jsonl"))
    for (a, b), told in PANDALM.items():
        first, second = ([row[f"annotator{n}"] for row in rows] for n in (a, b))
        kappa = cohen_kappa(first, second)
        assert kappa is not None
        agreed = sum(x == y for x, y in zip(first, second, strict=True)) / len(rows)
        chance = (agreed - kappa) / (1 - kappa)
        error = math.sqrt(agreed * (1 - agreed) / len(rows)) / (1 - chance)
        note = f"{len(rows)} of 999 rows: two standard errors are allowed"
        yield Number(f"PandaLM · κ of annotators {a} and {b}", told, kappa, 2 * error, note)


def judges_inputs(data: Path) -> Iterator[Number]:
    """Sets that judges are measured on, as our formats read them: sizes and labels as published."""
    found = _read(data / "prometheus" / "hhh_alignment_221.jsonl", "hhh_alignment")
    for source, size in HHH.items():
        mine = [row for row in found if row["metadata"]["source"] == source]
        yield Number(f"HHH alignment · pairs about {source}", size, len(mine), 0)
    raw = list(lines(data / "llmbar" / "processed_nontie_466.jsonl"))
    for subset, size in PROCESSED.items():
        mine = [row for row in raw if row["subset"] == subset]
        yield Number(f"LLMBar · pairs of {subset} without ties", size, len(mine), 0)
    raw = list(lines(data / "llmbar" / "llmbar_419.jsonl"))
    found = _read(data / "llmbar" / "llmbar_419.jsonl", "llmbar_judged")
    same = sum(row["label"] == line["label"] for row, line in zip(found, raw, strict=True))
    yield Number("LLMBar · labels as our format reads them", len(raw), same, 0)
    # one instance of every five, so the capabilities alone can be counted
    items = list(lines(data / "prometheus" / "biggen_bench_items_150.jsonl"))
    yield Number("BiGGen Bench · capabilities", 9, len({row["capability"] for row in items}), 0)


def judges_verdicts(data: Path) -> Iterator[Number]:
    """Scores read by the judge's parser from real critiques, as their authors stored them."""
    rows = list(lines(data / "autoj" / "single_gpt4_critiques_300.jsonl"))
    ten = scale(1, 10, halves=True)
    told = [verdict_layouts.read(row["target_output"], ten, "brackets", prompt=row["usrmsg"])
            for row in rows]  # fmt: skip
    same = sum(found.value == row["pred_score"] for found, row in zip(told, rows, strict=True))
    yield Number("Auto-J · scores read by the judge's parser", len(rows), same, 0)


def _read(file: Path, layout: str) -> list[dict[str, Any]]:
    """Rows of a file in one of our formats; bad ones are left out."""
    found = []
    for row in lines(file):
        try:
            found.append(formats.get(layout).convert(row))
        except BadRow:
            continue
    return found


PARTS: tuple[Callable[[Path], Iterator[Number]], ...] = (
    alpaca_eval_rates,
    length_controlled_rates,
    soft_preferences,
    output_lengths,
    judges_texts,
    human_labels,
    judges_inputs,
    judges_verdicts,
    pretrained_weights,
)


def main() -> int:
    """Print the table; 1 when a number is off and nobody knows why, or nothing was compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    standard = os.environ.get("RAYONALE_TEST_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(standard), help="default: %(default)s")
    data = parser.parse_args().data
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table("number", "published", "ours", "difference", "allowed", "")
    off = known = compared = 0
    for part in PARTS:
        try:
            found = list(part(data))
        except FileNotFoundError as error:
            console.print(f"skipped {part.__name__}: {error.filename} is not there")
            continue
        for number in found:
            compared += 1
            off += not number.agrees and not number.known
            known += not number.agrees and bool(number.known)
            table.add_row(
                number.what,
                f"{number.published:.10g}",
                f"{number.ours:.10g}",
                f"{number.ours - number.published:+.2g}",
                f"{number.off:.4g}",
                number.note if number.agrees else f"OFF {number.note} {number.known}".rstrip(),
            )
    if compared:
        console.print(table)
    console.print(
        f"{compared} comparisons: {compared - off - known} agree, {known} off for a known reason, "
        f"{off} off"
    )
    return 0 if compared and not off else 1


if __name__ == "__main__":
    sys.exit(main())
