"""The oracle's loss, DRDO and e-DPO by hand: numbers are worked out from the formula's letters."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayonale import losses
from rayonale.losses import bradley_terry, drdo, e_dpo
from rayonale.losses.spec import Scores

LN2 = math.log(2)
NATS = st.floats(-1e4, 0)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def terms_of(options: dict, **value: torch.Tensor) -> dict[str, float]:
    """S(y_w) = −10 over 5 tokens, S(y_l) = −20 over 10; head 1.5 and 0.5; ρ_w = 2, ρ_l = −1."""
    settings = losses.parse(options)
    scores = Scores(
        logprob={"chosen": t(-10), "rejected": t(-20)},
        length={"chosen": t(5), "rejected": t(10)},
        reference={"chosen": t(-12), "rejected": t(-19)},
        reward={"chosen": t(1.5), "rejected": t(0.5)},
        value=value,
    )
    found = losses.of(settings).terms(scores, settings)
    return {name: term.values.item() for name, term in found.items()}


# --- the oracle ------------------------------------------------------------------------------


def test_bradley_terry_by_hand() -> None:
    assert bradley_terry.bradley_terry(t(3, 1), t(1, 1)).tolist() == pytest.approx(
        [math.log1p(math.exp(-2)), LN2]
    )
    assert bradley_terry.bradley_terry(t(3), t(1), 2.0).item() == pytest.approx(LN2)


def test_centring_by_hand() -> None:
    assert bradley_terry.centring(t(3, 2), t(1, -2)).tolist() == [16, 0]


def test_oracle_loss_by_hand() -> None:
    """0.99 · −log σ(1) + 0.01 · 10; the mean reading has 10 / 5."""
    found = terms_of({"name": "bradley_terry"})
    assert found == pytest.approx({"preference": 0.99 * math.log1p(math.exp(-1)), "nll": 0.1})
    assert terms_of({"name": "bradley_terry", "nll": "mean"})["nll"] == pytest.approx(0.02)
    plain = terms_of({"name": "bradley_terry", "alpha": 0.0})
    assert plain == pytest.approx({"preference": math.log1p(math.exp(-1))})


def test_margins_of_the_oracle() -> None:
    """−log σ(1 − 1) with a margin of 1; 1 − 0.25 · (8 − 4) = 0 with the scores' gap."""
    options = {"name": "bradley_terry", "alpha": 0.0}
    assert terms_of({**options, "margin": 1.0})["preference"] == pytest.approx(LN2)
    scored = terms_of({**options, "margin_scale": 0.25}, score_chosen=t(8), score_rejected=t(4))
    assert scored["preference"] == pytest.approx(LN2)
    assert losses.of(losses.parse(options)).values == ()  # scores are read only where they count
    with_scale = losses.of(losses.parse({**options, "margin_scale": 0.25}))
    assert with_scale.values == ("score_chosen", "score_rejected")


def test_centring_is_a_term_of_its_own() -> None:
    # 0.5 · (1.5 + 0.5)²
    assert terms_of({"name": "bradley_terry", "centring": 0.5})["centring"] == pytest.approx(2)


# --- drdo ------------------------------------------------------------------------------------


def test_distillation_by_hand() -> None:
    # (3 − 1)², and a pair that the oracle sees the other way round: (−2 − 1)²
    assert drdo.distillation(t(3, -2), t(1, 1)).tolist() == [4, 9]


def test_focal_preference_by_hand() -> None:
    """π_w = ½, π_l = ¼: p_w = ⅔, so −(⅓)² · ln(½ / ¾) = ln(3/2) / 9."""
    found = drdo.focal_preference(t(math.log(0.5)), t(math.log(0.25)), gamma=2)
    assert found.item() == pytest.approx(math.log(1.5) / 9)
    unweighted = drdo.focal_preference(t(math.log(0.5)), t(math.log(0.25)), gamma=0)
    assert unweighted.item() == pytest.approx(math.log(1.5))


@pytest.mark.parametrize(("z", "chosen", "rejected"), [("sum", -10, -20), ("mean", -2, -2)])
def test_drdo_readings(z: str, chosen: float, rejected: float) -> None:
    """Sums −10, −20; means −10/5, −20/10. Δr* = 2, Δr̂ = 1."""
    found = terms_of({"name": "drdo", "z": z}, reward_chosen=t(3), reward_rejected=t(1))
    weight = (1 - sigmoid(chosen - rejected)) ** 2
    odds = chosen - math.log(1 - math.exp(rejected))
    assert found["distillation"] == pytest.approx(1)
    assert found["preference"] == pytest.approx(-0.1 * weight * odds)


