"""Probes run the real parts; the demo's first stages are estimated with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayonale import recipe
from rayonale.planning import walk
from rayonale.planning.outlook import Session
from rayonale.planning.probes import Probes
from rayonale.planning.rates import RateBook

RECIPE = """
name: probed
stages:
  world: {kind: tinyworld_pairs, size: 40}
  pairs: {kind: ingest, reads: {raw: world}, splits: {train: 0.8, validation: 0.1, test: 0.1}}
  rationales:
    kind: rationales
    reads: {rows: pairs}
    template: tinyworld/rationale_detailed
    sampling: {temperature: 0.7, max_tokens: 128}
  reference: {kind: reference_logprobs, reads: {rows: rationales}}
  rdpo:
    kind: train
    reads: {rows: reference}
    loss: {name: rdpo, beta: 0.1, gamma: 2.0, form: paper, reduction: mean}
    batch_pairs: 4
"""


def test_the_real_parts_are_measured_once(tmp_path: Path, engines: Any) -> None:
    file = tmp_path / "probed.yaml"
    file.write_text(RECIPE)
    loaded = recipe.load(str(file), [f"runs={tmp_path}/runs"])
    book = RateBook(f"{tmp_path}/runs", "here")
    with Probes(engines=engines) as probes:
        plan = walk.plan(loaded, Session(book, probes=probes))
    lines = {line.name: line.estimate for line in plan.lines}
    assert plan.total.unknown == ()
    written = lines["rationales"]
    # The model's own rationales, drawn with the stage's own prompts.
    length = written.tokens["generated"] / 32
    assert 5 < length < 128
    assert all(row["rationales"][0]["text"] for row in written.flow.sample)
    assert {"generation", "pass", "rows"} <= set(written.parts)
    for name in ("reference", "rdpo"):
        assert lines[name].basis == (lines["rdpo"].basis[0],)
        assert lines[name].basis[0].startswith("speed probe of ")
        assert all(
            value > 0 for value in (lines[name].seconds or 0, sum(lines[name].tokens.values()))
        )
    # Both trees of 32 rows: pairs, and prompts that show both responses with their rationales.
    assert lines["rdpo"].tokens["trained"] > lines["reference"].tokens["scored"] * 32 / 40
    assert plan.total.around > 0
    again = walk.plan(loaded, Session(RateBook(f"{tmp_path}/runs", "here", may_probe=False)))
    for line in again.lines[2:]:
        assert line.estimate.tokens == lines[line.name].tokens
