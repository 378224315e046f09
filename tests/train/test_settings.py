"""Settings that contradict each other, or that a loss ignores, are refused."""

import pytest

from rayonale.train import stage
from rayonale.train.settings import RationalePrompt, TrainSettings

RDPO = {"name": "rdpo", "gamma": 1.0, "form": "paper", "reduction": "mean"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": 1, "max_steps": 5}, "epochs and max_steps"),
        ({"micro_batch_tokens": 1, "micro_batch_pairs": 5}, "micro_batch_tokens and"),
        ({"warmup_steps": 1, "warmup_ratio": 0.1}, "warmup_steps and warmup_ratio"),
        ({"offload": "optimizer"}, "needs zero_stage 1-3, found 0"),
        ({"offload": "all", "zero_stage": 2}, "needs zero_stage 3, found 2"),
        ({"seeds": [1, 1]}, "seeds repeat"),
        ({"seeds": []}, "at least 1 item"),
        ({"rationale": {"order": "shuffled"}}, "loss 'sft' has no rationale term"),
        ({"allow_other_reference": True}, "loss 'sft' has no reference"),
        ({"limit": 1.5}, "limit"),
        ({"limit": 0}, "limit"),
        ({"limit_seed": 1}, "limit_seed: without a limit"),
        ({"learnin_rate": 1}, "learnin_rate"),
        ({"loss": {"name": "sft", "beta": 1}}, r"loss\.beta"),
    ],
)
def test_refused(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainSettings(**({"loss": "sft"} | options))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"follows": "chosen", "order": "generated"}, "found generated, but with follows: chosen"),
        ({"follows": "chosen", "order": "shuffled"}, "found shuffled, but with follows: chosen"),
        ({"template": "rationale_follow_up"}, "set follows: chosen"),
        ({"follows": "rejected"}, "follows"),
    ],
)
def test_rationale_prompts_that_contradict_themselves(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainSettings(loss=RDPO, rationale=options)


@pytest.mark.parametrize("template", [{}, {"template": None}])
def test_a_follow_up_has_its_own_template_and_order(template: dict) -> None:
    """Not the template of the generation, which opens a conversation."""
    settings = TrainSettings(loss=RDPO, rationale={"follows": "chosen"} | template)
    assert settings.rationale == RationalePrompt(
        follows="chosen", template="rationale_follow_up", order="chosen_first"
    )
    assert TrainSettings.model_validate_json(settings.model_dump_json()) == settings
    assert stage.templates_of(settings) == ["rationale_follow_up"]  # its wording counts
    own = RationalePrompt(follows="chosen", template="mine.jinja")
    assert own.template == "mine.jinja"


def test_round_trip_keeps_the_loss() -> None:
    settings = TrainSettings(loss={"name": "dpo", "beta": 0.3}, limit=0.5)
    assert TrainSettings.model_validate_json(settings.model_dump_json()) == settings


def test_warmup() -> None:
    assert TrainSettings(loss="sft", warmup_ratio=0.1).warmup(50) == 5
    assert TrainSettings(loss="sft", warmup_steps=7).warmup(50) == 7
    assert TrainSettings(loss="sft").warmup(50) == 0


def test_a_warm_up_that_outlasts_the_run_is_refused() -> None:
    settings = TrainSettings(loss={"name": "sft"}, warmup_steps=10)
    assert settings.warmup(11) == 10
    with pytest.raises(ValueError, match="found 10, but the run has 10 step"):
        settings.warmup(10)
