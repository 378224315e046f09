"""Whether stored reference log-probabilities belong to the run that wants to use them.

    model=<16 hex>;dtype=float32;code=<16 hex>;tokens=<16 hex>

`model` is the reference's fingerprint, `code` that of the forward pass, `tokens` the hash of the
row's own tokens: another template, tokeniser or text gives another one.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from rayonale import models
from rayonale.lineage import fingerprints
from rayonale.train.shards import TokenRows

_FORWARD = tuple(
    f"rayonale.train.{name}"
    for name in ("policy", "read_positions", "attention", "batches", "trees")
)


def forward_fingerprint(model: str, dtype: str) -> str:
    """The part of the fingerprint that all rows share."""
    code = fingerprints.of([_code(module) for module in _FORWARD])
    return f"model={models.fingerprint(model)[:16]};dtype={dtype};code={code[:16]}"


def _code(module: str) -> str:
    """A module's code without comments; found without importing it (and torch with it)."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    return ast.dump(fingerprints.syntax_tree(Path(spec.origin)))


def row_fingerprint(shared: str, tokens: str) -> str:
    """A row's `reference_fingerprint`."""
    return f"{shared};tokens={tokens}"


def check(rows: TokenRows, *, model: str, dtype: str, allow_other: bool) -> None:
    """Refuse stale reference log-probabilities.

    Args:
        rows: tokenised with `fingerprint=True` and the column `reference_fingerprint`.
        model: what training starts from.
        allow_other: another reference model (and precision) than the start is wanted.

    Raises:
        ValueError: names the first row that does not fit, the part that differs, and the remedy.
    """
    expected = forward_fingerprint(model, dtype)
    columns = (rows.column(name) for name in ("id", "reference_fingerprint", "tokens"))
    for row, found, tokens in zip(*columns, strict=True):
        wanted = row_fingerprint(expected, tokens)
        if found == wanted:
            continue
        have, want = _parts(found), _parts(wanted)
        differ = [name for name in want if have.get(name) != want[name]]
        if allow_other:
            differ = [name for name in differ if name not in ("model", "dtype")]
        if differ:
            told = ", ".join(f"{n}: {have.get(n)} stored, {want[n]} now" for n in differ)
            raise ValueError(
                f"reference log-probabilities of row {row} are stale ({told}): run the "
                "reference_logprobs stage again with this model, chat template and dtype"
                + ("" if "model" not in differ else ", or set allow_other_reference")
            )


def _parts(fingerprint: str | None) -> dict[str, str]:
    return dict(part.split("=", 1) for part in (fingerprint or "").split(";") if "=" in part)
