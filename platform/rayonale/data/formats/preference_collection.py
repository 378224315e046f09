"""Preference Collection, and Preference Bench in its layout: two responses, A or B, feedback."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import assistant, optional_text, rest, text, user
from rayonale.data.formats.judged import given_judgement, one_of, rubric_of
from rayonale.data.formats.layout import Format

_USED = ("orig_instruction", "orig_response_A", "orig_response_B", "orig_reference_answer",
         "orig_criteria", "orig_feedback", "orig_preference", "instruction", "output",
         "input")  # fmt: skip


def preference_collection(raw: dict[str, Any]) -> dict[str, Any]:
    """Two responses, what they are compared by, and the comparison that came with them.

    Raw (arXiv 2405.01535)::

        {"orig_instruction": "Name two birds.", "orig_response_A": "robin, oak",
         "orig_response_B": "robin, wren", "orig_reference_answer": "wren, owl",
         "orig_criteria": "Birds?", "orig_feedback": "Only B names two.",
         "orig_preference": "B", "orig_score_A": "3", "orig_score_B": "5"}

    Converted (a judgement set)::

        {"prompt": [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, oak"}],
                       [{"role": "assistant", "content": "robin, wren"}]],
         "label": 2.0, "rubric": "[Birds?]", "reference": "wren, owl",
         "judgements": [{"text": "Only B names two. [RESULT] 2",
                         "rationale": "Only B names two.", "verdict": 2.0, "status": "ok",
                         "order": "ab"}],
         "metadata": {"orig_score_A": "3", "orig_score_B": "5"}}
    """
    label = one_of(raw, "orig_preference", {"A": 1.0, "B": 2.0})
    feedback = optional_text(raw, "orig_feedback")
    return {
        "prompt": [user(text(raw, "orig_instruction"))],
        "responses": [[assistant(text(raw, f"orig_response_{side}"))] for side in "AB"],
        "label": label,
        "rubric": rubric_of(text(raw, "orig_criteria"), {}),
        "reference": optional_text(raw, "orig_reference_answer"),
        "judgements": [] if feedback is None else [given_judgement(feedback.strip(), label, "ab")],
        "metadata": rest(raw, *_USED),
    }


def _matches(raw: dict[str, Any]) -> bool:
    return all(key in raw for key in ("orig_response_A", "orig_response_B", "orig_preference"))


FORMAT = Format(
    name="preference_collection",
    row_type="judgement_set",
    convert=preference_collection,
    matches=_matches,
    expects="orig_instruction, orig_response_A, orig_response_B, orig_criteria, orig_feedback: "
    "text; orig_preference: A or B",
)
