"""Feedback Collection and Feedback Bench: a response, a rubric, a score, feedback."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import assistant, optional_text, rest, text, user
from rayonale.data.formats.judged import given_judgement, rubric_of, whole_number
from rayonale.data.formats.layout import Format

_DESCRIPTIONS = {n: f"orig_score{n}_description" for n in range(1, 6)}
_USED = ("orig_instruction", "orig_response", "orig_reference_answer", "orig_criteria",
         "orig_feedback", "orig_score", "instruction", "output", "input",
         *_DESCRIPTIONS.values())  # fmt: skip


def feedback_collection(raw: dict[str, Any]) -> dict[str, Any]:
    """The response, what it is judged by, and the judgement that came with it.

    Raw (arXiv 2310.08491; `instruction` and `output` are the same as one prompt and answer)::

        {"orig_instruction": "Name two birds.", "orig_response": "robin, oak",
         "orig_reference_answer": "robin, wren", "orig_criteria": "Birds?",
         "orig_score1_description": "None.", "orig_score2_description": "One.",
         "orig_score3_description": "Two.", "orig_score4_description": "Three.",
         "orig_score5_description": "All.", "orig_feedback": "An oak is a tree.",
         "orig_score": "3"}

    Converted (a judgement set)::

        {"prompt": [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, oak"}]], "label": 3.0,
         "rubric": "[Birds?]\\nScore 1: None.\\nScore 2: One.\\nScore 3: Two.\\nScore 4: Three.\\n"
                   "Score 5: All.",
         "reference": "robin, wren",
         "judgements": [{"text": "An oak is a tree. [RESULT] 3",
                         "rationale": "An oak is a tree.", "verdict": 3.0, "status": "ok",
                         "order": null}],
         "metadata": {}}
    """
    label = whole_number(raw.get("orig_score"), "orig_score", 1, 5)
    feedback = optional_text(raw, "orig_feedback")
    return {
        "prompt": [user(text(raw, "orig_instruction"))],
        "responses": [[assistant(text(raw, "orig_response"))]],
        "label": label,
        "rubric": rubric_of(
            text(raw, "orig_criteria"), {n: text(raw, key) for n, key in _DESCRIPTIONS.items()}
        ),
        "reference": optional_text(raw, "orig_reference_answer"),
        "judgements": [] if feedback is None else [given_judgement(feedback.strip(), label, None)],
        "metadata": rest(raw, *_USED),
    }


def _matches(raw: dict[str, Any]) -> bool:
    return all(key in raw for key in ("orig_instruction", "orig_response", "orig_score"))


FORMAT = Format(
    name="feedback_collection",
    row_type="judgement_set",
    convert=feedback_collection,
    matches=_matches,
    expects="orig_instruction, orig_response, orig_criteria, orig_score1_description … 5, "
    "orig_feedback: text; orig_score: 1 to 5",
)
