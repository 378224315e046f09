"""Attention over packed trees without a mask: only what is visible is computed.

    tree        | prompt p p p p | chosen c c c | rejected r r |
    prompt      sees itself, causally                      ┐
    responses   see all of the prompt (one call for all)   ├ calls of PyTorch's own CPU kernel
    a response  sees itself, causally                      ┘

What goes on from a response is more of its segment, in a later run: one of the responses here, and
sees the earlier run too, all of it. So what a response token sees is in two parts or three; their
outputs are put together by their log-sum-exps, as blocks are inside flash attention (2205.14135,
section 3.1). The kernel's backward pass takes the joint output and log-sum-exp, and then gives each
part's share of the gradient.

A dense mask over packed rows costs L² for rows of L tokens, and CPU kernels compute what it hides;
here the prompt costs P²/2 and the responses R·P + Σ Rᵢ²/2.

Legend: B packed rows, H heads, L tokens a row, D values a head, T runs of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

NAME = "rayonale_trees"  # in Transformers' registry


@dataclass(frozen=True)
class Span:
    """A tree in a packed row: prompt in [start, middle), runs of responses end at `ends`.

    Attributes:
        segments: of each run of a response; equal ones are one response and what goes on from it.
    """

    row: int
    start: int
    middle: int
    ends: tuple[int, ...] = ()
    segments: tuple[int, ...] = ()

    def responses(self) -> Iterator[tuple[slice, list[slice]]]:
        """Each run of a response, and the earlier runs that it goes on from."""
        starts = (self.middle, *self.ends)
        runs = [slice(start, end) for start, end in zip(starts, self.ends, strict=False)]
        for place, (run, segment) in enumerate(zip(runs, self.segments, strict=True)):
            yield run, [runs[n] for n in range(place) if self.segments[n] == segment]


def runs(tree: Tensor, segment: Tensor) -> Tensor:
    """Runs of tokens of one segment, padding left out, [1, 1, T, 5] int64.

    Each is (row, tree, segment, start, end). Four axes, because Transformers passes on a mask of
    four axes as it is.

    Args:
        tree, segment: [B, L], as in `batches.Batch`.
    """
    length = tree.shape[1]
    changes = torch.ones_like(tree, dtype=torch.bool)
    changes[:, 1:] = (tree[:, 1:] != tree[:, :-1]) | (segment[:, 1:] != segment[:, :-1])
    row, start = changes.nonzero(as_tuple=True)
    end = torch.full_like(start, length)
    follows = row[1:] == row[:-1]
    end[:-1] = torch.where(follows, start[1:], length)
    found = torch.stack([row, tree[row, start].long(), segment[row, start].long(), start, end], 1)
    return found[found[:, 1] >= 0][None, None]


def spans(runs: Tensor) -> list[Span]:
    """The trees of `runs`."""
    found: list[Span] = []
    for row, _, segment, start, end in runs[0, 0].tolist():
        if segment == 0:
            found.append(Span(row, start, end))
        else:
            last = found.pop()
            segments = (*last.segments, segment)
            found.append(replace(last, ends=(*last.ends, end), segments=segments))
    return found


def attend(  # noqa: PLR0917  # Transformers' order
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What Transformers calls in each layer.

    Args:
        query: [B, H, L, D]; key, value may have fewer heads (grouped queries).
        attention_mask: what `runs` gave; None is plain causal attention, and a boolean one
            [B, 1, L, L] is what Transformers makes of padding.

    Returns:
        [B, L, H, D].
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is None or attention_mask.dtype != torch.int64:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout,
            is_causal=attention_mask is None, scale=scale,
        )  # fmt: skip
        return out.transpose(1, 2), None
    out = TreeAttention.apply(query, key, value, spans(attention_mask), scale)
    return out.transpose(1, 2), None


class TreeAttention(torch.autograd.Function):
    """[B, H, L, D] in and out; padding gets zeros."""

    @staticmethod
    def forward(  # noqa: PLR0917  # PyTorch has no keywords here
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, trees: list[Span], scale: float
    ) -> Tensor:
        """Outputs of all trees."""
        out, total = _zeros(query), query.new_zeros(query.shape[:3], dtype=torch.float32)
        for tree in trees:
            row = slice(tree.row, tree.row + 1)
            given, o, lse = (query[row], key[row], value[row]), out[row], total[row]
            prompt = slice(tree.start, tree.middle)
            o[:, :, prompt], lse[:, :, prompt] = _part(given, prompt, prompt, scale)
            if not tree.ends:
                continue
            answers = slice(tree.middle, tree.ends[-1])
            above, above_lse = _part(given, answers, prompt, scale)
            for answer, earlier in tree.responses():
                mine = slice(answer.start - tree.middle, answer.stop - tree.middle)
                parts = [(above[:, :, mine], above_lse[:, :, mine])]
                parts += [_part(given, answer, run, scale) for run in (answer, *earlier)]
                o[:, :, answer], lse[:, :, answer] = _joined(parts)
        ctx.save_for_backward(query, key, value, out, total)
        ctx.trees, ctx.scale = trees, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of query, key and value."""
        (gradient,), saved = gradients, ctx.saved_tensors
        found = [_zeros(tensor) for tensor in saved[:3]]
        for tree in ctx.trees:
            row = slice(tree.row, tree.row + 1)
            given = [tensor[row] for tensor in (gradient, *saved)]
            dq, dk, dv = (tensor[row] for tensor in found)
            prompt = slice(tree.start, tree.middle)
            parts = [(prompt, prompt)]
            if tree.ends:
                parts.append((slice(tree.middle, tree.ends[-1]), prompt))
                for answer, earlier in tree.responses():
                    parts += [(answer, run) for run in (answer, *earlier)]
            for asks, shows in parts:
                part = _part_backward(given, asks, shows, ctx.scale)
                for place, total, share in zip(
                    (asks, shows, shows), (dq, dk, dv), part, strict=True
                ):
                    total[:, :, place] += share
        return found[0], found[1], found[2], None, None


def _zeros(like: Tensor) -> Tensor:
    """[B, H, L, D] whose memory is [B, L, H, D], as projections leave it and take it."""
    rows, heads, length, size = like.shape
    return like.new_zeros((rows, length, heads, size)).transpose(1, 2)


def _part(
    given: tuple[Tensor, Tensor, Tensor], asks: slice, shows: slice, scale: float
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of the tokens `asks` over `shows`; causal where they are the same."""
    q, k, v = given
    keys, values = k[:, :, shows], v[:, :, shows]
    return tuple(_forward(q[:, :, asks], keys, values, 0.0, asks == shows, scale=scale))


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp over all parts of what the same tokens see."""
    joint = reduce(torch.logaddexp, [lse for _, lse in parts])
    weighed = [(lse - joint).exp()[..., None] * out for out, lse in parts]
    return reduce(torch.add, weighed), joint


def _part_backward(
    given: list[Tensor], asks: slice, shows: slice, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A part's share of the gradients; `given` is gradient, query, key, value, output, lse."""
    gradient, q, k, v, out, lse = given
    keys, values = k[:, :, shows], v[:, :, shows]
    return tuple(
        _backward(
            gradient[:, :, asks], q[:, :, asks], keys, values, out[:, :, asks], lse[:, :, asks],
            0.0, asks == shows, scale=scale,
        )
    )  # fmt: skip


def register() -> None:
    """Let Transformers' models find the kernel by its name, and padding be masked as for SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
