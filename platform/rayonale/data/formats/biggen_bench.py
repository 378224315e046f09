"""BiGGen Bench results: a response, a rubric of its own, scores of people and of judges."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import (
    BadRow,
    assistant,
    optional_text,
    rest,
    shown,
    text,
    user,
    with_system,
)
from rayonale.data.formats.judged import named_only, rubric_of, whole_number
from rayonale.data.formats.layout import Format


def biggen_bench(raw: dict[str, Any]) -> dict[str, Any]:
    """The label is the human score, where there is one; capability and task stay in the metadata.

    Raw (arXiv 2406.05761; the layout of prometheus-eval/BiGGen-Bench-Results)::

        {"id": "planning_0", "capability": "planning", "system_prompt": "You plan.",
         "input": "Name two birds.", "reference_answer": "robin, wren",
         "score_rubric": {"criteria": "Birds?", "score1_description": "None.",
                          "score2_description": "One.", "score3_description": "Two.",
                          "score4_description": "Three.", "score5_description": "All."},
         "response": "robin, oak", "human_score": 3, "gpt4_score": 4}

    Converted (a judgement set)::

        {"prompt": [{"role": "system", "content": "You plan."},
                    {"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, oak"}]], "label": 3.0,
         "rubric": "[Birds?]\\nScore 1: None.\\nScore 2: One.\\nScore 3: Two.\\nScore 4: Three.\\n"
                   "Score 5: All.",
         "reference": "robin, wren", "judgements": [],
         "metadata": {"id": "planning_0", "capability": "planning", "gpt4_score": 4}}
    """
    rubric = raw.get("score_rubric")
    if not isinstance(rubric, dict):
        raise BadRow("wrong_type", f"score_rubric: found {shown(rubric)}, expected an object")
    described = {n: text(rubric, f"score{n}_description") for n in range(1, 6)}
    human = raw.get("human_score")
    label = None if human is None else whole_number(human, "human_score", 1, 5)
    return {
        "prompt": with_system(optional_text(raw, "system_prompt"), [user(text(raw, "input"))]),
        "responses": [[assistant(text(raw, "response"))]],
        "label": label,
        "rubric": rubric_of(text(rubric, "criteria"), described),
        "reference": optional_text(raw, "reference_answer"),
        "judgements": [],
        "metadata": rest(raw, "system_prompt", "input", "response", "score_rubric",
                         "reference_answer", "human_score"),
    }  # fmt: skip


FORMAT = Format(
    name="biggen_bench",
    row_type="judgement_set",
    convert=biggen_bench,
    matches=named_only,
    expects="input, response: text; score_rubric: criteria, score1_description … 5; human_score",
)
