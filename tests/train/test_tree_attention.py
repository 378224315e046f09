"""Attention without a mask gives what attention with the mask gives, forward and backward."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayonale.train import attention, tree_attention
from rayonale.train.tree_attention import Span

# A row: trees of (prompt tokens, tokens of each response, tokens that go on from one of them), each
# followed by padding.
TREE = st.tuples(
    st.integers(1, 9),
    st.lists(st.integers(1, 7), max_size=3),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 7)), max_size=2),
    st.integers(0, 2),
)
ROW = st.lists(TREE, min_size=1, max_size=3)


Tree = tuple[int, list[int], list[tuple[int, int]], int]


def layout(rows: list[list[Tree]]) -> tuple[torch.Tensor, torch.Tensor]:
    """tree and segment, [B, L]."""
    trees, segments = [], []
    for row in rows:
        tree: list[int] = []
        segment: list[int] = []
        for number, (prompt, responses, more, padding) in enumerate(row):
            segment += [0] * prompt
            for place, response in [*enumerate(responses, 1), *more]:
                segment += [place] * response
            tree += [number] * (len(segment) - len(tree)) + [-1] * padding
            segment += [0] * padding
        trees.append(tree)
        segments.append(segment)
    length = max(map(len, trees))
    pad = [length - len(tree) for tree in trees]
    return (
        torch.tensor([t + [-1] * p for t, p in zip(trees, pad, strict=True)]),
        torch.tensor([s + [0] * p for s, p in zip(segments, pad, strict=True)]),
    )


def projections(rows: int, length: int, seed: int, heads: int = 2) -> list[torch.Tensor]:
    """Query, key and value [B, H, L, 8], in memory as projections leave them."""
    draw = torch.Generator().manual_seed(seed)
    shape = (rows, length, heads, 8)
    made = [torch.randn(shape, generator=draw).transpose(1, 2) for _ in range(3)]
    return [tensor.detach().requires_grad_() for tensor in made]


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=2), st.integers(0, 99))
def test_values_and_gradients_equal_those_of_the_mask(rows: list[list[Tree]], seed: int) -> None:
    tree, segment = layout(rows)
    given_ = projections(*tree.shape, seed)
    runs = tree_attention.runs(tree, segment)
    found, _ = tree_attention.attend(None, *given_, runs, scaling=0.4)
    mask = attention.dense_mask(tree, segment)
    expected = torch.nn.functional.scaled_dot_product_attention(*given_, attn_mask=mask, scale=0.4)
    real = (tree >= 0)[:, :, None, None]  # what padding gets is nobody's concern
    assert torch.allclose(found * real, expected.transpose(1, 2) * real, atol=1e-5)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed)) * real
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), given_),
        torch.autograd.grad((expected.transpose(1, 2) * weight).sum(), given_),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_runs_and_spans_of_a_row() -> None:
    """pp cc r | p | padding: a response whose tokens are none (one token) has no run."""
    tree = torch.tensor([[0, 0, 0, 0, 0, 1, -1]])
    segment = torch.tensor([[0, 0, 1, 1, 2, 0, 0]])
    runs = tree_attention.runs(tree, segment)
    assert runs[0, 0].tolist() == [
        [0, 0, 0, 0, 2],
        [0, 0, 1, 2, 4],
        [0, 0, 2, 4, 5],
        [0, 1, 0, 5, 6],
    ]
    assert tree_attention.spans(runs) == [Span(0, 0, 2, (4, 5), (1, 2)), Span(0, 5, 6)]


def test_runs_that_go_on_from_earlier_ones() -> None:
    """pp c r c c: the last run sees the first one of its segment, and not the one between."""
    tree, segment = torch.zeros(1, 6, dtype=torch.int32), torch.tensor([[0, 0, 1, 2, 1, 1]])
    (found,) = tree_attention.spans(tree_attention.runs(tree, segment))
    assert found == Span(0, 0, 2, (3, 4, 6), (1, 2, 1))
    assert list(found.responses()) == [
        (slice(2, 3), []),
        (slice(3, 4), []),
        (slice(4, 6), [slice(2, 3)]),
    ]


def test_one_value_by_hand() -> None:
    """Prompt token values 1 and 3, a response's 7; all scores 0: means of what is visible."""
    query = torch.zeros(1, 1, 4, 1)
    value = torch.tensor([1.0, 3.0, 7.0, 20.0]).reshape(1, 1, 4, 1)
    tree, segment = torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 0, 1, 2]])
    runs = tree_attention.runs(tree, segment)
    found, _ = tree_attention.attend(None, query, query, value, runs)
    assert found.flatten().tolist() == pytest.approx([1, 2, 11 / 3, 8])
    # And with the last token going on from the first response: all but the second one's 20.
    query, value = torch.zeros(1, 1, 5, 1), torch.cat([value, torch.full((1, 1, 1, 1), 5.0)], 2)
    runs = tree_attention.runs(torch.zeros(1, 5), torch.tensor([[0, 0, 1, 2, 1]]))
    found, _ = tree_attention.attend(None, query, query, value, runs)
    assert found.flatten().tolist() == pytest.approx([1, 2, 11 / 3, 8, 16 / 4])


def test_scores_far_apart_stay_finite() -> None:
    """One part's log-sum-exp is 2,000 above the other's: the other weighs nothing, and no NaN."""
    query = torch.full((1, 1, 2, 1), 1.0)
    key = torch.tensor([2_000.0, -2_000.0]).reshape(1, 1, 2, 1)
    value = torch.tensor([5.0, 9.0]).reshape(1, 1, 2, 1)
    tree, segment = torch.tensor([[0, 0]]), torch.tensor([[0, 1]])
    runs = tree_attention.runs(tree, segment)
    given_ = [tensor.requires_grad_() for tensor in (query, key, value)]
    found, _ = tree_attention.attend(None, *given_, runs, scaling=1.0)
    assert found.flatten().tolist() == [5.0, 5.0]
    for gradient in torch.autograd.grad(found.sum(), given_):
        assert torch.isfinite(gradient).all()


def test_grouped_queries_share_keys() -> None:
    """Four query heads over two key heads: as if each key head were there twice."""
    tree, segment = layout([[(5, [3, 2], [], 1)]])
    (query, *_), (_, key, value) = (projections(1, 11, 0, heads) for heads in (4, 2))
    runs = tree_attention.runs(tree, segment)
    found, _ = tree_attention.attend(None, query, key, value, runs)
    twice = [tensor.repeat_interleave(2, 1) for tensor in (key, value)]
    expected, _ = tree_attention.attend(None, query, *twice, runs)
    assert torch.equal(found, expected)
    assert found.shape == (1, 11, 4, 8)


def test_without_runs_it_is_causal() -> None:
    """What a model gets that is called alone, without our mask."""
    given_ = projections(1, 6, 1)
    found, _ = tree_attention.attend(None, *given_, None)
    scores = given_[0] @ given_[1].transpose(2, 3) / math.sqrt(8)
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(hidden, -math.inf).softmax(3) @ given_[2]
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-6)
