"""Nucleus (top-p) sampling on CPU without sorting the vocabulary at each step.

vLLM 0.32 sorts all logits of a step to find the nucleus, which took a quarter of an engine's time
on CPU. A trained model's nucleus is nearly always within its few most likely tokens, so those are
selected first, and only the rows whose nucleus reaches further are sorted. What is kept is the
same: the smallest set of most likely tokens whose probabilities sum to p or more.
"""

from __future__ import annotations

import logging

import torch

log = logging.getLogger("rayonale")

_WIDTH = 128  # most likely tokens that are looked at before a row is sorted


def install() -> None:
    """Have vLLM in this process use it; its own way stays where vLLM is built differently."""
    from vllm.v1.sample.ops import topk_topp_sampler

    if hasattr(topk_topp_sampler, "apply_top_k_top_p"):
        topk_topp_sampler.apply_top_k_top_p = mask
    else:
        log.debug("engine: this vLLM cuts the nucleus elsewhere; its own way is used")


def mask(logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
    """Logits [B, V] with −inf outside the nucleus; may change them in place, as vLLM's own.

    Args:
        k: top-k of each row [B], or None; with it vLLM's own function is called.
        p: mass of each row's nucleus [B], or None.
    """
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    if p is None or k is not None or logits.shape[-1] <= 4 * _WIDTH:
        return apply_top_k_top_p_pytorch(logits, k, p, allow_cpu_sync=True)
    top, tokens = logits.topk(_WIDTH, dim=-1)
    probs = (top - logits.logsumexp(dim=-1, keepdim=True)).exp()
    above = probs.cumsum(dim=-1) - probs  # mass of the tokens more likely than this one
    keep = above < p.unsqueeze(1)
    keep[:, 0] = True
    wide = above[:, -1] + probs[:, -1] < p  # the nucleus reaches beyond the tokens looked at
    sorted_rows = None
    if wide.any():
        sorted_rows = apply_top_k_top_p_pytorch(logits[wide], None, p[wide], allow_cpu_sync=True)
    logits.fill_(-float("inf")).scatter_(1, tokens, top.masked_fill_(~keep, -float("inf")))
    if sorted_rows is not None:
        logits[wide] = sorted_rows
    return logits
