"""Every recipe that ships is checked whole: nothing is run, nothing downloaded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from rayonale import recipe

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# configs/serve/ has deployment files, which tests/serve checks.
RECIPES = sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name != "serve")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_a_recipe_is_sound(path: Path) -> None:
    loaded = recipe.load(str(path))
    assert loaded.description
    report = loaded.stages["report"]
    left_out = set(loaded.stages) - {"report"} - set(report.upstream())
    assert not left_out, f"stages that the report does not show: {left_out}"


@pytest.mark.parametrize("name", ["ultrafeedback", "orca"])
def test_the_papers_settings(name: str) -> None:
    """arXiv 2407.14477: AdamW 5e-7, batch 32, 150 warm-up steps, clip 10, lengths, beta, gamma."""
    stages = recipe.load(str(CONFIGS / "rdpo" / f"{name}.yaml")).stages
    for stage in ("sft", "dpo", "rdpo", "rationale_only"):
        settings = stages[stage].settings.model_dump()
        assert settings["learning_rate"] == 5e-7
        assert settings["batch_pairs"] == 32
        assert settings["warmup_steps"] == 150
        assert settings["clip"] == 10
        assert settings["epochs"] == 1
        assert (settings["max_length"], settings["max_prompt_length"]) == (2048, 1024)
    assert stages["dpo"].settings.model_dump()["loss"]["beta"] == 0.1
    rdpo = stages["rdpo"].settings.model_dump()["loss"]
    assert (rdpo["form"], rdpo["gamma"]) == ("paper", 2.0)
    for stage in ("dpo", "rdpo", "rationale_only"):
        assert stages[stage].reads["model"] == "sft"
    assert stages["samples_rdpo"].settings.model_dump()["limit"] == 512
    judge = stages["win_rates"].settings.model_dump()["judges"][0]
    assert judge["repeats"] == 3
    assert stages["rationales"].settings.model_dump()["sampling"]["top_p"] == 0.95


def test_the_study_has_its_curve_and_its_controls() -> None:
    """Five sizes and three seeds of each method, the controls at the largest; SFT and prompts are
    the same for all, rows are a seed's own."""
    stages = recipe.load(str(CONFIGS / "rdpo" / "tinyworld_study.yaml")).stages
    cells = stages["study"].settings.model_dump()["cells"]
    have: dict[str, set[tuple[int, int]]] = {}
    for cell in cells:
        have.setdefault(cell["method"], set()).add((cell["size"], cell["seed"]))
        trained = stages[cell["policy"]]
        settings = trained.settings.model_dump()
        assert (settings["limit"], settings["seeds"]) == (cell["size"], (cell["seed"],))
        assert trained.reads["model"] == "sft"
        assert str(trained.reads["rows"]).endswith(f"_s{cell['seed']}")
        sampled = stages[f"samples_{cell['policy']}"]
        assert sampled.reads == {"rows": "shared_pairs", "model": cell["policy"]}
    largest = max(cell["size"] for cell in cells)
    for method in ("dpo", "rdpo"):
        assert len({n for n, _ in have[method]}) >= 5 and len({s for _, s in have[method]}) >= 3
    for control in ("permuted", "reversed", "rationale_only"):
        assert have[control] == {(largest, seed) for seed in (1, 2, 3)}


@pytest.mark.parametrize("name", ["tldr", "ultrafeedback"])
def test_the_drdo_papers_settings(name: str) -> None:
    """Oracle 1e-5 for an epoch, students 5e-6 for 1,000 steps of 64 pairs, 1,024 tokens, ZeRO-2."""
    stages = recipe.load(str(CONFIGS / "drdo" / f"{name}.yaml")).stages
    train = {n: s.settings.model_dump() for n, s in stages.items() if s.stage.kind == "train"}
    losses = {n: settings["loss"] for n, settings in train.items()}
    for settings in train.values():
        assert (settings["batch_pairs"], settings["schedule"]) == (64, "cosine")
        assert (settings["max_length"], settings["max_prompt_length"]) == (1024, 512)
        assert settings["zero_stage"] == 2
    for name_ in ("oracle", "ensemble_1", "ensemble_2", "ensemble_3"):
        assert (train[name_]["learning_rate"], train[name_]["epochs"]) == (1e-5, 1)
        assert losses[name_]["alpha"] == (0.01 if name_ == "oracle" else 0)
    assert (train["sft"]["learning_rate"], train["sft"]["warmup_steps"]) == (1e-5, 100)
    students = [n for n in train if n.startswith(("drdo", "dpo", "e_dpo"))]
    assert len(students) == (9 if name == "tldr" else 3)
    for student in students:
        found = train[student]
        assert (found["learning_rate"], found["max_steps"]) == (5e-6, 1000)
        assert found["weight_decay"] == 0.05
        assert stages[student].reads["model"] == "sft"
        loss = losses[student]
        expected = {"drdo": {"alpha": 0.1, "gamma": 2.0, "z": "sum"}}.get(
            loss["name"], {"beta": 0.1}
        )
        assert {key: loss[key] for key in expected} == expected
    samples = [s.settings.model_dump() for s in stages.values() if s.stage.kind == "samples"]
    assert all(each["sampling"]["max_tokens"] == 256 for each in samples)
    assert {each["sampling"]["top_p"] for each in samples} == {0.8}
    temperatures = {each["sampling"]["temperature"] for each in samples}
    assert temperatures == ({0.2, 0.5, 0.7, 0.9} if name == "ultrafeedback" else {0.7})


