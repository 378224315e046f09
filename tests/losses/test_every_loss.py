"""What holds for every registered loss: extremes, gradients, finite differences, refusals."""

import pytest
import torch
from torch.autograd import gradcheck

from rayonale import losses
from rayonale.losses.spec import Loss, LossSettings, Scores

RATIONALE = {"gamma": 0.5, "form": "released", "reduction": "mean"}
# name of the case → options; every registered loss is here at least once.
OPTIONS: dict[str, dict] = {
    "sft": {"name": "sft"},
    "sft sequence": {"name": "sft", "normalise": "sequence"},
    "conditioned_sft": {"name": "conditioned_sft"},
    "dpo": {"name": "dpo"},
    "cdpo": {"name": "cdpo", "label_smoothing": 0.2},
    "ipo": {"name": "ipo"},
    "ipo summed": {"name": "ipo", "length": "summed"},
    "kto": {"name": "kto", "desired_weight": 1.5},
    "slic": {"name": "slic"},
    "hinge": {"name": "hinge"},
    "rrhf": {"name": "rrhf"},
    "rrhf mean": {"name": "rrhf", "nll": "mean"},
    "orpo": {"name": "orpo"},
    "orpo prompt": {"name": "orpo", "nll_over": "prompt_and_response"},
    "cpo": {"name": "cpo"},
    "cpo sequence": {"name": "cpo", "nll_normalise": "sequence"},
    "simpo": {"name": "simpo"},
    "length_dpo": {"name": "length_dpo"},
    "rpo": {"name": "rpo"},
    "rpo forward": {"name": "rpo", "distance": "fwd_kl"},
    "rpo squared": {"name": "rpo", "distance": "sq"},
    "sppo": {"name": "sppo", "eta": 10},
    "sppo scores": {"name": "sppo", "probability": "scores"},
    "nca_pair": {"name": "nca_pair", "beta": 0.1},
    "nca": {"name": "nca", "beta": 0.1, "tau": 1.0},
    "infonca": {"name": "infonca", "beta": 0.1, "tau": 1.0},
    "infonca one-hot": {"name": "infonca"},
    "e_dpo": {"name": "e_dpo"},
    "e_dpo mean": {"name": "e_dpo", "ensemble": "mean_reward"},
    "e_dpo minimum": {"name": "e_dpo", "ensemble": "minimum"},
    "drdo": {"name": "drdo"},
    "drdo mean": {"name": "drdo", "z": "mean", "gamma": 5.0},
    "drdo detached": {"name": "drdo", "detach_focal": True},
    "bradley_terry": {"name": "bradley_terry", "margin": 0.5, "centring": 0.01},
    "bradley_terry plain": {"name": "bradley_terry", "alpha": 0.0},
    "bradley_terry scores": {"name": "bradley_terry", "margin_scale": 0.5, "nll": "mean"},
    "rdpo": {"name": "rdpo", **RATIONALE},
    "rorpo": {"name": "rorpo", **RATIONALE},
    "rsimpo": {"name": "rsimpo", **RATIONALE},
    "rationale_only": {"name": "rationale_only", **RATIONALE},
    "slic+rationale": {"name": "slic+rationale", **RATIONALE},
}
ROWS, MOST = 3, 3
SHAPES = {"responses": (ROWS, MOST)}
MASK = torch.tensor([[True] * 3, [True, True, False], [True] * 3])


@pytest.fixture(params=OPTIONS)
def case(request: pytest.FixtureRequest) -> tuple[Loss, LossSettings]:
    """A loss and its options."""
    settings = losses.parse(OPTIONS[request.param])
    return losses.of(settings), settings


