"""Log-probabilities of tokens in one buffer: values and gradients of PyTorch's own functions."""

import math

import pytest
import torch

from rayonale.train import policy
from rayonale.train.policy import TokenLogprobs


def test_by_hand() -> None:
    """Logits ln 1, ln 2, ln 5: the second has probability 2/8; its gradient is onehot − softmax."""
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]], requires_grad=True)
    found = TokenLogprobs.apply(logits.clone(), torch.tensor([1]))
    assert found.item() == pytest.approx(math.log(1 / 4))
    (gradient,) = torch.autograd.grad(found.sum() * 2, logits)
    assert gradient[0].tolist() == pytest.approx([-0.25, 1.5, -1.25])


@pytest.mark.parametrize("scale", [1.0, 300.0, 1e4])
def test_as_log_softmax_does(scale: float) -> None:
    """Down to log-probabilities of −1e4, at which a softmax is 0 and its log infinite."""
    draw = torch.Generator().manual_seed(0)
    logits = (torch.randn(7, 50, generator=draw) * scale).requires_grad_()
    target = torch.randint(0, 50, (7,), generator=draw)
    weight = torch.randn(7, generator=draw)
    found = TokenLogprobs.apply(logits * 1, target)
    expected = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    assert torch.allclose(found, expected, rtol=1e-6)
    one, other = (
        torch.autograd.grad((each * weight).sum(), logits)[0] for each in (found, expected)
    )
    assert torch.allclose(one, other, atol=1e-6)


def test_a_second_backward_is_refused() -> None:
    """The buffer holds the gradient after the first one."""
    logits = torch.randn(2, 5, requires_grad=True)
    found = TokenLogprobs.apply(logits * 1, torch.tensor([0, 1])).sum()
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()


def test_chunks_kept_and_computed_again_give_one_gradient(
    micro_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """7 targets in chunks of 2: with the logits kept, and with checkpoints in their place."""
    model = policy.load_model(micro_model, "float32", 64)
    ours = policy.Policy(model)
    size = model.config.vocab_size * 4
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, model.config.hidden_size, generator=draw, requires_grad=True)
    target = torch.randint(0, 90, (7,), generator=draw)
    head = model.get_output_embeddings().weight
    found = []
    for chunk, kept in ((1 << 40, 1 << 40), (2 * size, 1 << 40), (2 * size, size)):
        monkeypatch.setitem(policy.CHUNK_BYTES, "cpu", chunk)
        monkeypatch.setattr(policy, "HEAD_BYTES", kept)
        logprob = ours._token_logprobs(hidden, target)
        found.append((logprob, *torch.autograd.grad(logprob.sum(), (hidden, head))))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.allclose(one, two, atol=1e-5)
