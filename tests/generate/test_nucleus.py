"""The nucleus found without sorting is vLLM's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayonale.generate import nucleus


def vllms(logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor) -> torch.Tensor:
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    return apply_top_k_top_p_pytorch(logits.clone(), k, p, allow_cpu_sync=True)


def test_by_hand() -> None:
    """Probabilities ½, ¼, ⅛, … over 2,000 tokens, placed in any order."""
    order = torch.randperm(2_000, generator=torch.Generator().manual_seed(0))
    logits = torch.full((1, 2_000), -200.0)
    logits[0, order[:12]] = torch.tensor([-(i + 1) * math.log(2) for i in range(12)])
    # ½ + ¼ = 0.75 falls short of 0.8, with the next ⅛ it is 0.875
    masked = nucleus.mask(logits.clone(), None, torch.tensor([0.8]))
    assert (masked[0] > -math.inf).nonzero().flatten().tolist() == sorted(order[:3].tolist())
    assert torch.equal(masked[0, order[:3]], logits[0, order[:3]])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(0.1, 30),
    p=st.lists(st.floats(0.01, 0.9999), min_size=1, max_size=6),
)
def test_same_as_vllm(seed: int, scale: float, p: list[float]) -> None:
    """Flat rows (sorted) and peaked ones (not), side by side in one batch."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(p), 3_000, generator=draw) * scale
    logits[::2] *= 0.05
    mass = torch.tensor(p)
    ours, theirs = nucleus.mask(logits.clone(), None, mass), vllms(logits, None, mass)
    differs = (ours > -math.inf) ^ (theirs > -math.inf)
    # Sums of up to 3,000 float32 probabilities taken in another order: the token at the edge may
    # fall on the other side, nothing more.
    assert differs.sum(dim=1).le(1).all()
    edge = logits.double().softmax(-1).sort(dim=-1, descending=True).values.cumsum(-1)
    for row in differs.any(dim=1).nonzero().flatten().tolist():
        assert (edge[row] - mass[row].double()).abs().min() < 1e-4
    kept = (ours > -math.inf) & (theirs > -math.inf)
    assert torch.equal(ours[kept], logits[kept])


@pytest.mark.parametrize("p", [1e-6, 1.0])
def test_extremes(p: float) -> None:
    """One token at least; all of them with p = 1."""
    logits = torch.randn(3, 2_500, generator=torch.Generator().manual_seed(1))
    masked = nucleus.mask(logits.clone(), None, torch.full((3,), p))
    assert (masked > -math.inf).sum(dim=1).tolist() == [1 if p < 1 else 2_500] * 3


def test_top_k_is_vllms() -> None:
    logits = torch.randn(2, 2_500, generator=torch.Generator().manual_seed(2))
    k, p = torch.tensor([5, 50]), torch.tensor([0.9, 0.5])
    assert torch.equal(nucleus.mask(logits.clone(), k, p), vllms(logits, k, p))


def test_vllm_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.sample.ops import topk_topp_sampler

    seen = []
    mask = nucleus.mask
    monkeypatch.setattr(nucleus, "mask", lambda *given: seen.append(given) or mask(*given))
    monkeypatch.setattr(topk_topp_sampler, "apply_top_k_top_p", topk_topp_sampler.apply_top_k_top_p)
    nucleus.install()
    logits = torch.randn(4, 2_500, generator=torch.Generator().manual_seed(3))
    sampler = topk_topp_sampler.TopKTopPSampler()
    drawn, _ = sampler.forward_native(logits.clone(), {}, None, torch.full((4,), 1e-6))
    assert len(seen) == 1
    assert drawn.tolist() == logits.argmax(dim=1).tolist()
