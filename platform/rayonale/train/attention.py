"""Attention over packed trees: one interface, a kernel for CPUs and one for CUDA.

    trees  computes what is visible and no more, without a mask (`tree_attention.py`); CPU only
    sdpa   PyTorch's scaled dot product with a boolean mask [B, 1, L, L]; runs anywhere
    flex   FlexAttention: compiled, skips blocks of 128 × 128 in which no token sees another, and
           never makes the mask; on a CPU it has no backward pass

The last two follow `visible`: who sees whom is said once. Legend as in `batches.py`.
"""

from __future__ import annotations

from typing import Any, Literal, cast

Kernel = Literal["trees", "sdpa", "flex"]

# What Transformers calls them.
IMPLEMENTATION: dict[Kernel, str] = {
    "trees": "rayonale_trees",
    "sdpa": "sdpa",
    "flex": "flex_attention",
}
AUTO: dict[str, Kernel] = {"cpu": "trees", "cuda": "flex"}
# Kernels for which a batch is one row without padding; for others rows are as long as a tree.
ONE_ROW: tuple[Kernel, ...] = ("trees",)


def choose(setting: str, device: str) -> Kernel:
    """The kernel for a device type (`cpu`, `cuda`).

    Raises:
        ValueError: `flex` on a CPU, `trees` on a GPU.
    """
    if setting == "flex" and device == "cpu":
        raise ValueError(
            "attention: flex has no backward pass on a CPU; expected auto, trees or sdpa, or a GPU"
        )
    if setting == "trees" and device != "cpu":
        raise ValueError(
            f"attention: trees runs on a CPU, found {device}; expected auto, flex or sdpa"
        )
    return AUTO[device] if setting == "auto" else cast(Kernel, setting)


def told(setting: str, device: str) -> str:
    """The choice and why, for a log line."""
    why = f"auto, on {device}" if setting == "auto" else "by setting"
    return f"{choose(setting, device)} ({why})"


def visible(query: tuple[Any, Any, Any], key: tuple[Any, Any, Any]) -> Any:
    """Whether a query token may look at a key token; each is (place in row, tree, segment).

    A token sees earlier tokens of its own tree that belong to the prompt (segment 0) or to its
    own segment: a response, and what goes on from it. Padding (tree −1) sees earlier padding, so
    that no row of the mask is empty (a softmax over nothing is NaN, and NaN · 0 is NaN).
    """
    return (
        (key[0] <= query[0])
        & (key[1] == query[1])
        & ((key[2] == 0) | (key[2] == query[2]))
    )  # fmt: skip


def mask(kernel: Kernel, tree: Any, segment: Any) -> Any:
    """What the kernel takes as its mask, from tree and segment numbers [B, L]."""
    if kernel == "trees":
        from rayonale.train import tree_attention

        return tree_attention.runs(tree, segment)
    return block_mask(tree, segment) if kernel == "flex" else dense_mask(tree, segment)


def kernel_of(model: Any) -> Kernel:
    """The kernel that a model was loaded with."""
    name = model.config._attn_implementation
    return next(kernel for kernel, called in IMPLEMENTATION.items() if called == name)


def dense_mask(tree: Any, segment: Any) -> Any:
    """[B, 1, L, L] bool, True where query (third axis) may look at key (fourth)."""
    import torch

    place = torch.arange(tree.shape[1], device=tree.device)
    query = (place[None, :, None], tree[:, :, None], segment[:, :, None])
    key = (place[None, None, :], tree[:, None, :], segment[:, None, :])
    return visible(query, key)[:, None]


def block_mask(tree: Any, segment: Any) -> Any:
    """FlexAttention's `BlockMask` of the same."""
    from torch.nn.attention.flex_attention import create_block_mask

    def rule(batch: Any, head: Any, query: Any, key: Any) -> Any:
        del head
        return visible(
            (query, tree[batch, query], segment[batch, query]),
            (key, tree[batch, key], segment[batch, key]),
        )

    rows, length = tree.shape
    return create_block_mask(rule, rows, None, length, length, device=str(tree.device))
