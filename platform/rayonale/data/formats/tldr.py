"""TL;DR comparisons (summarize-from-feedback): two summaries of a post, a choice, a confidence."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import (
    BadRow,
    assistant,
    items,
    name,
    number,
    optional_text,
    record,
    rest,
    shown,
    text,
    user,
)
from rayonale.data.formats.layout import Format


def tldr(raw: dict[str, Any]) -> dict[str, Any]:
    r"""A Reddit post (or a news article) and two summaries of it.

    Raw::

        {"info": {"id": "t3_1", "post": "I saw two birds…", "title": "Birds", "subreddit": "pics"},
         "summaries": [{"text": " Saw birds.", "policy": "sup4", "note": ""},
                       {"text": " Saw an oak.", "policy": "ref", "note": ""}],
         "choice": 0, "worker": "w1", "batch": "batch18", "split": "valid2",
         "extra": {"confidence": 8}}

    Converted::

        {"prompt":   [{"role": "user", "content":
                       "SUBREDDIT: r/pics\n\nTITLE: Birds\n\nPOST: I saw two birds…\n\nTL;DR:"}],
         "chosen":   [{"role": "assistant", "content": "Saw birds."}],
         "rejected": [{"role": "assistant", "content": "Saw an oak."}],
         "annotator": "w1", "confidence": 8.0,
         "metadata": {"info": {"id": "t3_1"}, "choice": 0, "batch": "batch18", "split": "valid2",
                      "policies": ["sup4", "ref"], "notes": ["", ""]}}

    The prompt is the one of the data set's authors; articles begin with "TITLE: …\n\nARTICLE: …".
    Summaries lose the space that their sampler put before them. Confidence is 1 to 9.
    """
    info = record(raw, "info")
    summaries = items(raw, "summaries", 2)
    for place, summary in enumerate(summaries):
        if not isinstance(summary, dict):
            raise BadRow(
                "wrong_type", f"summaries[{place}]: found {shown(summary)}, expected an object"
            )
    texts = [text(summary, "text").strip() for summary in summaries]
    choice = raw.get("choice")
    if choice not in (0, 1) or isinstance(choice, bool):
        raise BadRow("unknown_choice", f"choice: found {shown(choice)}, expected 0 or 1")
    choice = int(choice)
    extra = raw.get("extra")
    extra = extra if isinstance(extra, dict) else {}
    left = rest(raw, "info", "summaries", "worker", "extra")
    left["info"] = rest(info, "post", "article", "title", "subreddit")
    left["policies"] = [summary.get("policy") for summary in summaries]
    left["notes"] = [summary.get("note") for summary in summaries]
    if further := rest(extra, "confidence"):
        left["extra"] = further
    return {
        "prompt": [user(_question(info))],
        "chosen": [assistant(texts[choice])],
        "rejected": [assistant(texts[1 - choice])],
        "annotator": name(raw, "worker"),
        "confidence": number(extra, "confidence"),
        "metadata": left,
    }


def _question(info: dict[str, Any]) -> str:
    parts = []
    if (subreddit := optional_text(info, "subreddit")) is not None:
        parts.append(f"SUBREDDIT: r/{subreddit}")
    if (title := optional_text(info, "title")) is not None:
        parts.append(f"TITLE: {title}")
    if "article" in info and "post" not in info:
        parts.append(f"ARTICLE: {text(info, 'article')}")
    else:
        parts.append(f"POST: {text(info, 'post')}")
    return "\n\n".join([*parts, "TL;DR:"])


def _matches(raw: dict[str, Any]) -> bool:
    return (
        isinstance(raw.get("info"), dict)
        and isinstance(raw.get("summaries"), list)
        and "choice" in raw
    )


FORMAT = Format(
    name="tldr",
    row_type="pair",
    convert=tldr,
    matches=_matches,
    expects="info: {post or article, …}; summaries: two {text}; choice: 0 or 1",
)