def scores_of(
    loss: Loss,
    logprob: dict[str, torch.Tensor],
    length: float | None = None,
    reward: dict[str, torch.Tensor] | None = None,
) -> Scores:
    """Rows of a loss: given log-probabilities and rewards, everything else fixed."""
    if loss.rewards and reward is None:
        reward = rewards_of(loss, None, next(iter(logprob.values())).dtype)
    draw = torch.Generator().manual_seed(1)
    dtype = next(iter(logprob.values())).dtype

    def numbers(name: str, low: float, high: float) -> torch.Tensor:
        shape = SHAPES.get(name, (ROWS,))
        return torch.rand(shape, generator=draw, dtype=dtype) * (high - low) + low

    lists = "responses" in loss.sequences
    lengths = {n: numbers(n, 1, 20).round() for n in loss.sequences}
    if length is not None:
        lengths = {n: torch.full_like(x, length) for n, x in lengths.items()}
    scores = torch.tensor([[3.0, 1.0, 2.0], [2.0, 2.0, 0.0], [5.0, 5.0, 1.0]], dtype=dtype)
    value = {
        "score_chosen": numbers("", 4, 9),
        "score_rejected": numbers("", 1, 6),
        "label": torch.tensor([1.0, 0.0, 1.0], dtype=dtype),
        "goal": numbers("", 1, 10),
        "scores": scores,
        "reward_chosen": numbers("", -2, 4),
        "reward_rejected": numbers("", -3, 3),
        "rewards_chosen": numbers("", -2, 4)[:, None] + torch.tensor([0.0, 0.5], dtype=dtype),
        "rewards_rejected": numbers("", -3, 3)[:, None] + torch.tensor([0.3, 0.0], dtype=dtype),
    }
    return Scores(
        logprob={n: x.masked_fill(~MASK, 0) if lists else x for n, x in logprob.items()},
        length=lengths,
        reference={n: numbers(n, -40, -1) for n in loss.sequences} if loss.reference else {},
        value=value,
        mask=MASK if lists else None,
        mean={"kl": torch.tensor(0.7, dtype=dtype)} if loss.ahead else {},
        reward={n: x for n, x in (reward or {}).items() if n in loss.rewards},
    )


def logprobs_of(loss: Loss, value: float | None, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Log-probabilities of all sequences, all of one value, or drawn."""
    draw = torch.Generator().manual_seed(2)
    found = {}
    for name in loss.sequences:
        shape = SHAPES.get(name, (ROWS,))
        drawn = -torch.rand(shape, generator=draw, dtype=dtype) * 30 - 0.5
        tensor = drawn if value is None else torch.full(shape, value, dtype=dtype)
        found[name] = tensor.requires_grad_()
    return found


def rewards_of(loss: Loss, value: float | None, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Rewards of the head, all of one value, or drawn."""
    draw = torch.Generator().manual_seed(3)
    return {
        name: (
            torch.randn(ROWS, generator=draw, dtype=dtype)
            if value is None
            else torch.full((ROWS,), value, dtype=dtype)
        ).requires_grad_()
        for name in loss.rewards
    }


def total(loss: Loss, settings: LossSettings, scores: Scores) -> torch.Tensor:
    terms = loss.terms(scores, settings)
    assert all(term.values.shape == (ROWS,) for term in terms.values())
    return sum((term.values for term in terms.values()), start=torch.zeros(()))


def test_every_registered_loss_has_a_case() -> None:
    assert {options["name"] for options in OPTIONS.values()} >= set(losses.REGISTRY)


@pytest.mark.parametrize("value", [0.0, -1e4, None])
@pytest.mark.parametrize("length", [1.0, 1_000.0])
def test_extremes_are_finite(case, value: float | None, length: float) -> None:
    """All certain, all hopeless, one token or many; the gradient too; in float32."""
    loss, settings = case
    logprob = logprobs_of(loss, value, torch.float32)
    found = total(loss, settings, scores_of(loss, logprob, length))
    assert torch.isfinite(found).all()
    found.sum().backward()
    for name, tensor in logprob.items():
        assert tensor.grad is None or torch.isfinite(tensor.grad).all(), name


@pytest.mark.parametrize("side", ["chosen", "rejected", "response", "responses"])
def test_one_certain_and_the_rest_hopeless(case, side: str) -> None:
    loss, settings = case
    if side not in loss.sequences:
        return
    logprob = logprobs_of(loss, -1e4, torch.float32)
    logprob[side] = torch.zeros_like(logprob[side]).requires_grad_()
    found = total(loss, settings, scores_of(loss, logprob, 1.0))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert all(x.grad is None or torch.isfinite(x.grad).all() for x in logprob.values())


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_rewards_far_apart_are_finite(case, side: str) -> None:
    loss, settings = case
    reward = rewards_of(loss, -1e4, torch.float32)
    if side not in reward:
        return
    reward[side] = torch.full((ROWS,), 1e4).requires_grad_()
    found = total(
        loss, settings, scores_of(loss, logprobs_of(loss, None, torch.float32), None, reward)
    )
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(x.grad).all() for x in reward.values())


