"""Ways in which judges end their judgements, brought to the one form that `verdicts.py` reads.

    result           … [RESULT] 4                           Prometheus, this project
    brackets         … Rating: [[4]]    … [[A]]             MT-Bench, Auto-J's scores
    final_decision   … the final decision is Response 1     Auto-J's comparisons
    pandalm          2, then ### Reason: …                  PandaLM: the verdict comes first

A layout rewrites the judge's own ending as `[RESULT] <verdict>`; the same is done to the prompt, so
that what a judge quotes from it is known as a quotation. All rules of `read_verdict` then hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from rayonale.evaluate.verdicts import MARKER, PAIRWISE, PAIRWISE_TIE, Verdict, read_verdict

Layout = Literal["result", "brackets", "final_decision", "pandalm"]

# The word before the brackets goes with them: prompts show the whole ending as an example, and a
# judge that writes just that on a line of its own does not quote.
_BRACKETS = re.compile(
    r"(?:\b(?:final |overall )?(?:rating|score|verdict):?[ \t]*)?\[\[\s*([^\[\]\n]{1,20}?)\s*\]\]",
    re.IGNORECASE,
)
_DECISION = re.compile(r"(?:\bso,? )?\bthe final decision is:?\s*", re.IGNORECASE)
_PANDALM = re.compile(r"\A\s*(1|2|tie)\s*\n\s*###\s*Reason:\s*(.*)\Z", re.IGNORECASE | re.DOTALL)
_REFERENCE = re.compile(r"\n\s*###\s*Reference:.*\Z", re.IGNORECASE | re.DOTALL)


def _brackets(text: str) -> str:
    return _BRACKETS.sub(rf"{MARKER} \1", text)


def _final_decision(text: str) -> str:
    return _DECISION.sub(f"{MARKER} ", text)


def _pandalm(text: str) -> str:
    found = _PANDALM.match(text)
    if found is None:
        return text
    return f"{_REFERENCE.sub('', found[2]).strip()} {MARKER} {found[1]}"


_REWRITE: Mapping[str, Callable[[str], str]] = {
    "result": lambda text: text,
    "brackets": _brackets,
    "final_decision": _final_decision,
    "pandalm": _pandalm,
}
_LETTERS: Mapping[str, float] = {"A": 1.0, "B": 2.0}


def comparisons(layout: Layout, ties: bool) -> dict[str, float]:
    """Labels of a comparison in a layout → 1, 2, or 1.5 where ties are offered."""
    if layout == "brackets":
        return {**_LETTERS, **({"C": 1.5} if ties else {})}
    return dict(PAIRWISE_TIE if ties else PAIRWISE)


def read(
    text: str,
    choices: Mapping[str, float],
    layout: Layout = "result",
    *,
    prompt: str = "",
    finish_reason: str | None = None,
) -> Verdict:
    """`read_verdict` for a layout.

    Args:
        choices: label → value, in the layout's own labels.
    """
    rewrite = _REWRITE[layout]
    found = read_verdict(
        rewrite(text), choices, prompt=rewrite(prompt), finish_reason=finish_reason
    )
    return found if found.value is not None else Verdict(None, text.strip(), found.reason)
