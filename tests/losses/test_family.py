"""The DPO family by hand: each number is worked out in a comment from the formula's letters."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayonale import losses
from rayonale.losses import cpo, dpo, ipo, kto, length_dpo, nca, orpo, rpo, rrhf, simpo, slic, sppo
from rayonale.losses.spec import Scores

LN2 = math.log(2)
# S_π(y_w), S_π(y_l), S_ref(y_w), S_ref(y_l): ρ_w = 2, ρ_l = −1, Δ = 3
PAIR = (-10.0, -20.0, -12.0, -19.0)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pair() -> list[torch.Tensor]:
    return [t(value) for value in PAIR]


def softplus(x: float) -> float:
    """log(1 + e^x), as −log σ(−x)."""
    return math.log1p(math.exp(x)) if x < 30 else x


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- pairs -----------------------------------------------------------------------------------


def test_ipo_by_hand() -> None:
    # (3 − 1/(2·0.1))² = (3 − 5)²
    assert ipo.ipo(*pair(), tau=0.1).item() == pytest.approx(4)


@pytest.mark.parametrize(("length", "expected"), [("summed", 4.0), ("normalised", 20.25)])
def test_ipo_conventions(length: str, expected: float) -> None:
    """|y_w| = 5, |y_l| = 10: ρ_w/5 − ρ_l/10 = 0.4 + 0.1, and (0.5 − 5)²."""
    found = terms_of({"name": "ipo", "length": length})["preference"].values
    assert found.item() == pytest.approx(expected)


def test_slic_by_hand() -> None:
    # 1 − −10 + −20 = −9 → 0; the other way round 1 + 20 − 10 = 11
    assert slic.slic(t(-10, -20), t(-20, -10), delta=1).tolist() == [0, 11]
    found = terms_of({"name": "slic", "nll_weight": 0.1})
    assert found["nll"].values.item() == pytest.approx(1.0)  # 0.1 · 10, a sum
    assert found["nll"].over == "pairs"


def test_hinge_by_hand() -> None:
    # 1 − 0.1 · 3 = 0.7; 1 − 0.5 · 3 < 0
    assert slic.hinge(*pair(), beta=0.1).item() == pytest.approx(0.7)
    assert slic.hinge(*pair(), beta=0.5).item() == 0


def test_orpo_by_hand() -> None:
    # A_w = ln ½, A_l = ln ¼: odds 1 and 1/3, their ratio 3; −log σ(ln 3) = −log ¾
    chosen, rejected = t(math.log(0.5)), t(math.log(0.25))
    assert orpo.log_odds_ratio(chosen, rejected).item() == pytest.approx(math.log(3))
    assert orpo.odds_ratio(chosen, rejected).item() == pytest.approx(-math.log(0.75))


@pytest.mark.parametrize("x", [-1e-9, -1e-3, -0.6, -0.7, -5.0, -50.0])
def test_log1mexp_is_exact(x: float) -> None:
    with_more_digits = math.log(-math.expm1(x)) if x > -1 else math.log1p(-math.exp(x))
    assert orpo.log1mexp(t(x)).item() == pytest.approx(with_more_digits, rel=1e-12)


def test_cpo_by_hand() -> None:
    # −log σ(0.1 · (−10 + 20))
    assert cpo.cpo(t(-10), t(-20), beta=0.1).item() == pytest.approx(softplus(-1))


@pytest.mark.parametrize("name", ["orpo", "cpo"])
def test_what_the_likelihood_runs_over(name: str) -> None:
    """Response: 10 nats over 5 tokens; with the prompt (8 nats, 4 predicted tokens) 18 over 9."""
    response = terms_of({"name": name})["nll"]
    assert (response.values.item(), response.count(COUNTS)) == (10, 5)
    both = terms_of({"name": name, "nll_over": "prompt_and_response"})["nll"]
    assert (both.values.item(), both.count(COUNTS)) == (18, 9)
    each = terms_of({"name": name, "nll_over": "prompt_and_response", "nll_normalise": "sequence"})[
        "nll"
    ]
    assert (each.values.item(), each.count(COUNTS)) == (2, 1)
    asked = losses.of(losses.parse({"name": name, "nll_over": "prompt_and_response"}))
    assert asked.sequences == ("chosen", "rejected", "prompt")


def test_simpo_by_hand() -> None:
    # β(A_w − A_l) − γ = 2 · (−2 + 3) − 0.5
    assert simpo.simpo(t(-2), t(-3), beta=2, gamma=0.5).item() == pytest.approx(softplus(-1.5))


def test_simpo_margin_is_written_in_two_ways() -> None:
    one = losses.parse({"name": "simpo", "beta": 2.0, "simpo_gamma": 1.0})
    other = losses.parse({"name": "simpo", "beta": 2.0, "gamma_beta_ratio": 0.5})
    assert (one.margin, other.margin, losses.parse("simpo").margin) == (1.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="two ways to write one margin"):
        losses.parse({"name": "simpo", "simpo_gamma": 1.0, "gamma_beta_ratio": 0.5})


def test_length_dpo_by_hand() -> None:
    # βΔ + α(5 − 10) = 0.3 − 0.05
    lengths = {"chosen_length": t(5), "rejected_length": t(10)}
    found = length_dpo.length_dpo(*pair(), **lengths, beta=0.1, alpha=0.01)
    assert found.item() == pytest.approx(softplus(-0.25))
    plain = length_dpo.length_dpo(*pair(), **lengths, beta=0.1, alpha=0.0)
    assert plain.item() == dpo.dpo(*pair(), beta=0.1).item()


@pytest.mark.parametrize("distance", ["bwd_kl", "fwd_kl"])
def test_rpo_by_hand(distance: str) -> None:
    # a = 0.3, b = 1 · (8 − 6) = 2
    a, b = (0.3, 2.0) if distance == "bwd_kl" else (2.0, 0.3)
    expected = sigmoid(b) * math.log(sigmoid(b) / sigmoid(a))
    expected += sigmoid(-b) * math.log(sigmoid(-b) / sigmoid(-a))
    assert rpo.rpo(t(0.3), t(2), distance=distance).item() == pytest.approx(expected)


def test_rpo_squared_and_terms() -> None:
    assert rpo.rpo(t(0.3), t(2), distance="sq").item() == pytest.approx(2.89)
    found = terms_of({"name": "rpo", "beta": 0.1, "eta": 0.5, "distance": "sq"})["preference"]
    assert found.values.item() == pytest.approx((0.3 - 0.5 * 2) ** 2)


def test_sppo_by_hand() -> None:
    # η = 10, P = 0.8: aims ±3; ½[(2 − 3)² + (−1 + 3)²]
    assert sppo.sppo(*pair(), t(0.8), eta=10).item() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("source", "probability"), [("hard", 1.0), ("scores", sigmoid(2)), ("column", 0.7)]
)
def test_sppo_probabilities(source: str, probability: float) -> None:
    options = {"name": "sppo", "eta": 10, "probability": source}
    found = terms_of(options)["preference"].values.item()
    assert found == pytest.approx(sppo.sppo(*pair(), t(probability), eta=10).item())
    read = {"hard": (), "scores": ("score_chosen", "score_rejected")}
    assert losses.of(losses.parse(options)).values == read.get(source, ("preference_probability",))


def test_nca_pair_by_hand() -> None:
    # βρ = 0.2 and −0.1: softplus(−0.2) + ½ softplus(0.2) + ½ softplus(−0.1)
    expected = softplus(-0.2) + 0.5 * softplus(0.2) + 0.5 * softplus(-0.1)
    assert nca.nca_pair(*pair(), beta=0.1).item() == pytest.approx(expected)


# --- single responses ------------------------------------------------------------------------


def test_kto_by_hand() -> None:
    # ρ = 2 and −1, z = 0.5: 1 − σ(0.15) for the desired, 1 − σ(0.1 · (0.5 + 1)) for the other
    found = kto.kto(t(-10, -20), t(-12, -19), t(1, 0), t(0.5)[0], beta=0.1)
    assert found.tolist() == pytest.approx([1 - sigmoid(0.15), 1 - sigmoid(0.15)])
    weighted = kto.kto(
        t(-10, -20),
        t(-12, -19),
        t(1, 0),
        t(0.5)[0],
        beta=0.1,
        desired_weight=2,
        undesired_weight=3,
    )
    assert weighted.tolist() == pytest.approx([2 * (1 - sigmoid(0.15)), 3 * (1 - sigmoid(0.15))])


def test_kto_estimate_is_at_least_nought_and_has_no_gradient() -> None:
    kl = t(-5.0)[0].requires_grad_()
    response = t(-10.0).requires_grad_()
    value = kto.kto(response, t(-12), t(1), kl, beta=0.1)
    assert value.item() == pytest.approx(1 - sigmoid(0.2))  # z = 0
    value.sum().backward()
    assert kl.grad is None
    assert response.grad.item() < 0


# --- lists -----------------------------------------------------------------------------------

MASK = torch.tensor([[True, True, True], [True, True, False]])
REFERENCE = torch.tensor([[-9.0, -9.0, -9.0], [-5.0, -5.0, 0.0]], dtype=torch.float64)
POLICY = REFERENCE + torch.tensor([[1.0, 0.0, -1.0], [2.0, -2.0, 0.0]], dtype=torch.float64)
SCORE = torch.tensor([[1.0, 2.0, 3.0], [5.0, 4.0, 0.0]], dtype=torch.float64)


def test_rrhf_by_hand() -> None:
    """List 0, worse before better: A = −1, −2, −4 with scores 1 < 2 < 3 costs 1 + 3 + 2."""
    mean = torch.tensor([[-1.0, -2.0, -4.0], [-1.0, -3.0, 0.0]], dtype=torch.float64)
    assert rrhf.rrhf(mean, SCORE, MASK).tolist() == [6, 0]
    equal = torch.full_like(SCORE, 2.0)
    assert rrhf.rrhf(mean, equal, MASK).tolist() == [0, 0]


@pytest.mark.parametrize(("nll", "expected"), [("sum", [12.0, 4.0]), ("mean", [4.0, 2.0])])
def test_rrhf_likelihood_of_the_best(nll: str, expected: list[float]) -> None:
    scores = Scores(
        logprob={"responses": -t(2, 4, 12, 4, 9, 0).reshape(2, 3)},
        length={"responses": t(2, 2, 3, 2, 3, 1).reshape(2, 3)},
        value={"scores": SCORE},
        mask=MASK,
    )
    settings = losses.parse({"name": "rrhf", "nll": nll})
    assert losses.of(settings).terms(scores, settings)["nll"].values.tolist() == expected


def test_infonca_by_hand() -> None:
    """τ = 1/ln 2 makes p ∝ 2^r: list 0 (1, 2, 4)/7, list 1 (2, 1)/3; β = 1."""
    found = nca.infonca(POLICY, REFERENCE, SCORE, MASK, beta=1.0, tau=1 / LN2)
    logs = [x - math.log(math.e + 1 + 1 / math.e) for x in (1, 0, -1)]
    first = -sum(p / 7 * x for p, x in zip((1, 2, 4), logs, strict=True))
    second = -(2 * 2 + 1 * -2) / 3 + math.log(math.e**2 + math.e**-2)
    assert found.tolist() == pytest.approx([first, second])


def test_nca_by_hand() -> None:
    found = nca.nca(POLICY, REFERENCE, SCORE, MASK, beta=1.0, tau=1 / LN2)
    first = (softplus(-1) + 2 * softplus(0) + 4 * softplus(1)) / 7
    first += (softplus(1) + softplus(0) + softplus(-1)) / 3
    second = (2 * softplus(-2) + softplus(2)) / 3 + (softplus(2) + softplus(-2)) / 2
    assert found.tolist() == pytest.approx([first, second])


values = st.floats(-300, 0)


@given(values, values, values, values)
def test_infonca_on_a_pair_with_hard_labels_is_dpo(
    w: float, v: float, rw: float, rl: float
) -> None:
    lists = [t(w, v)[None], t(rw, rl)[None], t(9, 1)[None], torch.ones(1, 2, dtype=torch.bool)]
    found = nca.infonca(*lists, beta=0.1, tau=1e-4).item()
    assert found == pytest.approx(dpo.dpo(t(w), t(v), t(rw), t(rl), beta=0.1).item(), abs=1e-9)


@given(values, values, values, values)
def test_nca_on_a_pair_with_hard_labels_is_nca_pair(
    w: float,
    v: float,
    rw: float,
    rl: float,
) -> None:
    lists = [t(w, v)[None], t(rw, rl)[None], t(9, 1)[None], torch.ones(1, 2, dtype=torch.bool)]
    found = nca.nca(*lists, beta=0.1, tau=1e-4).item()
    assert found == pytest.approx(nca.nca_pair(t(w), t(v), t(rw), t(rl), beta=0.1).item(), abs=1e-9)


@given(st.permutations(range(4)))
def test_order_within_a_list_does_not_count(order: list[int]) -> None:
    policy, reference = t(-3, -8, -5, -1), t(-4, -7, -6, -2)
    score, mask = t(1, 3, 2, 2), torch.ones(1, 4, dtype=torch.bool)
    for loss in (
        lambda o: nca.nca(policy[o][None], reference[o][None], score[o][None], mask, beta=1, tau=1),
        lambda o: nca.infonca(
            policy[o][None], reference[o][None], score[o][None], mask, beta=1, tau=1
        ),
        lambda o: rrhf.rrhf(policy[o][None], score[o][None], mask),
    ):
        assert loss(order).item() == pytest.approx(loss([0, 1, 2, 3]).item(), abs=1e-12)


# --- properties of losses of pairs -----------------------------------------------------------

REFERENCE_LOSSES = {
    "dpo": lambda *x: dpo.dpo(*x, beta=0.1, label_smoothing=0.2),
    "ipo": lambda *x: ipo.ipo(*x, tau=0.1),
    "hinge": lambda *x: slic.hinge(*x, beta=0.1),
    "rpo": lambda *x: rpo.rpo(0.1 * dpo.margin(*x), t(1.5), distance="bwd_kl"),
}
FREE_LOSSES = {
    "slic": lambda w, v: slic.slic(w, v, delta=1),
    "cpo": lambda w, v: cpo.cpo(w, v, beta=0.1),
    "simpo": lambda w, v: simpo.simpo(w, v, beta=2, gamma=0.5),
}


@pytest.mark.parametrize("name", REFERENCE_LOSSES)
@given(st.tuples(values, values, values, values), st.floats(-50, 50))
def test_shared_shifts_cancel(name: str, given_: tuple[float, ...], by: float) -> None:
    """Of both policies' log-probabilities, and of policy and reference on one response."""
    loss, (w, v, rw, rl) = REFERENCE_LOSSES[name], given_
    plain = loss(t(w), t(v), t(rw), t(rl)).item()
    assert loss(t(w + by), t(v + by), t(rw), t(rl)).item() == pytest.approx(plain, abs=1e-6)
    assert loss(t(w + by), t(v), t(rw + by), t(rl)).item() == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("name", FREE_LOSSES)
