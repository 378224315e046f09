"""JSON schemas as grammars, with the blanks that models are used to.

vLLM either lets a model put as many blanks into JSON as it likes, which a weak one does for ever,
or leaves it none: `{"a":1}`. Models have learnt `{"a": 1, "b": 2}`, what `json.dumps` writes; one
that had to leave the blanks out was seen to grade every text alike. So the grammar is made here.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

SEPARATORS = (", ", ": ")


def grammar(schema: dict[str, Any]) -> str:
    """A grammar (EBNF, as xgrammar reads it) of the objects that conform to a JSON schema."""
    return _grammar(json.dumps(schema))


@lru_cache(maxsize=64)
def _grammar(schema: str) -> str:
    import xgrammar

    return str(
        xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, separators=SEPARATORS)
    )