def test_gradient_against_finite_differences(case) -> None:
    loss, settings = case
    if getattr(settings, "detach_focal", False):  # its gradient is not that of its value
        return
    logprob = logprobs_of(loss, None, torch.float64)
    reward = rewards_of(loss, None, torch.float64)

    def of(*tensors: torch.Tensor) -> torch.Tensor:
        given = dict(zip(logprob, tensors[: len(logprob)], strict=True))
        heads = dict(zip(reward, tensors[len(logprob) :], strict=True))
        return total(loss, settings, scores_of(loss, given, None, heads))

    assert gradcheck(of, (*logprob.values(), *reward.values()))


def test_responses_that_are_not_there_do_not_count(case) -> None:
    """Whatever the padding of lists holds."""
    loss, settings = case
    if "responses" not in loss.sequences:
        return
    plain = scores_of(loss, logprobs_of(loss, None, torch.float64))
    value = {**plain.value, "scores": plain.value["scores"].masked_fill(~MASK, 99.0)}
    other = Scores(
        logprob={"responses": plain.logprob["responses"].masked_fill(~MASK, -3.0)},
        length={"responses": plain.length["responses"].masked_fill(~MASK, 7.0)},
        reference={n: x.masked_fill(~MASK, 5.0) for n, x in plain.reference.items()},
        value=value,
        mask=MASK,
    )
    for name, term in loss.terms(plain, settings).items():
        assert loss.terms(other, settings)[name].values.tolist() == term.values.tolist()
    for name, seen in loss.observe(plain, settings).items():
        assert loss.observe(other, settings)[name].tolist() == seen.tolist()


def test_likelier_preferred_responses_cost_less(case) -> None:
    """One step down the gradient of the preference term makes what is preferred likelier."""
    loss, settings = case
    logprob = logprobs_of(loss, None, torch.float64)
    terms = loss.terms(scores_of(loss, logprob), settings)
    if "preference" not in terms or "chosen" not in loss.sequences:
        return
    # these aim at a finite margin, or have the preference in the reward head
    if settings.name in ("rpo", "sppo", "ipo", "cdpo", "nca_pair", "e_dpo", "bradley_terry"):
        return
    # DRDO's odds as printed are lower where what is rejected is likelier: see test_oracle_family
    if getattr(settings, "detach_focal", False) or getattr(settings, "z", None) == "mean":
        return
    terms["preference"].values.sum().backward()
    assert (logprob["chosen"].grad <= 0).all()
    assert (logprob["rejected"].grad >= 0).all()


def test_metrics_are_one_number_a_row(case) -> None:
    loss, settings = case
    scores = scores_of(loss, logprobs_of(loss, None, torch.float64))
    for name, values in loss.observe(scores, settings).items():
        assert values.shape == (ROWS,), name
        assert torch.isfinite(values).all(), name


@pytest.mark.parametrize("option", ["beta", "gamma", "label_smoothing", "tau", "nll_weight", "eta"])
def test_options_that_a_loss_ignores_are_refused(case, option: str) -> None:
    _, settings = case
    if option in type(settings).model_fields:
        return
    with pytest.raises(ValueError, match=f"(?s){option}.*Extra inputs are not permitted"):
        losses.parse({**settings.model_dump(), option: 0.1})


def test_names_that_mean_two_things_are_explained() -> None:
    with pytest.raises(ValueError, match="rdpo .DPO with rationales. or length_dpo"):
        losses.parse("r-dpo")


def test_settings_come_back_from_json(case) -> None:
    """As they travel to the workers."""
    import json

    _, settings = case
    assert losses.parse(json.loads(settings.model_dump_json())) == settings