@given(values, values, st.floats(-50, 50))
def test_shared_shifts_cancel_without_a_reference(name: str, w: float, v: float, by: float) -> None:
    loss = FREE_LOSSES[name]
    plain = loss(t(w), t(v)).item()
    assert loss(t(w + by), t(v + by)).item() == pytest.approx(plain, abs=1e-6)


@given(values, values)
def test_swapped_pairs_of_logistic_losses_add_up(w: float, v: float) -> None:
    """σ(x) + σ(−x) = 1, for the margins that change sign with the pair."""
    for loss in (lambda a, b: cpo.cpo(a, b, beta=0.1), lambda a, b: orpo.odds_ratio(a / 9, b / 9)):
        one, other = loss(t(w - 1e-6), t(v - 1e-6)), loss(t(v - 1e-6), t(w - 1e-6))
        assert (torch.exp(-one) + torch.exp(-other)).item() == pytest.approx(1, abs=1e-7)


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_rpo_is_a_distance(a: float, b: float) -> None:
    for distance in ("bwd_kl", "fwd_kl", "sq"):
        assert rpo.rpo(t(a), t(b), distance=distance).item() >= -1e-12
        assert rpo.rpo(t(a), t(a), distance=distance).item() == pytest.approx(0, abs=1e-12)
    one = rpo.rpo(t(a), t(b), distance="bwd_kl").item()
    assert one == pytest.approx(rpo.rpo(t(-a), t(-b), distance="bwd_kl").item(), abs=1e-9)


