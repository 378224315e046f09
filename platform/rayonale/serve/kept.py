"""What the service keeps as data: picked pairs, and a share of the requests with their answers.

    pick     →  records.PAIR         prompt, chosen, rejected   (an ingest stage reads the folder)
    request  →  records.RANKED_LIST  prompt, responses          (to be judged or scored)

Both tell in `metadata` which model and version answered. A pick is a file at once; requests are
written a file for many, and the last ones when the process ends.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from rayonale import storage
from rayonale.data import ids, splits
from rayonale.records import PAIR, RANKED_LIST, Message
from rayonale.serve.protocol import ChatRequest, PickRequest
from rayonale.serve.settings import Sampled

log = logging.getLogger("rayonale")

_FILE_ROWS, _FILE_S = 200, 30.0  # a file of requests is written after so many, or so long


def picked_row(pick: PickRequest, annotator: str) -> dict[str, Any]:
    """A pick as a preference pair."""
    prompt = [message.message() for message in pick.messages]
    sides = {"chosen": pick.chosen, "rejected": pick.rejected}
    row: dict[str, Any] = {
        "prompt": prompt,
        **{side: [_assistant(one.content)] for side, one in sides.items()},
        **{f"score_{side}": one.reward for side, one in sides.items()},
        "confidence": None,
    }
    about = {side: {"model": one.model, "version": one.version} for side, one in sides.items()} | {
        "time": _now()
    }
    return _finished(row, "pair", prompt, annotator, about)


def request_row(
    request: ChatRequest, texts: Sequence[str], rewards: Sequence[float] | None, version: str
) -> dict[str, Any]:
    """A request and its answers as a list to be ranked."""
    prompt = [message.message() for message in request.messages]
    row = {
        "prompt": prompt,
        "responses": [[_assistant(text)] for text in texts],
        "scores": None if rewards is None else list(rewards),
    }
    sampling = request.model_dump(
        include={"temperature", "top_p", "top_k", "seed", "best_of", "goal"}, exclude_none=True
    )
    about = {"model": request.model, "version": version, "sampling": sampling, "time": _now()}
    return _finished(row, "ranked_list", prompt, None, about)


def _finished(
    row: dict[str, Any],
    row_type: str,
    prompt: list[Message],
    annotator: str | None,
    about: dict[str, Any],
) -> dict[str, Any]:
    chosen = splits.Splits()
    row |= {"annotator": annotator, "metadata": json.dumps(about), "occurrence": 0}
    row |= {"source": "served", "line": None, "format": f"served_{row_type}"}
    row["split"] = splits.split_of(splits.prompt_key(prompt, chosen), chosen)
    row["id"] = ids.row_id(ids.content_key(row, row_type), 0)
    return row


def _assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_pick(folder: str, row: dict[str, Any]) -> None:
    """Write a picked pair as a file of its own; the same pick again is the same file."""
    table = pa.Table.from_pylist([row], schema=PAIR)
    storage.write_table(storage.join(folder, f"{row['id']}.parquet"), table)


class Keeper:
    """Keeps a share of the requests.

    Writing happens on a thread of its own; what cannot be written is told in the log and lost,
    for a full disk is no reason to refuse requests.
    """

    def __init__(self, settings: Sampled) -> None:
        self._settings = settings
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._written = time.monotonic()
        self._name = uuid.uuid4().hex[:12]
        self._number = 0
        threading.Thread(target=self._write_at_times, daemon=True).start()

    def keep(
        self,
        request: ChatRequest,
        texts: Sequence[str],
        rewards: Sequence[float] | None,
        version: str,
    ) -> None:
        """Keep a request, or not, by chance."""
        if random.random() < self._settings.share:
            row = request_row(request, texts, rewards, version)
            with self._lock:
                self._rows.append(row)

    def _write_at_times(self) -> None:
        while True:
            time.sleep(1)
            if len(self._rows) >= _FILE_ROWS or time.monotonic() - self._written > _FILE_S:
                self.write()

    def write(self) -> None:
        """Write what is kept so far."""
        with self._lock:
            rows, self._rows = self._rows, []
            self._written = time.monotonic()
            self._number += 1
            number = self._number
        if not rows:
            return
        file = storage.join(self._settings.folder, f"{self._name}-{number:06d}.parquet")
        try:
            storage.write_table(file, pa.Table.from_pylist(rows, schema=RANKED_LIST))
        except OSError as error:
            log.error("%d sampled requests were not written to %s: %s", len(rows), file, error)
