"""A recipe walked in order: what is done costs nothing, what is not known is told, sums add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rayonale import recipe, storage
from rayonale.lineage import fingerprints, record
from rayonale.planning import arithmetic, given, ledger, walk
from rayonale.planning.flow import Estimate, Flow
from rayonale.planning.given import Given
from rayonale.planning.outlook import Session
from rayonale.planning.rates import RateBook
from rayonale.planning.table import actual_table, plan_table
from rayonale.planning.walk import Line, add_up

RATES = Given({
    "generate_tokens_per_second": 500.0, "engine_start_seconds": 30.0,
    "train_tokens_per_second": 1_000.0, "forward_tokens_per_second": 4_000.0,
    "train_start_seconds": 8.0, "rationales.tokens": 40.0,
})  # fmt: skip


def load(tmp_path: Path, *overrides: str) -> recipe.Recipe:
    file = tmp_path / "small.yaml"
    file.write_text("""
name: small
stages:
  world: {kind: tinyworld_pairs, size: 60}
  pairs: {kind: ingest, reads: {raw: world}, splits: {train: 0.5, validation: 0.25, test: 0.25}}
  rationales: {kind: rationales, reads: {rows: pairs}, template: tinyworld/rationale_general}
  sft: {kind: train, reads: {rows: pairs}, loss: sft}
  samples_sft: {kind: samples, reads: {rows: pairs, model: sft}}
  more: {kind: samples, reads: {rows: pairs, model: sft}, n: 2}
  harness: {kind: harness, reads: {model: sft}, tasks: [{task: gsm8k}]}
""")
    return recipe.load(str(file), [f"runs={tmp_path}/runs", *overrides])


def session(tmp_path: Path, **more: Any) -> Session:
    return Session(RateBook(f"{tmp_path}/runs", "here", may_probe=False), RATES, **more)


def finish(line: Line, **manifest: Any) -> None:
    """The stage's folder as a finished run leaves it."""
    full = {"name": line.name, "kind": line.kind, "fingerprint": line.fingerprint, "seconds": 10.0,
            "rows_in": 60, "rows_out": 60, "settings": {"size": 60}, "machine": "here",
            "metrics": {}, **manifest}  # fmt: skip
    storage.write_json(storage.join(line.out, "manifest.json"), full)


def test_a_recipe_from_end_to_end(tmp_path: Path) -> None:
    plan = walk.plan(load(tmp_path), session(tmp_path))
    found = {line.name: line.estimate for line in plan.lines}
    assert list(found) == ["world", "pairs", "rationales", "sft", "samples_sft", "more", "harness"]
    assert found["pairs"].flow.rows == {"train": 30, "validation": 15, "test": 15}
    assert found["rationales"].tokens["generated"] == 30 * 40
    # Engines start once: the samples' policy has the same architecture.
    assert found["rationales"].parts["engine start"] == 30
    assert "engine start" not in found["samples_sft"].parts
    assert found["more"].tokens["generated"] == 2 * found["samples_sft"].tokens["generated"]
    assert found["samples_sft"].flow.total <= 15  # distinct prompts
    assert plan.total.unknown == ("harness",)
    assert found["harness"].seconds is None
    assert "have no estimate" in found["harness"].missing


def test_on_gpus_training_stops_the_engines(tmp_path: Path) -> None:
    plan = walk.plan(load(tmp_path), session(tmp_path, gpus=1))
    found = {line.name: line.estimate for line in plan.lines}
    assert found["samples_sft"].parts["engine start"] == 30
    assert "engine start" not in found["more"].parts


