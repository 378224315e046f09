"""Sweeps: one stage for every combination of axes, checked as if it had been written out."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from rayonale import recipe
from rayonale.recipe import RecipeError
from rayonale.sweep import expand

RECIPE = """
name: swept
axes:
  size: [250, 500]
  seed: [1, 2]
  method:
    dpo: {rows: reference, loss: {name: dpo, beta: 0.1}}
    rdpo:
      rows: graded
      loss: {name: rdpo, beta: 0.1, gamma: 2.0, form: paper, reduction: mean}
stages:
  world: {kind: tinyworld_pairs, size: 1600}
  pairs: {kind: ingest, reads: {raw: world}}
  written: {kind: rationales, reads: {rows: pairs}}
  sft: {kind: train, reads: {rows: pairs}, loss: {name: sft}, epochs: 1}
  reference: {kind: reference_logprobs, reads: {rows: written, model: sft}}
  graded: {kind: grade_rationales, reads: {rows: reference}}
  <method>_<size>_s<seed>:
    kind: train
    reads: {rows: <method.rows>, model: sft}
    loss: <method.loss>
    limit: <size>
    limit_seed: <seed>
    seeds: [<seed>]
    epochs: 1
  samples_sft: &samples {kind: samples, reads: {rows: pairs, model: sft}, splits: [test]}
  samples_<method>_<size>_s<seed>: {<<: *samples, reads: {rows: pairs, model: <method>_<size>_s<seed>}}
  win_rates:
    kind: win_rates
    reads: {samples: [samples_sft, samples_<method>_<size>_s<seed>]}
    comparisons: [[<method>_<size>_s<seed>, sft], [rdpo_<size>_s<seed>, dpo_<size>_s<seed>]]
    judges: [{kind: scorer, name: tinyworld_rubric}]
