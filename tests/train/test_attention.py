"""The kernels of attention see the same; which one is taken is told."""

import pytest
import torch

from rayonale import storage
from rayonale.train import attention
from rayonale.train.batches import collate
from rayonale.train.examples import Encoding, encode
from rayonale.train.policy import Policy, load_model
from rayonale.train.settings import RationalePrompt

ALL = ("chosen", "rejected", "rationale")


def test_the_device_chooses() -> None:
    assert attention.choose("auto", "cpu") == "trees"
    assert attention.choose("auto", "cuda") == "flex"
    assert attention.choose("sdpa", "cuda") == "sdpa"
    assert attention.choose("sdpa", "cpu") == "sdpa"
    assert attention.told("auto", "cpu") == "trees (auto, on cpu)"
    assert attention.told("sdpa", "cuda") == "sdpa (by setting)"


def test_flex_is_refused_on_a_cpu() -> None:
    with pytest.raises(ValueError, match="flex has no backward pass on a CPU"):
        attention.choose("flex", "cpu")


def test_trees_are_refused_on_a_gpu() -> None:
    with pytest.raises(ValueError, match="trees runs on a CPU, found cuda"):
        attention.choose("trees", "cuda")


def test_kernels_follow_the_same_mask() -> None:
    """Token by token: what the block mask's rule says is what the dense mask holds."""
    tree = torch.tensor([[0, 0, 0, 0, 1, 1, -1], [2, 2, 2, 2, 2, 2, 2], [3, 3, 3, 3, 3, 3, -1]])
    segment = torch.tensor([[0, 0, 1, 2, 0, 1, 0], [0, 1, 1, 2, 2, 3, 3], [0, 1, 1, 2, 1, 1, 0]])
    dense = attention.dense_mask(tree, segment)[:, 0]
    rule = attention.block_mask(tree, segment).mask_mod
    places = torch.arange(7)
    for batch in range(3):
        found = rule(torch.tensor(batch), None, places[:, None], places[None, :])
        assert torch.equal(found, dense[batch])
    assert dense[0].int().tolist()[3] == [1, 1, 0, 1, 0, 0, 0]
    # What goes on from the first response sees it, and not the second one, which lies between.
    assert dense[2].int().tolist()[4] == [1, 1, 1, 0, 1, 0, 0]


def test_blocks_that_nothing_sees_are_skipped() -> None:
    """Two trees of 128 tokens: of the four blocks only the two on the diagonal are computed."""
    tree = torch.arange(2).repeat_interleave(128)[None]
    mask = attention.block_mask(tree, torch.zeros_like(tree))
    computed = mask.kv_num_blocks + (
        mask.full_kv_num_blocks if mask.full_kv_num_blocks is not None else 0
    )
    assert computed.flatten().tolist() == [1, 1]


@pytest.mark.parametrize("follows", ["nothing", "chosen"])
def test_flex_gives_the_same_log_probabilities(
    micro_model: str, rows: str, template: str, monkeypatch: pytest.MonkeyPatch, follows: str
) -> None:
    """Forward on the CPU, uncompiled: there it only shows that mask and positions are followed."""
    import transformers.integrations.flex_attention as flex
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(flex, "WrappedFlexAttention", lambda training: lambda: flex_attention)
    prompt = RationalePrompt(template=template, follows=follows)
    encoding = Encoding(micro_model, ALL, rationale=prompt)
    tokenizer = encoding.tokenizer()
    examples = [encode(tokenizer, row, encoding)[0] for row in storage.read_rows(rows)][:5]
    assert all((row["shared_tokens"] > 0) == (follows == "chosen") for row in examples if row)
    inputs = collate(examples, ALL).inputs("cpu")
    found = {}
    with torch.no_grad():
        for kernel in ("sdpa", "flex"):
            model = load_model(micro_model, "float32", 2_048, kernel).eval()
            assert model.config._attn_implementation == attention.IMPLEMENTATION[kernel]
            found[kernel] = Policy(model)(**inputs)
    assert torch.allclose(found["sdpa"], found["flex"], rtol=1e-5, atol=1e-3)
