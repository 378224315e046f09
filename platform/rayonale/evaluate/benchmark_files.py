"""Questions and answers of public benchmarks, read from local files in their published layouts.

question.jsonl      {"question_id", "category" or "cluster", "turns": ["…"] or [{"content"}]}
answers (or a       {"question_id", "model_id", "choices": [{"turns": […]}]}
folder of them)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayonale import storage

Row = dict[str, Any]
Answers = dict[str, dict[str, tuple[str, ...]]]  # model → question → the turns' texts


@dataclass(frozen=True)
class Question:
    """A question: its id as text, its category and the user's turns."""

    id: str
    category: str
    turns: tuple[str, ...]


def files(uri: str) -> list[str]:
    """A file, or the .jsonl files of a folder in order of their names."""
    fs, path = storage.filesystem(uri)
    if not fs.isdir(path):
        return [uri]
    found = sorted(fs.glob(f"{path.rstrip('/')}/*.jsonl"))
    if not found:
        raise ValueError(f"{uri}: no .jsonl files in this folder")
    return [fs.unstrip_protocol(one) for one in found]


def read_lines(uri: str, needed: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """(where, row) of a file of JSON lines.

    Raises:
        ValueError: a line that is no JSON object or lacks a field; the message names it.
    """
    fs, path = storage.filesystem(uri)
    for number, line in enumerate(fs.cat_file(path).decode().split("\n"), 1):
        if not line.strip():
            continue
        where = f"{uri}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error})") from error
        if missing := [name for name in needed if name not in row]:
            raise ValueError(f"{where}: no {', '.join(missing)}; found {', '.join(row)}")
        yield where, row


def text_of(turn: Any) -> str:
    """A turn's text: written plainly, or as {"content": "…"}."""
    return str(turn["content"]) if isinstance(turn, Mapping) else str(turn)


def file_name(model: str, ending: str) -> str:
    """A file's name for a model: names come from data, and must not lead out of a folder."""
    return re.sub(r"[^\w.+-]", "_", model).lstrip(".") + ending


def own_id(question: str) -> int | str:
    """A question's id as published: MT-Bench's are numbers."""
    return int(question) if question.isdecimal() else question


def read_questions(uri: str) -> list[Question]:
    """Questions of a file; where it has clusters (Arena-Hard) these are the categories."""
    return [
        Question(
            str(row["question_id"]),
            str(row.get("cluster") or row.get("category", "")),
            tuple(map(text_of, row["turns"])),
        )
        for _, row in read_lines(uri, ("question_id", "turns"))
    ]


def read_answers(uri: str) -> Answers:
    """Answers of a file, or of a folder's files (one a model); the first choice counts.

    Raises:
        ValueError: two answers of one model to one question.
    """
    found: Answers = {}
    for file in files(uri):
        for where, row in read_lines(file, ("question_id", "model_id", "choices")):
            answers = found.setdefault(row["model_id"], {})
            question = str(row["question_id"])
            if question in answers:
                raise ValueError(
                    f"{where}: a second answer of {row['model_id']!r} to question {question}"
                )
            answers[question] = tuple(map(text_of, row["choices"][0]["turns"]))
    return found
