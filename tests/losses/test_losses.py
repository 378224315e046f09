"""Losses: hand-worked numbers, extremes, gradients, properties, and the registry."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from rayonale import losses
from rayonale.losses import dpo, rationale, sft
from rayonale.losses.spec import Scores

LN2 = math.log(2)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def softplus(x: float) -> float:
    """log(1 + e^x), as −log σ(−x)."""
    return math.log1p(math.exp(x)) if x < 30 else x


# --- hand-worked numbers ---------------------------------------------------------------------


def test_dpo_by_hand() -> None:
    # Δ = (−10 − −12) − (−20 − −19) = 2 + 1 = 3; βΔ = 0.3; −log σ(0.3) = log(1 + e^−0.3)
    value = dpo.dpo(t(-10), t(-20), t(-12), t(-19), beta=0.1)
    assert value.item() == pytest.approx(softplus(-0.3), abs=1e-12)
    assert value.item() == pytest.approx(0.5543552, abs=1e-7)


def test_dpo_with_label_smoothing_by_hand() -> None:
    # 0.9 · log(1 + e^−0.3) + 0.1 · log(1 + e^0.3) = 0.4989197 + 0.0854355
    value = dpo.dpo(t(-10), t(-20), t(-12), t(-19), beta=0.1, label_smoothing=0.1)
    assert value.item() == pytest.approx(0.9 * softplus(-0.3) + 0.1 * softplus(0.3), abs=1e-12)
    assert value.item() == pytest.approx(0.5843552, abs=1e-7)


def test_sft_by_hand() -> None:
    assert sft.nll_sum(t(-6)).item() == 6
    assert sft.nll_mean(t(-6), t(4)).item() == 1.5


@pytest.mark.parametrize(
    ("mean", "paper", "released"),
    [
        # S = −30, |r| = 10, γ = 0.5: γ·30 = 15, γ·3 = 1.5; −log σ(−15), −log σ(−1.5)
        (False, 15.0, softplus(15)),
        (True, 1.5, softplus(1.5)),
    ],
)
def test_rationale_by_hand(mean: bool, paper: float, released: float) -> None:
    arguments = {"gamma": 0.5, "mean": mean}
    assert rationale.rationale_nll(t(-30), t(10), **arguments).item() == pytest.approx(paper)
    found = rationale.rationale_logistic(t(-30), t(10), **arguments).item()
    assert found == pytest.approx(released, abs=1e-9)


# --- extremes --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (0.0, -1e4, 0.0),  # certain of the chosen one: nothing left to gain
        (-1e4, 0.0, 1e4 * 0.1),  # certain of the wrong one: linear, not infinite
        (-1e4, -1e4, LN2),
        (0.0, 0.0, LN2),
    ],
)
def test_dpo_extremes(chosen: float, rejected: float, expected: float, dtype: torch.dtype) -> None:
    logprobs = [torch.tensor([v], dtype=dtype, requires_grad=True) for v in (chosen, rejected)]
    value = dpo.dpo(*logprobs, torch.zeros(1), torch.zeros(1), beta=0.1)
    assert value.item() == pytest.approx(expected, abs=1e-5)
    value.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in logprobs)


@pytest.mark.parametrize("logprob", [0.0, -1e4])
@pytest.mark.parametrize("length", [1.0, 500.0])  # one-token rationale
def test_rationale_extremes(logprob: float, length: float) -> None:
    for mean in (False, True):
        x = torch.tensor([logprob], requires_grad=True)
        size = torch.tensor([length])
        value = rationale.rationale_nll(x, size, gamma=2.0, mean=mean)
        value = value + rationale.rationale_logistic(x, size, gamma=2.0, mean=mean)
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert torch.isfinite(x.grad).all()


def test_released_form_has_its_minimum_at_certainty() -> None:
    certain = rationale.rationale_logistic(t(0.0), t(5), gamma=0.1, mean=False)
    assert certain.item() == pytest.approx(LN2)


# --- gradients against finite differences ----------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_dpo_gradient(smoothing: float) -> None:
    inputs = [t(-5.0, -0.2, -30.0), t(-6.0, -0.1, -10.0), t(-5.5, -1.0, -20.0), t(-6.5, -2.0, -9.0)]
    for x in inputs:
        x.requires_grad_()
    assert gradcheck(lambda *x: dpo.dpo(*x, beta=0.5, label_smoothing=smoothing), inputs)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("form", [rationale.rationale_nll, rationale.rationale_logistic])
def test_rationale_gradient(form, mean: bool) -> None:
    x = t(-5.0, -0.2, -30.0).requires_grad_()
    assert gradcheck(lambda s: form(s, t(3, 1, 12), gamma=0.3, mean=mean), (x,))


# --- properties ------------------------------------------------------------------------------

logprobs = st.floats(-500, 0)
betas = st.floats(0.01, 2)


@given(logprobs, logprobs, logprobs, logprobs, betas)
def test_dpo_swap_symmetry(w: float, l: float, rw: float, rl: float, beta: float) -> None:  # noqa: E741
    """σ(x) + σ(−x) = 1: exp(−loss) of a pair and of its reverse add up to 1."""
    one = dpo.dpo(t(w), t(l), t(rw), t(rl), beta=beta)
    other = dpo.dpo(t(l), t(w), t(rl), t(rw), beta=beta)
    assert (torch.exp(-one) + torch.exp(-other)).item() == pytest.approx(1, abs=1e-9)


@given(logprobs, logprobs, st.floats(-100, 100), betas)
def test_dpo_ignores_a_shared_shift(w: float, l: float, shift: float, beta: float) -> None:  # noqa: E741
    plain = dpo.dpo(t(w), t(l), t(-7), t(-9), beta=beta)
    shifted = dpo.dpo(t(w + shift), t(l + shift), t(-7), t(-9), beta=beta)
    assert shifted.item() == pytest.approx(plain.item(), abs=1e-9)


@given(logprobs, logprobs, betas, st.floats(0, 0.49))
def test_dpo_is_ln2_at_the_reference(w: float, l: float, beta: float, eps: float) -> None:  # noqa: E741
    value = dpo.dpo(t(w), t(l), t(w), t(l), beta=beta, label_smoothing=eps)
    assert value.item() == pytest.approx(LN2, abs=1e-12)


@given(logprobs, logprobs, logprobs, logprobs)
def test_half_smoothing_is_symmetric(w: float, l: float, rw: float, rl: float) -> None:  # noqa: E741
    """At ε = ½ a pair and its reverse cost the same: the label says nothing."""
    one = dpo.dpo(t(w), t(l), t(rw), t(rl), beta=0.1, label_smoothing=0.5)
    other = dpo.dpo(t(l), t(w), t(rl), t(rw), beta=0.1, label_smoothing=0.5)
    assert one.item() == pytest.approx(other.item(), abs=1e-9)


# --- terms as the loop sees them -------------------------------------------------------------


def scores() -> Scores:
    return Scores(
        logprob={"chosen": t(-10, -4), "rejected": t(-20, -4), "rationale": t(-30, -8)},
        length={"chosen": t(5, 4), "rejected": t(10, 2), "rationale": t(10, 4)},
        reference={"chosen": t(-12, -4), "rejected": t(-19, -4)},
    )


def test_rdpo_is_dpo_plus_the_rationale_term() -> None:
    options = {"gamma": 2.0, "form": "paper", "reduction": "mean"}
    terms = losses.get("rdpo").terms(scores(), losses.parse({"name": "rdpo", **options}))
    assert set(terms) == {"preference", "rationale"}
    assert terms["preference"].values.tolist() == pytest.approx([softplus(-0.3), LN2])
    assert terms["rationale"].values.tolist() == pytest.approx([2 * 3.0, 2 * 2.0])
    assert terms["rationale"].over == "pairs"


def test_token_reduction_is_divided_by_all_tokens() -> None:
    options = {"gamma": 2.0, "form": "paper", "reduction": "token"}
    parsed = losses.parse({"name": "rationale_only", **options})
    terms = losses.get("rationale_only").terms(scores(), parsed)
    assert terms["rationale"].values.tolist() == [60, 16]
    assert terms["rationale"].over == "rationale"


def test_sft_terms() -> None:
    token = losses.get("sft").terms(scores(), losses.parse("sft"))["nll"]
    assert (token.values.tolist(), token.over) == ([10, 4], "chosen")
    parsed = losses.parse({"name": "sft", "normalise": "sequence"})
    each = losses.get("sft").terms(scores(), parsed)["nll"]
    assert (each.values.tolist(), each.over) == ([2, 1], "pairs")


def test_dpo_metrics() -> None:
    seen = losses.get("dpo").observe(scores(), losses.parse("dpo"))
    assert seen["rewards/chosen"].tolist() == pytest.approx([0.2, 0.0])
    assert seen["rewards/rejected"].tolist() == pytest.approx([-0.1, 0.0])
    assert seen["rewards/margin"].tolist() == pytest.approx([0.3, 0.0])
    assert seen["rewards/accuracy"].tolist() == [1.0, 0.0]  # a tie is no win


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(losses.REGISTRY))
def test_every_registered_loss_loads(name: str) -> None:
    loss = losses.get(name)
    assert loss.name == name
    assert loss.settings.model_fields["name"].default == name
    assert all(module.startswith("rayonale.losses.") for module in losses.modules(name))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            "nope",
            "unknown loss 'nope'; choices: bradley_terry, cdpo, conditioned_sft, cpo, dpo, drdo",
        ),
        ({"beta": 1}, "a loss needs a name"),
        ({"name": "sft", "beta": 0.1}, "beta"),
        ({"name": "sft", "label_smoothing": 0.1}, "label_smoothing"),
        ({"name": "dpo", "gamma": 2}, "gamma"),
        ({"name": "dpo", "beta": 0}, "greater than 0"),
        ({"name": "dpo", "label_smoothing": 0.5}, "less than 0.5"),
        ({"name": "rdpo", "gamma": 2, "form": "paper"}, "reduction"),
        ({"name": "rdpo", "gamma": 2, "reduction": "sum"}, "form"),
        ({"name": "rdpo", "gamma": 2, "reduction": "token", "form": "released"}, "row by row"),
        (7, "expected a loss name or a mapping"),
    ],
)
def test_options_that_do_not_fit_are_refused(value: object, told: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + told):
        losses.parse(value)


# --- parity with TRL, from checked-in values --------------------------------------------------


def test_golden_values_of_trl() -> None:
    """`python benchmarks/loss_parity.py --write` made them, by TRL's own functions."""
    import json

    from benchmarks import loss_parity

    golden = json.loads(loss_parity.GOLDEN.read_text(encoding="utf-8"))["values"]
    assert golden.keys() == loss_parity.CASES.keys()
    for name, case in loss_parity.CASES.items():
        given = loss_parity.given_for(case)
        found = loss_parity.measured(loss_parity.ours(case.options, given), given)
        assert found["loss"] == pytest.approx(golden[name]["loss"], rel=1e-5), name
        assert found["gradient"] == pytest.approx(golden[name]["gradient"], rel=1e-5), name
