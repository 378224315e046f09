"""Recipes: every error at once with its path; a stage runs only when something changed."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import Field

from rayonale import execution, recipe, stages, storage
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64())])
RUNS: list[str] = []


class CountSettings(Settings):
    size: int = Field(3, ge=1)
    lr: float = 1e-3


class AddSettings(Settings):
    amount: int = 1


def count_run(context: StageContext, settings: CountSettings) -> StageResult:
    """Numbers from 0 on."""
    RUNS.append(context.name)
    rows = ({"id": f"r{n}", "n": n} for n in range(settings.size))
    written = storage.write_rows(storage.join(context.out, "rows"), rows, SCHEMA)
    return StageResult(rows_in=0, rows_out=written)


def add_run(context: StageContext, settings: AddSettings) -> StageResult:
    """Each number plus an amount."""
    RUNS.append(context.name)
    rows = [{**r, "n": r["n"] + settings.amount} for r in storage.read_rows(context.rows())]
    storage.write_rows(storage.join(context.out, "rows"), rows, SCHEMA)
    return StageResult(rows_in=len(rows), rows_out=len(rows), metrics={"amount": settings.amount})


COUNT = Stage("count", CountSettings, count_run, adds=("id", "n"))
ADD = Stage("add", AddSettings, add_run, reads={"rows": Reads("rows", columns=("n",))})


@pytest.fixture(autouse=True)
def small_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    RUNS.clear()
    found = {
        "count": COUNT,
        "add": ADD,
        "train": Stage("train", AddSettings, add_run, gives=("model",)),
    }
    monkeypatch.setattr(stages, "REGISTRY", dict.fromkeys(found, "tests:x"))
    monkeypatch.setattr(stages, "get", found.__getitem__)
    monkeypatch.setattr(stages, "code_version", lambda stage, settings: "code")


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: test\nruns: {tmp_path}/runs\n" + textwrap.dedent(text))
    return str(path)


GOOD = """
stages:
  more: {kind: add, reads: {rows: numbers}, amount: 2}
  numbers: {kind: count, size: 4}
