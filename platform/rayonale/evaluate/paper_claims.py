"""The claims of the Rationale DPO paper (arXiv 2407.14477), each with a number of our own.

A claim is an inequality: a measured number lies on the claimed side of a threshold. It `holds`
where the whole interval does, `does not hold` where the whole interval lies on the other side, and
is `undecided` otherwise. Where the cells that it needs were not trained it is `not tested`, and
says what would be needed. Intervals are over seeds and prompts and are not widened for the number
of claims.

A new claim is one entry in `CLAIMS`; `roles` names the methods that it is about.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rayonale.evaluate.claim_measures import (
    Measure,
    against_baseline,
    few_against_all,
    grows,
    head_to_head,
    higher_win_rate,
    margin_slope,
    margin_tail,
    needs_fewer,
    over_seeds,
    shorter,
    train_seconds,
)
from rayonale.evaluate.study_tables import Study

# What the paper calls its settings; a study's `roles` say which method of its cells is which.
ROLES = (
    "dpo", "rdpo", "general", "detailed", "permuted", "reversed", "rationale_only",
    "orpo", "rorpo", "simpo", "rsimpo",
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        text: in the paper's sense, in words of ours.
        published: the paper's number, and where it stands.
        roles: methods that must be among the cells.
        measure: our number; None where it cannot be had, for lack of what `needs` says.
    """

    key: str
    text: str
    published: str
    roles: tuple[str, ...]
    measure: Measure
    needs: str = ""


def verdicts(study: Study) -> list[dict[str, Any]]:
    """Every claim with its verdict and numbers, JSON-able."""
    found = []
    for claim in CLAIMS:
        missing = [role for role in claim.roles if study.role(role) is None]
        measured = None if missing else claim.measure(study)
        entry: dict[str, Any] = {
            "key": claim.key, "claim": claim.text, "published": claim.published,
            "verdict": measured.verdict() if measured else "not tested",
        }  # fmt: skip
        if measured:
            entry |= asdict(measured)
        else:
            lacking = f"no cells of {', '.join(missing)}" if missing else claim.needs
            entry["why"] = lacking or "its cells share no seed and size, or were not compared"
        found.append(entry)
    return found


_MARGINS = "a margins stage over the largest cells of both, with two seeds or more"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "dpo_beats_sft", "DPO beats the SFT model.",
        "59.1 % (table 4)", ("dpo",), against_baseline("dpo"),
    ),
    Claim(
        "rdpo_beats_sft", "RDPO beats the SFT model.",
        "64.5 % general, 64.4 % detailed (table 4)", ("rdpo",), against_baseline("rdpo"),
    ),
    Claim(
        "rdpo_above_dpo", "Against the SFT model RDPO's win rate is higher than DPO's.",
        "64.5 % against 59.1 % (table 4)", ("rdpo", "dpo"), higher_win_rate("rdpo", "dpo"),
    ),
    Claim(
        "rdpo_beats_dpo", "RDPO beats DPO trained on the same pairs.",
        "57 % (table 5), 74–76 % (table 6)", ("rdpo", "dpo"), head_to_head("rdpo", "dpo"),
    ),
    Claim(
        "few_beat_all", "RDPO with the fewest pairs beats DPO with the most.",
        "above 50 % from 1,000 pairs on, against DPO with 11,000 (figure 3)",
        ("rdpo", "dpo"), few_against_all("rdpo", "dpo"),
        "RDPO at a smaller size than DPO's largest",
    ),
    Claim(
        "fewer_pairs", "RDPO needs fewer pairs than DPO for the same win rate.",
        "3,000 against 9,000 for about 60 % (figure 2)", ("rdpo", "dpo"),
        needs_fewer("dpo", "rdpo", 1.0), "two or more sizes of both, and DPO above 50 %",
    ),
    Claim(
        "a_third", "RDPO needs a third of DPO's pairs, or less.",
        "3,000 against 9,000 for about 60 % (figure 2)", ("rdpo", "dpo"),
        needs_fewer("dpo", "rdpo", 3.0), "two or more sizes of both, and DPO above 50 %",
    ),
    Claim(
        "dpo_grows", "DPO's win rate rises with the number of pairs.",
        "rising to 9,000 pairs (figure 2, Orca)", ("dpo",), grows("dpo"), "two or more sizes",
    ),
    Claim(
        "rdpo_grows", "RDPO's win rate rises with the number of pairs.",
        "rising (figure 2)", ("rdpo",), grows("rdpo"), "two or more sizes",
    ),
    Claim(
        "rationale_only_beats_sft", "The rationale term alone beats the SFT model.",
        "61.8 % general, 61.3 % detailed (table 4)", ("rationale_only",),
        against_baseline("rationale_only"),
    ),
    Claim(
        "rationale_only_above_dpo", "The rationale term alone does better than DPO.",
        "61.8 % against 59.1 % (table 4)", ("rationale_only", "dpo"),
        higher_win_rate("rationale_only", "dpo"),
    ),
    Claim(
        "both_above_rationale_only", "Both terms together do better than the rationale term alone.",
        "64.5 % against 61.8 % (table 4)", ("rdpo", "rationale_only"),
        higher_win_rate("rdpo", "rationale_only"),
    ),
    Claim(
        "permuted_loses", "With rationales of other pairs RDPO loses to RDPO with its own.",
        "1 : 99 (table 7)", ("permuted", "rdpo"), head_to_head("permuted", "rdpo", above=False),
    ),
    Claim(
        "reversed_loses", "With rationales of reversed meaning RDPO loses to RDPO with true ones.",
        "10 : 87 (table 7)", ("reversed", "rdpo"), head_to_head("reversed", "rdpo", above=False),
    ),
    Claim(
        "general_needs_fewer", "General rationales need fewer pairs than detailed ones.",
        "earlier with general ones (figure 8, left)", ("general", "detailed"),
        needs_fewer("detailed", "general", 1.0), "two or more sizes of both",
    ),
    Claim(
        "shorter", "RDPO's answers are shorter than DPO's.",
        "1,364 against 2,021 characters (table 10)", ("rdpo", "dpo"), shorter("rdpo", "dpo"),
    ),
    Claim(
        "tails", "DPO's log-prob margins have heavier tails than RDPO's.",
        "figure 4 (text)", ("dpo", "rdpo"),
        over_seeds("dpo", "rdpo", "β·Δ from the 5 % to the 95 % quantile", margin_tail), _MARGINS,
    ),
    Claim(
        "slope", "RDPO's sorted margins cross zero more steeply.",
        "figure 4 (text)", ("rdpo", "dpo"),
        over_seeds("rdpo", "dpo", "slope at zero for 1 % of the pairs", margin_slope), _MARGINS,
    ),
    Claim(
        "slower", "RDPO takes longer to train than DPO on the same pairs.",
        "1.89 times (6,770 s against 3,583 s)", ("rdpo", "dpo"),
        over_seeds("rdpo", "dpo", "time in training steps", train_seconds, ratio=True),
        "the trained policies, read as `policies`, with two seeds or more",
    ),
    Claim(
        "rorpo", "RORPO beats ORPO.", "56 : 44 (table 1)", ("rorpo", "orpo"),
        head_to_head("rorpo", "orpo"),
    ),
    Claim(
        "rsimpo", "RSimPO beats SimPO.", "68 % on UltraFeedback, 65 % on HH (table 3)",
        ("rsimpo", "simpo"), head_to_head("rsimpo", "simpo"),
    ),
)  # fmt: skip
