"""Rules that turn N judgements of one prompt into preference pairs of judgements.

    rule                 chosen                               rejected
    correct_answer       its score is the label               its score is `margin` away or more
    majority             its score is the modal one           its score is `margin` away or more
    meta_judge           rated higher by a judge of them      rated `margin` lower or more
    rationale_judge      best rationale by a judge of them    worst one; both have the label's score
    preference_reversal  a naive rationale, label's score     an ordinary one, label's score

arXiv 2410.05495, sections 3.2 and 5 and appendix A.1.5-6. All pairs that satisfy a rule are made.
An unreadable judgement is in no pair; a rule that makes none says why with a code of `REASONS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import xxhash

Judgement = Mapping[str, Any]
Pairs = list[tuple[int, int]]

REASONS = (
    "no_label",  # the input has no label
    "none_correct",  # no judgement has the label's score
    "none_wrong",  # no judgement is the margin away
    "no_mode",  # two scores are the commonest
    "none_rated",  # fewer than two judgements have a rating
    "equal_ratings",  # no two ratings are the margin apart
    "no_pick",  # the judge of rationales named none, or there were not two to choose from
    "none_naive",  # no naive judgement has the label's score
)


class NoPairs(Exception):
    """A rule makes no pair of these judgements; `args[0]` is one of `REASONS`."""


def correct_answer(judged: Sequence[Judgement], label: float | None, margin: float) -> Pairs:
    """Chosen: the label's score. Rejected: a score at least `margin` away from it.

    Args:
        margin: above 0; the paper has 1 and 2, and 2 was best.

    Returns:
        (chosen, rejected) indices into `judged`.

    Raises:
        NoPairs: no_label, none_correct, none_wrong.
    """
    if label is None:
        raise NoPairs("no_label")
    return _around(judged, label, margin)


def majority(judged: Sequence[Judgement], margin: float) -> Pairs:
    """The same around the commonest score; where two scores are, there is no pair.

    Raises:
        NoPairs: no_mode, none_wrong.
    """
    mode = mode_of([each["verdict"] for each in judged if each["verdict"] is not None])
    if mode is None:
        raise NoPairs("no_mode")
    return _around(judged, mode, margin)


def mode_of(values: Sequence[float]) -> float | None:
    """The commonest value; None where there are several, or none."""
    common = Counter(values).most_common(2)
    if not common or (len(common) > 1 and common[0][1] == common[1][1]):
        return None
    return common[0][0]


def _around(judged: Sequence[Judgement], score: float, margin: float) -> Pairs:
    apart = {
        i: abs(each["verdict"] - score)
        for i, each in enumerate(judged)
        if each["verdict"] is not None
    }
    right = [i for i, distance in apart.items() if distance == 0]
    wrong = [i for i, distance in apart.items() if distance >= margin and distance > 0]
    if not right:
        raise NoPairs("none_correct")
    if not wrong:
        raise NoPairs("none_wrong")
    return list(product(right, wrong))


def meta_judge(judged: Sequence[Judgement], margin: float) -> Pairs:
    """Chosen: the higher rating; both judgements must be readable.

    Raises:
        NoPairs: none_rated, equal_ratings.
    """
    rated = [
        (i, each["rating"])
        for i, each in enumerate(judged)
        if each["verdict"] is not None and each.get("rating") is not None
    ]
    if len(rated) < 2:
        raise NoPairs("none_rated")
    found = [(i, j) for (i, a), (j, b) in product(rated, rated) if a > b and a - b >= margin]
    if not found:
        raise NoPairs("equal_ratings")
    return found


def rationale_judge(judged: Sequence[Judgement], best: int | None, worst: int | None) -> Pairs:
    """Chosen and rejected as a judge of rationales picked them.

    Args:
        best, worst: indices into `judged`; None where nothing could be picked.

    Raises:
        NoPairs: no_pick.
    """
    if best is None or worst is None or best == worst:
        raise NoPairs("no_pick")
    return [(best, worst)]


def preference_reversal(
    judged: Sequence[Judgement], naive: Sequence[Judgement], label: float | None
) -> Pairs:
    """Chosen: index into `naive`; rejected: index into `judged`; both have the label's score.

    A control: what is learnt from it should make the judge worse.

    Raises:
        NoPairs: no_label, none_correct, none_naive.
    """
    if label is None:
        raise NoPairs("no_label")
    worse = [i for i, each in enumerate(naive) if each["verdict"] == label]
    better = [i for i, each in enumerate(judged) if each["verdict"] == label]
    if not better:
        raise NoPairs("none_correct")
    if not worse:
        raise NoPairs("none_naive")
    return list(product(worse, better))


def capped(pairs: Sequence[tuple[int, int]], cap: int | None, seed: int, key: str) -> Pairs:
    """At most `cap` of an input's pairs, drawn by a hash: the same in any order of rows."""
    if cap is None or len(pairs) <= cap:
        return list(pairs)

    def rank(pair: tuple[int, int]) -> int:
        return xxhash.xxh3_64_intdigest(f"{seed}:{key}:{pair[0]}:{pair[1]}".encode())

    return sorted(sorted(pairs, key=rank)[:cap])