def test_done_stages_cost_nothing_and_lend_their_rows(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    first = walk.plan(loaded, session(tmp_path))
    finish(first.lines[0])
    again = walk.plan(loaded, session(tmp_path))
    world, pairs = again.lines[0], again.lines[1]
    assert world.done
    assert world.estimate.seconds == 0
    assert pairs.fingerprint == first.lines[1].fingerprint
    assert pairs.estimate.flow.rows["train"] == 30
    changed = walk.plan(load(tmp_path, "stages.world.size=61"), session(tmp_path))
    assert not changed.lines[0].done


def test_sums_by_hand() -> None:
    """Two stages of 1,800 s on 4 and 2 GPUs: 3 GPU-hours; held throughout, 8 of them: 8 hours."""

    def line(name: str, done: bool = False, **estimate: Any) -> Line:
        return Line(name, "train", name, name, done, Estimate(**estimate))

    lines = [
        line("a", parts={"x": 1_000.0, "y": 800.0}, gpus=4, tokens={"trained": 5}, bytes=10,
             peak_bytes=50),
        line("b", parts={"x": 1_800.0}, gpus=2, tokens={"trained": 7}, bytes=20, money=1.5),
        line("c", done=True, parts={"x": 99.0}, gpus=8, bytes=1_000),
        line("d", missing="nobody knows", tokens={"trained": 1}),
    ]  # fmt: skip
    total = add_up(lines, 0.0, price=2.0)
    assert (total.seconds, total.gpu_hours, total.cost) == (3_600, 3.0, 7.5)
    assert (total.bytes, total.peak_bytes, total.unknown) == (30, 50, ("d",))
    assert total.tokens == {"trained": 13}
    held = add_up(lines, 0.0, price=2.0, devices=8)
    assert (held.gpu_hours, held.cost) == (8.0, 17.5)
    assert add_up(lines[:1], 0.0).cost is None


def test_flops_by_hand() -> None:
    """8·10⁹ parameters, 6 FLOPs each: 48 GFLOP a token; 40 % of 960 TFLOP/s are 8,000 tokens/s."""
    assert arithmetic.tokens_per_second(6 * 8e9, 960, 0.4) == pytest.approx(8_000)
    assert arithmetic.parameters("meta-llama/Llama-3.1-8B-Instruct") == 8e9
    assert arithmetic.parameters("org/mixture-1.5b") == 1.5e9
    assert arithmetic.parameters("org/gpt") is None
    assert arithmetic.seconds(100, 10, devices=2) == 5


def test_parameters_of_a_model_that_is_here(tinyworld_model: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(tinyworld_model / "model.safetensors")
    assert arithmetic.parameters("tinyworld") == sum(t.numel() for t in tensors.values())


def test_models_that_are_not_here_are_computed_from_what_is_given(tmp_path: Path) -> None:
    """100 · 40 rationale tokens and their prompts, 2·N FLOPs each, at 10 % of 800 TFLOP/s."""
    model = "stages.rationales.model=org/some-8B"
    told = Given({"peak_tflops": 800.0, "mfu": 0.4, "generation_mfu": 0.1, "rationales.tokens": 40})
    wanted = Session(RateBook(f"{tmp_path}/runs", "there", may_probe=False), told)
    (line,) = [x for x in walk.plan(load(tmp_path, model), wanted).lines if x.name == "rationales"]
    tokens = sum(line.estimate.tokens.values())
    assert line.estimate.parts["generation"] == pytest.approx(tokens * 2 * 8e9 / (800e12 * 0.1))
    assert line.estimate.basis[0].startswith("speed assumed: 2·N FLOPs a token")
    unknown = Session(RateBook(f"{tmp_path}/runs", "there", may_probe=False))
    (line,) = [x for x in walk.plan(load(tmp_path, model), unknown).lines if x.name == "rationales"]
    assert line.estimate.seconds is None
    assert "give --assume peak_tflops" in line.estimate.missing


def test_given_numbers_are_checked_all_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        given.parse(
            ["pair.rows=5", "mfu=3", "foo=1", "pairs.keep=x", "pairs", "mfu=0.4"], ["pairs"]
        )
    told = str(caught.value)
    for part in ("did you mean 'pairs'?", "a share above 0", "unknown key", "expected a number",
                 "expected KEY=VALUE"):  # fmt: skip
        assert part in told
    assert len(told.splitlines()) == 5


def test_the_users_seconds_stand_in(tmp_path: Path) -> None:
    wanted = session(tmp_path)
    wanted.given = Given({**RATES.values, "harness.seconds": 77.0})
    plan = walk.plan(load(tmp_path), wanted)
    assert plan.lines[-1].estimate.seconds == 77
    assert plan.total.unknown == ()


def test_the_estimate_is_kept_beside_what_it_took(tmp_path: Path) -> None:
    """Estimated, run (10 s), estimated again: the first estimate stays beside the 10 s."""
    loaded = load(tmp_path)
    plan = walk.plan(loaded, session(tmp_path))
    folder = f"{tmp_path}/runs/small"
    with pytest.raises(ValueError, match="no estimate was kept"):
        actual_table(loaded)
    ledger.keep(folder, plan)
    with pytest.raises(ValueError, match="no stage of this recipe"):
        actual_table(loaded)
    world = plan.lines[0]
    finish(world)
    ledger.keep(folder, walk.plan(loaded, session(tmp_path)))
    before = ledger.expected(folder, world.fingerprint)
    assert before is not None
    assert before["seconds"] == world.estimate.seconds
    found = actual_table(loaded).data
    assert found["stages"][0]["actual"] == 10
    assert found["stages"][0]["ratio"] == pytest.approx(world.estimate.seconds / 10)
    assert found["together"]["actual"] == 10  # stages without both do not count
    assert found["stages"][-1]["expected"] is None


@pytest.mark.parametrize("text", ["{broken", "[]", '{"stages": 3}'])
def test_a_broken_file_of_estimates_stops_no_run(tmp_path: Path, text: str) -> None:
    (tmp_path / ledger.FILE).write_text(text)
    assert ledger.expected(str(tmp_path), "f") is None


def test_mlflow_gets_estimate_and_ratio() -> None:
    manifest = {"rows_in": 5, "rows_out": 5, "seconds": 8.0, "rejects": {}, "metrics": {},
                "expected": {"seconds": 6.0, "rows_out": 4.0, "bytes": None,
                             "tokens": {"trained": 9.0}}}  # fmt: skip
    numbers = record.counts(manifest)
    assert numbers["expected.seconds"] == 6
    assert numbers["expected.ratio"] == 0.75
    assert numbers["expected.trained_tokens"] == 9
    assert "expected.bytes" not in numbers
    assert "expected.seconds" not in record.counts({**manifest, "expected": None})
    both = record.execution_counts([manifest, {"seconds": 2.0}])
    assert both == {"seconds": 10.0, "expected.seconds": 6.0, "expected.ratio": 0.75}


def test_tables_say_what_is_not_known(tmp_path: Path) -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=(tmp_path / "out.txt").open("w"))
    console.print(plan_table(walk.plan(load(tmp_path), session(tmp_path), price=3.0), 3.0, None))
    told = console.export_text()
    assert "not estimated" in told
    assert "without harness: not estimated" in told
    assert "no stage uses a GPU on this machine" in told
    assert "together" in told and "over " in told


def test_estimates_do_not_change_what_a_stage_is() -> None:
    """Their modules are no part of a stage's code, so that editing them voids no figures."""
    found = fingerprints.modules_of(
        ["rayonale.enrich.rationales", "rayonale.enrich.rewards", "rayonale.train.stage"]
    )
    assert "rayonale.generate.stream" in found
    assert not [name for name in found if name.endswith("estimates") or ".planning" in name]


def test_rates_come_from_the_best_source(tmp_path: Path) -> None:
    """A probe is made once and kept; a finished stage of this kind of machine goes before it."""
    made: list[int] = []

    def probe() -> tuple[dict[str, float], list[Any]]:
        made.append(1)
        return {"tokens_per_second": 7.0}, [{"id": "a"}]

    book = RateBook(f"{tmp_path}/runs", "here")
    assert book.probed({"model": "m"}, None) is None
    for wanted in (book, RateBook(f"{tmp_path}/runs", "here")):
        found = wanted.probed({"model": "m"}, probe)
        assert found is not None
        assert found["tokens_per_second"] == 7
        assert found.rows == [{"id": "a"}]
    assert len(made) == 1
    assert RateBook(f"{tmp_path}/runs", "there").probed({"model": "m"}, None) is None
    assert book.probed({"model": "m", "code": "other"}, None) is None
    for machine, seconds in (("here", 5.0), ("there", 9.0)):
        folder = tmp_path / "runs" / "r" / "s" / machine
        folder.mkdir(parents=True)
        manifest = {"kind": "train", "name": machine, "machine": machine, "seconds": seconds}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    finished = RateBook(f"{tmp_path}/runs", "here").finished(
        "train", lambda manifest: {"seconds": manifest["seconds"]}
    )
    assert finished is not None
    assert finished["seconds"] == 5
    assert book.machines() == ["here", "there"]
    later = tmp_path / "runs" / "r" / "s" / "later"
    later.mkdir()
    later.joinpath("manifest.json").write_text(
        json.dumps({"kind": "train", "name": "later", "machine": "here", "seconds": 6.0})
    )
    for name, seconds in (("here", 5.0), ("unknown", 6.0)):  # the same name, else the latest
        found = RateBook(f"{tmp_path}/runs", "here").finished("train", lambda m: m, name)
        assert found is not None
        assert found["seconds"] == seconds


def test_flow_scales_only_the_splits_that_are_filtered() -> None:
    flow = Flow(rows={"train": 10.0, "test": 4.0}).scaled(0.5, ["train"])
    assert flow.rows == {"train": 5.0, "test": 4.0}
    assert flow.total == 9
