"""The teacher of tinyworld: everything a judge or annotator writes, true to the rubric.

    rationales   why one response of a pair is preferred     rationales.py
    grades       four criteria of a rationale                grading.py
    judgements   checks and a verdict, and grades of these   judgements.py
    claims       what a rationale says, and whether it holds claims.py

Each writer takes a `random.Random`, which varies the wording and nothing else, and
raises ValueError for a prompt that is not of this world.
"""

from rayonale.tinyworld.claims import names_true_difference
from rayonale.tinyworld.grading import (
    CRITERIA,
    explanation_of_grades,
    grade_text,
    grades_of_rationale,
)
from rayonale.tinyworld.judgements import (
    RUBRIC,
    best_and_worst,
    flawed_judgement,
    grade_of_judgement,
    judgement_of_judgement,
    naive_judgement,
    pairwise_judgement,
    pointwise_judgement,
    pointwise_rationale,
)
from rayonale.tinyworld.rationales import (
    detailed_rationale,
    general_rationale,
    naive_rationale,
    reverse_rationale,
)

__all__ = [
    "CRITERIA",
    "RUBRIC",
    "best_and_worst",
    "detailed_rationale",
    "explanation_of_grades",
    "flawed_judgement",
    "general_rationale",
    "grade_of_judgement",
    "grade_text",
    "grades_of_rationale",
    "judgement_of_judgement",
    "naive_judgement",
    "naive_rationale",
    "names_true_difference",
    "pairwise_judgement",
    "pointwise_judgement",
    "pointwise_rationale",
    "reverse_rationale",
]
