"""tinyworld: a small closed world with known answers, to run and to test every method on.

    vocabulary ─ requests ─ responses ─ pairs          prompts, texts, labelled pairs
                    │            │
                    └── rubric ──┴── claims            the truth about them
                           │           │
                     judgements   rationales ─ grading     teacher.py: what judges write
                           └─────┬─────┘
                        tasks ─ tokenizer ─ base_model ─ base/    the model that learns it all

It is a simulator for preference learning: prompts, responses and scores are exact and
without end, and the base model is a real Llama that Transformers and vLLM load.
"""

from pathlib import Path

from rayonale.tinyworld.pairs import PairSettings, generate_pairs, write_jsonl
from rayonale.tinyworld.requests import sample_prompt
from rayonale.tinyworld.rubric import Score, score
from rayonale.tinyworld.vocabulary import ATTRIBUTES

__all__ = [
    "ATTRIBUTES",
    "PairSettings",
    "Score",
    "base_model_path",
    "generate_pairs",
    "sample_prompt",
    "score",
    "write_jsonl",
]


def base_model_path() -> Path:
    """Folder of the base model that ships with the package."""
    return Path(__file__).parent / "base"