def test_gradient_of_the_focal_weight_is_kept_unless_detached() -> None:
    """Closed form at equal z = ln ½: w = ¼, f = ln ½ − ln ½ = 0 … take z_w = ln ¼ instead.

    f = ln ¼ − ln ½ = −ln 2, p_w = ⅓, w = 4/9; ∂L/∂z_w = −w (1 − γ p_w f), detached −w.
    """
    weight, p_w, f = 4 / 9, 1 / 3, -LN2
    for detach, expected in ((False, -weight * (1 - 2 * p_w * f)), (True, -weight)):
        chosen = t(math.log(0.25)).requires_grad_()
        drdo.focal_preference(chosen, t(math.log(0.5)), gamma=2, detach=detach).sum().backward()
        assert chosen.grad.item() == pytest.approx(expected)


def test_as_printed_a_likelier_rejected_response_costs_less_at_a_fixed_weight() -> None:
    """The direction of 1 − π(y_l) in the printed formula, which the focal weight hides."""
    values = drdo.focal_preference(t(-1, -1), t(-2, -0.5), gamma=0)
    assert values[1] < values[0]


@given(NATS, NATS, st.sampled_from([0.0, 1.0, 2.0, 5.0]))
def test_focal_preference_is_finite_with_finite_gradients(
    chosen: float, rejected: float, gamma: float
) -> None:
    z = torch.tensor([chosen, rejected], dtype=torch.float32, requires_grad=True)
    value = drdo.focal_preference(z[:1], z[1:], gamma=gamma)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(z.grad).all()


@given(NATS, st.floats(-1e4, -20))
def test_with_sums_the_second_factor_is_the_likelihood(chosen: float, rejected: float) -> None:
    """1 − π(y_l) is 1: the term is a focal-weighted negative log-likelihood."""
    found = drdo.focal_preference(t(chosen), t(rejected), gamma=2).item()
    weight = (
        math.exp(2 * -math.log1p(math.exp(chosen - rejected))) if chosen - rejected < 700 else 0
    )
    assert found == pytest.approx(-weight * chosen, rel=1e-6, abs=1e-7)


# --- e-dpo -----------------------------------------------------------------------------------

GAPS = torch.tensor([[2.0, 4.0, 0.0]], dtype=torch.float64)  # three oracles' Δr


@pytest.mark.parametrize(
    ("ensemble", "expected"),
    [("mean_of_squares", (1 + 9 + 1) / 3), ("mean_reward", 1.0), ("minimum", 1.0)],
)
def test_e_dpo_by_hand(ensemble: str, expected: float) -> None:
    """βΔ = 1: squares 1, 9, 1; the mean reward is 2."""
    found = e_dpo.e_dpo(t(1), GAPS, ensemble=ensemble)
    assert found.item() == pytest.approx(expected)


def test_e_dpo_of_stored_rewards() -> None:
    # Δ = 2 − −1 = 3, βΔ = 0.3; gaps 2 and 1: ((2 − 0.3)² + (1 − 0.3)²) / 2
    rewards = {
        "rewards_chosen": t(3, 1).reshape(1, 2),
        "rewards_rejected": t(1, 0).reshape(1, 2),
    }
    found = terms_of({"name": "e_dpo"}, **rewards)
    assert found["preference"] == pytest.approx((1.7**2 + 0.7**2) / 2)


@given(st.floats(-20, 20), st.lists(st.floats(-20, 20), min_size=1, max_size=5))
def test_ensembles_bound_each_other(implicit: float, gaps: list[float]) -> None:
    """min ≤ (mean reward)² ≤ mean of squares does not hold for min; the mean's bounds do."""
    both = {
        kind: e_dpo.e_dpo(t(implicit), t(*gaps)[None], ensemble=kind).item()
        for kind in ("mean_of_squares", "mean_reward", "minimum")
    }
    assert both["mean_reward"] <= both["mean_of_squares"] + 1e-9
    assert both["minimum"] <= both["mean_of_squares"] + 1e-9
    spread = both["mean_of_squares"] - both["mean_reward"]
    assert spread == pytest.approx(t(*gaps).var(correction=0).item(), abs=1e-6)
    if len(gaps) == 1:
        assert both["minimum"] == both["mean_reward"] == both["mean_of_squares"]


def test_a_name_of_two_options_is_refused() -> None:
    with pytest.raises(ValueError, match="both have an option gamma"):
        losses.parse({"name": "drdo+rationale", "gamma": 2.0})