"""


def test_stages_run_in_the_order_of_their_inputs(tmp_path: Path) -> None:
    loaded = recipe.load(write(tmp_path, GOOD))
    assert list(loaded.stages) == ["numbers", "more"]
    assert loaded.stages["more"].settings == AddSettings(amount=2)


def test_the_order_of_the_file_is_kept_where_it_can_be(tmp_path: Path) -> None:
    text = """
    stages:
      z: {kind: count}
      late: {kind: add, reads: {rows: m}}
      b: {kind: add, reads: {rows: z}}
      m: {kind: count}
      a: {kind: add, reads: {rows: z}}
    """
    assert list(recipe.load(write(tmp_path, text)).stages) == ["z", "b", "m", "late", "a"]


def test_every_problem_is_told_at_once_with_its_path(tmp_path: Path) -> None:
    text = """
    extra: 1
    stages:
      numbers: {kind: count, sise: 4, size: 0}
      more: {kind: add, reads: {rows: numbrs, model: numbers}}
      other: {kind: ad}
      last: {kind: add}
      trained: {kind: train}
      reader: {kind: add, reads: {rows: trained}}
    """
    with pytest.raises(recipe.RecipeError) as caught:
        recipe.load(write(tmp_path, text))
    told = str(caught.value)
    for expected in [
        "extra: unknown key",
        "stages.numbers.sise: unknown key (did you mean 'size'?)",
        "stages.numbers.size: input should be greater than or equal to 1, found 0",
        "stages.more.reads.model: unknown role; add reads: rows",
        "stages.more.reads.rows: no stage 'numbrs' (did you mean 'numbers'?)",
        "stages.other.kind: found 'ad' (did you mean 'add'?)",
        "stages.last.reads.rows: missing",
        "stages.reader.reads.rows: 'trained' (train) gives model, expected rows",
    ]:
        assert expected in told, told


def test_a_circle_is_refused(tmp_path: Path) -> None:
    text = """
    stages:
      a: {kind: add, reads: {rows: b}}
      b: {kind: add, reads: {rows: a}}
    """
    with pytest.raises(recipe.RecipeError, match="in a circle: . → . → ."):
        recipe.load(write(tmp_path, text))


def test_a_column_that_nothing_upstream_gives_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = Stage("add", AddSettings, add_run, reads={"rows": Reads("rows", columns=("score",))})
    monkeypatch.setattr(stages, "get", {"count": COUNT, "add": needs}.__getitem__)
    with pytest.raises(
        recipe.RecipeError,
        match=r"more\.reads\.rows: 'numbers' does not give "
        r"column\(s\) score",
    ):
        recipe.load(write(tmp_path, GOOD))


def test_overrides_reach_nested_keys_and_unknown_stages_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    loaded = recipe.load(path, ["stages.more.amount=7", "stages.numbers.lr=5e-7"])
    assert loaded.stages["more"].settings == AddSettings(amount=7)
    assert loaded.stages["numbers"].settings == CountSettings(size=4, lr=5e-7)
    with pytest.raises(recipe.RecipeError, match="no stage 'mor' \\(did you mean 'more'"):
        recipe.load(path, ["stages.mor.amount=7"])
    with pytest.raises(recipe.RecipeError, match="expected a.b.c=value"):
        recipe.load(path, ["stages.more.amount"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stages: {", "not YAML"),
        ("stages: []", "expected a mapping of named stages"),
        ("stages: {a: 3}", "stages.a: found int, expected a mapping"),
        ("stages: {a: {kind: count}, a: {kind: add}}", "given twice"),
        ("stages: {a/b: {kind: count}}", "names a folder"),
    ],
)
def test_what_is_no_recipe_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(recipe.RecipeError, match=told):
        recipe.load(write(tmp_path, text))


def run(path: str, **options: Any) -> dict[str, stages.StageOutput]:
    loaded = recipe.load(path, options.pop("overrides", ()))
    return execution.run(loaded, **options)


def test_only_what_changed_runs_again(tmp_path: Path, ray_session: None) -> None:
    path = write(tmp_path, GOOD)
    first = run(path)
    assert RUNS == ["numbers", "more"]
    assert [r["n"] for r in storage.read_rows(first["more"].rows)] == [2, 3, 4, 5]
    run(path)
    assert RUNS == ["numbers", "more"]  # nothing changed: nothing ran
    third = run(path, overrides=["stages.more.amount=5"])
    assert RUNS == ["numbers", "more", "more"]
    assert third["more"].uri != first["more"].uri  # the earlier result is kept
    run(path, overrides=["stages.numbers.size=2"])
    assert RUNS[3:] == ["numbers", "more"]  # a changed input reaches what reads it
    run(path, only="numbers", force=["numbers"])
    assert RUNS[5:] == ["numbers"]


def test_a_relative_runs_folder_is_found_from_anywhere(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = {"name": "test", "runs": "runs", "stages": {"a": {"kind": "count"}}}
    output = execution.run(recipe.parse(document, source="recipe.yaml"))["a"]
    assert output.uri.startswith(f"{tmp_path}/runs/test/a/")


def test_a_stage_that_fails_leaves_no_manifest_and_runs_again(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(context: StageContext, settings: AddSettings) -> StageResult:
        raise ValueError("row 3 of numbers: found a hole")

    path = write(tmp_path, GOOD)
    bad = Stage("add", AddSettings, broken, reads=ADD.reads)
    with monkeypatch.context() as patched:
        patched.setattr(stages, "get", {"count": COUNT, "add": bad}.__getitem__)
        with pytest.raises(ValueError, match="found a hole"):
            run(path)
    assert RUNS == ["numbers"]
    run(path)
    assert RUNS == ["numbers", "more"]


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden", "a b"])
def test_a_name_that_leaves_the_runs_folder_is_refused(tmp_path: Path, name: str) -> None:
    document = {"name": name, "stages": {"a": {"kind": "count"}}}
    with pytest.raises(recipe.RecipeError, match="it names a folder"):
        recipe.parse(document, source="recipe.yaml")


def test_a_stage_named_by_number_and_text_is_told(tmp_path: Path) -> None:
    text = "stages:\n  1: {kind: count}\n  '1': {kind: count, size: 4}\n"
    with pytest.raises(recipe.RecipeError, match=r"stages\.1: given twice"):
        recipe.load(write(tmp_path, text))


def test_a_setting_that_a_read_stage_replaces_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TrainSettings(Settings):
        model: str = "tinyworld"

    train = Stage("train", TrainSettings, add_run, reads={"model": Reads("model", optional=True)})
    found = {
        "count": COUNT,
        "train": train,
        "base": Stage("base", AddSettings, add_run, {}, (), ("model",)),
    }
    monkeypatch.setattr(stages, "REGISTRY", dict.fromkeys(found, "tests:x"))
    monkeypatch.setattr(stages, "get", found.__getitem__)
    text = "stages:\n  m: {kind: base}\n  t: {kind: train, model: tinyworld, reads: {model: m}}\n"
    with pytest.raises(recipe.RecipeError, match=r"stages\.t\.model: the stage read as 'model'"):
        recipe.load(write(tmp_path, text))


def test_rows_of_an_unfinished_stage_are_refused_and_of_a_finished_one_lead_to_it(
    tmp_path: Path, ray_session: None
) -> None:
    text = "stages:\n  a: {kind: count}\n"
    output = execution.run(recipe.load(write(tmp_path, text)))["a"]
    found = execution.open_output(f"{output.uri}/rows/")
    assert (found.uri, found.fingerprint, found.kind) == (output.uri, output.fingerprint, "count")
    storage.remove(f"{output.uri}/manifest.json")
    (Path(output.uri) / "work").mkdir()
    for uri in (output.uri, f"{output.uri}/rows"):
        with pytest.raises(ValueError, match="its stage has not finished"):
            execution.open_output(uri)
