"""Prometheus's evaluation sets: one text that holds all of a judge's prompt, and GPT-4's scores."""

from __future__ import annotations

import re
from statistics import median_low
from typing import Any

from rayonale.data.fields import BadRow, assistant, optional_text, rest, text, user
from rayonale.data.formats.judged import named_only, whole_number
from rayonale.data.formats.layout import Format

_SECTIONS = re.compile(
    r"###The instruction to evaluate:\n(?P<prompt>.*)"
    r"\n\n###Response to evaluate:\n(?P<response>.*?)"
    r"(?:\n\n###Reference Answer \(Score 5\):\n(?P<reference>.*?))?"
    r"\n\n###Score Rubrics:\n(?P<rubric>.*?)\n\n###Feedback:\s*\Z",
    re.DOTALL,
)


def prometheus_eval(raw: dict[str, Any]) -> dict[str, Any]:
    """The prompt's parts apart; the label is the (lower) median of GPT-4's scores.

    Raw (`eval/benchmark/data/*.json` of prometheus-eval; Vicuna, MT-Bench, FLASK)::

        {"idx": 81,
         "instruction": "###The instruction to evaluate:\\nName two birds.\\n\\n"
                        "###Response to evaluate:\\nrobin, oak\\n\\n"
                        "###Reference Answer (Score 5):\\nrobin, wren\\n\\n###Score Rubrics:\\n"
                        "[Birds?]\\nScore 1: None.\\n\\n###Feedback: ",
         "gpt4_score": [3, 3, 4]}

    Converted (a judgement set)::

        {"prompt": [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, oak"}]], "label": 3.0,
         "rubric": "[Birds?]\\nScore 1: None.", "reference": "robin, wren", "judgements": [],
         "metadata": {"idx": 81, "gpt4_score": [3, 3, 4]}}
    """
    found = _SECTIONS.search(text(raw, "instruction"))
    if found is None:
        raise BadRow("prompts_differ", "instruction: found none of Prometheus's sections")
    parts = {key: value.strip() if value else None for key, value in found.groupdict().items()}
    told = raw.get("gpt4_score")
    several = told if isinstance(told, list) else [told]
    scores = [whole_number(each, "gpt4_score", 1, 5) for each in several if each is not None]
    return {
        "prompt": [user(text(parts, "prompt"))],
        "responses": [[assistant(text(parts, "response"))]],
        "label": median_low(scores) if scores else None,
        "rubric": text(parts, "rubric"),
        "reference": optional_text(parts, "reference"),
        "judgements": [],
        "metadata": rest(raw, "instruction"),
    }


FORMAT = Format(
    name="prometheus_eval",
    row_type="judgement_set",
    convert=prometheus_eval,
    matches=named_only,
    expects="instruction: Prometheus's whole prompt; gpt4_score: scores 1 to 5",
)