def test_the_self_rationalization_papers_settings() -> None:
    """arXiv 2410.05495, section 4: N = 10 at temperature 1.0, margin 2, 5,000 and then 500 inputs,
    each round from the last judge and by its own judgements; self-consistency of five."""
    path = CONFIGS / "self_rationalization" / "llama31_8b.yaml"
    stages = recipe.load(str(path)).stages
    before = "sft"
    for number, inputs in ((1, 5000), (2, 500)):
        judged = stages[f"round{number}_points"]
        settings = judged.settings.model_dump()
        assert (settings["n"], settings["limit"]) == (10, inputs)
        assert settings["sampling"]["temperature"] == 1.0
        assert judged.reads["model"] == before
        rule = stages[f"round{number}"].settings.model_dump()
        assert (rule["rule"], rule["margin"], rule["cap"]) == ("correct_answer", 2.0, None)
        trained = stages[f"iteration{number}"]
        assert trained.reads == {"rows": f"round{number}_reference", "model": before}
        assert stages[f"round{number}_reference"].reads["model"] == before
        before = f"iteration{number}"
    assert stages["round2_points"].settings.model_dump()["skip"] == 5000
    assert stages["sft"].settings.model_dump()["weights"] == (0.5, 0.5)
    five = stages["sft_five_on_reward_bench_points"].settings.model_dump()
    assert (five["n"], five["orders"]) == (5, "apart")


def test_a_mistake_in_a_recipe_is_told_with_its_path() -> None:
    path = str(CONFIGS / "rdpo" / "tinyworld.yaml")
    with pytest.raises(recipe.RecipeError) as caught:
        recipe.load(
            path, ["stages.rdpo.loss.gama=2", "stages.dpo.loss.gamma=2", "stages.sft.loss.beta=0.1"]
        )
    told = str(caught.value)
    assert "stages.rdpo.loss" in told and "gama" in told
    assert "stages.dpo.loss" in told and "gamma" in told  # DPO has no rationale term
    assert "stages.sft.loss" in told and "beta" in told


@pytest.mark.parametrize("name", ["ultrafeedback", "on_policy"])
def test_the_settings_of_reward_augmented_data(name: str) -> None:
    """arXiv 2410.08067: beta 0.01, smoothing 0.3, AdamW 5e-7, batch 128, warm-up 0.1, seed 42."""
    stages = recipe.load(str(CONFIGS / "reward_augmented" / f"{name}.yaml")).stages
    train = {n: s.settings.model_dump() for n, s in stages.items() if s.stage.kind == "train"}
    for settings in train.values():
        assert (settings["learning_rate"], settings["batch_pairs"]) == (5e-7, 128)
        assert (settings["warmup_ratio"], settings["schedule"], settings["epochs"]) == (
            0.1, "cosine", 1,
        )  # fmt: skip
        assert (settings["max_length"], settings["max_prompt_length"]) == (1024, 512)
        assert settings["seeds"] == (42,)
    own = [n for n, s in train.items() if s["loss"]["name"] == "cdpo"]
    assert len(own) == (16 if name == "ultrafeedback" else 4)
    for each in own:
        loss = train[each]["loss"]
        assert (loss["beta"], loss["label_smoothing"]) == (0.01, 0.3)
        assert "model" not in stages[each].reads  # from the original model, IRA too
    if name == "on_policy":
        assert stages["drawn"].settings.model_dump()["n"] == 5
        told = {s["loss"]["name"] for s in train.values()}
        assert told >= {
            "slic", "orpo", "cpo", "rrhf", "kto", "ipo", "rpo", "length_dpo", "simpo", "sppo",
            "nca", "infonca", "conditioned_sft",
        }  # fmt: skip


def test_two_rounds_each_from_the_last_ones_policy() -> None:
    path = str(CONFIGS / "reward_augmented" / "on_policy_tinyworld.yaml")
    stages = recipe.load(path).stages
    for round_, start in (("1", "base"), ("2", "policy_1")):
        for stage in ("drawn", "reference", "policy"):
            assert stages[f"{stage}_{round_}"].reads["model"] == start
        chain = ["drawn", "scored", "paired", "augmented", "reference", "policy"]
        for before, after in pairwise(chain):
            assert stages[f"{after}_{round_}"].reads["rows"] == f"{before}_{round_}"