"""  # noqa: E501


def load(tmp_path: Path, *overrides: str, text: str = RECIPE) -> recipe.Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(textwrap.dedent(text))
    return recipe.load(str(path), overrides)


def problems(tmp_path: Path, *overrides: str, text: str = RECIPE) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, *overrides, text=text)
    return caught.value.problems


def test_cells_are_ordinary_stages_of_their_values(tmp_path: Path) -> None:
    stages = load(tmp_path).stages
    cells = [f"{m}_{n}_s{s}" for m in ("dpo", "rdpo") for n in (250, 500) for s in (1, 2)]
    assert [name for name in stages if stages[name].stage.kind == "train"] == ["sft", *cells]
    cell = stages["rdpo_500_s2"]
    settings = cell.settings.model_dump()
    assert (settings["limit"], settings["limit_seed"], settings["seeds"]) == (500, 2, (2,))
    assert settings["loss"]["name"] == "rdpo" and cell.reads == {"rows": "graded", "model": "sft"}
    assert stages["dpo_250_s1"].reads["rows"] == "reference"
    assert stages["samples_dpo_250_s1"].reads == {"rows": "pairs", "model": "dpo_250_s1"}


def test_items_of_lists_take_all_values_of_axes_that_the_name_has_not(tmp_path: Path) -> None:
    stages = load(tmp_path).stages
    assert len(stages["win_rates"].reads["samples"]) == 1 + 2 * 2 * 2
    compared = stages["win_rates"].settings.model_dump()["comparisons"]
    assert compared[:2] == (("dpo_250_s1", "sft"), ("dpo_250_s2", "sft"))
    assert compared[8:] == (
        ("rdpo_250_s1", "dpo_250_s1"), ("rdpo_250_s2", "dpo_250_s2"),
        ("rdpo_500_s1", "dpo_500_s1"), ("rdpo_500_s2", "dpo_500_s2"),
    )  # fmt: skip


def test_overrides_reach_axes_templates_and_single_cells(tmp_path: Path) -> None:
    stages = load(
        tmp_path, "axes.size=[250]", "stages.<method>_<size>_s<seed>.epochs=2",
        "stages.rdpo_250_s2.epochs=3", "stages.rdpo_250_s2.loss.gamma=1",
        "axes.method.dpo.loss.beta=0.2",
    ).stages  # fmt: skip
    epochs = {name: stages[name].settings.model_dump().get("epochs") for name in stages}
    assert epochs["rdpo_250_s1"] == 2 and epochs["rdpo_250_s2"] == 3
    assert stages["rdpo_250_s2"].settings.model_dump()["loss"]["gamma"] == 1
    assert stages["rdpo_250_s1"].settings.model_dump()["loss"]["gamma"] == 2  # its own copy
    assert stages["dpo_250_s1"].settings.model_dump()["loss"]["beta"] == 0.2
    assert "rdpo_500_s1" not in stages
    told = problems(tmp_path, "stages.rdpo_300_s1.epochs=3")
    assert told == ["override 'stages.rdpo_300_s1.epochs=3': no stage 'rdpo_300_s1' "
                    "(did you mean 'rdpo_500_s1'?)"]  # fmt: skip


def test_what_all_cells_share_is_told_once_with_the_templates_path(tmp_path: Path) -> None:
    told = problems(
        tmp_path, "stages.<method>_<size>_s<seed>.lerning_rate=1", "stages.world.sise=3",
        "axes.method.rdpo.loss.gama=3",
    )  # fmt: skip
    assert len(told) == 3
    at = "stages.<method>_<size>_s<seed>"
    assert "stages.world.sise: unknown key (did you mean 'size'?)" in told
    of_all = next(line for line in told if "lerning_rate" in line)
    assert of_all.startswith(f"{at}.lerning_rate: unknown key (did you mean 'learning_rate'?)")
    assert of_all.endswith("(in dpo_250_s1, dpo_250_s2, dpo_500_s1 and 5 more)")
    of_some = next(line for line in told if "gama" in line)
    assert of_some.startswith(f"{at}.loss") and "rdpo_250_s1" in of_some


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("axes=3", "axes: found 3, expected a mapping axis: [values]"),
        ("axes.size=250", "axes.size: found 250, expected a list of values"),
        ("axes.size=[]", "axes.size: found [], expected a list of values"),
        ("axes.size=[250, 250]", "axes.size.1: the value '250' comes twice"),
        ("axes.size=[250, [500]]", "axes.size.1: found [500], expected a number or a word"),
        ("axes.size=[a b]", "axes.size.0: found 'a b', expected letters"),
        ("axes.method.dpo=3", "axes.method.dpo: found 3, expected a mapping of settings"),
        ("axes.method.dpo.rows=r_<seed>", "axes.method.dpo: settings of a value cannot have axes"),
        ("axes.gamma=[1, 2]", "axes.gamma: no stage uses it (<gamma>)"),
        ("axes.method.dpo.epochs=2", "axes.method: no stage uses its 'epochs' (<method.epochs>)"),
        ("stages.sft.limit=<sise>",
         "stages.sft.limit: no axis 'sise' (did you mean 'size'?); axes: size, seed, method"),
        ("stages.sft.limit=<size>",
         "stages.sft.limit: <size>: 'size' is not in the stage's name; only items of lists"),
        ("stages.<method>_<size>_s<seed>.loss=<method.los>",
         "stages.<method>_<size>_s<seed>.loss: <method.los>: axes.method.dpo has no 'los'"),
        ("stages.<method>_<size>_s<seed>.loss=a <method.loss>",
         "<method.loss> is no single value and must stand alone"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_path(tmp_path: Path, override: str, expected: str) -> None:
    told = problems(tmp_path, override)
    assert any(expected in line for line in told), told


def test_errors_of_axes_and_of_stages_come_together(tmp_path: Path) -> None:
    told = problems(tmp_path, "axes.size=[]", "stages.world.sise=3")
    assert [line.split(":")[0] for line in told] == ["axes.size", "stages.world.sise"]


def stages_of(axes: Any, **stages: Any) -> Any:
    return expand({"axes": axes, "stages": stages})


def test_names_that_collide_are_refused() -> None:
    swept = stages_of({"n": [1, 2]}, **{"a_<n>": {"size": "<n>"}, "a_2": {}})
    assert swept.problems == ["stages.a_2: gives the stage 'a_2', which 'a_<n>' gives too"]
    assert (
        "stages.<n.x>: a name is made of axes alone; found <n.x>"
        in stages_of({"n": {"a": {"x": 1}}}, **{"<n.x>": {}}).problems
    )


def test_values_keep_their_type_alone_and_are_names_within_text() -> None:
    swept = stages_of(
        {"gamma": [1, 1.5]},
        **{"r_<gamma>": {"g": "<gamma>", "model": "m_<gamma>", "raw": "<<s>> <gamma>", "n": 3}},
    )
    assert swept.problems == []
    assert swept.stages == {
        "r_1": {"g": 1, "model": "m_1", "raw": "<s> 1", "n": 3},
        "r_1_5": {"g": 1.5, "model": "m_1_5", "raw": "<s> 1_5", "n": 3},
    }
    assert swept.templates == {"r_1": "r_<gamma>", "r_1_5": "r_<gamma>"}


def test_a_recipe_without_axes_stays_as_it_is() -> None:
    stages = {"a": {"template": "<s> {x} <size>"}}
    assert expand({"stages": stages}).stages == stages