# --- a row as the loop sees it ----------------------------------------------------------------

COUNTS = {"pairs": 1.0, "chosen": 5.0, "rejected": 10.0, "prompt": 4.0, "rationale": 6.0}


def terms_of(options: dict) -> dict:
    """Terms of one pair: |y_w| = 5, |y_l| = 10, a prompt of five tokens, scores 8 and 6."""
    scores = Scores(
        logprob={"chosen": t(-10), "rejected": t(-20), "prompt": t(-8), "rationale": t(-12)},
        length={"chosen": t(5), "rejected": t(10), "prompt": t(4), "rationale": t(6)},
        reference={"chosen": t(-12), "rejected": t(-19)},
        value={
            "score_chosen": t(8),
            "score_rejected": t(6),
            "preference_probability": t(0.7),
        },
    )
    settings = losses.parse(options)
    return losses.of(settings).terms(scores, settings)


RATIONALE = {"gamma": 2.0, "form": "paper", "reduction": "mean"}


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("rdpo", {"name": "dpo"}),
        ("rorpo", {"name": "orpo"}),
        ("rsimpo", {"name": "simpo"}),
        ("ipo+rationale", {"name": "ipo"}),
        ("sppo+rationale", {"name": "sppo", "probability": "scores"}),
    ],
)
def test_the_rationale_term_goes_on_top(name: str, base: dict) -> None:
    plain, both = terms_of(base), terms_of({**base, "name": name, **RATIONALE})
    assert set(both) == {*plain, "rationale"}
    for term in plain:
        assert both[term].values.item() == plain[term].values.item()
        assert both[term].over == plain[term].over
    assert both["rationale"].values.item() == pytest.approx(2 * 12 / 6)
    loss, bare = losses.of(losses.parse({**base, "name": name, **RATIONALE})), losses.parse(base)
    assert "rationale" in loss.sequences
    assert loss.values == losses.of(bare).values
    assert loss.reference == losses.of(bare).reference


@pytest.mark.parametrize("name", ["kto", "nca", "sft", "rdpo", "conditioned_sft"])
def test_the_rationale_term_needs_pairs_without_one(name: str) -> None:
    with pytest.raises(ValueError, match="goes on top of a loss of preference pairs"):
        losses.parse({"name": f"{name}+rationale", **RATIONALE})
