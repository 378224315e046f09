"""Checkpoints of llama2.c ("version 0") as Hugging Face folders.

    <name>.bin   header: 7 int32 (dim, hidden, layers, heads, key-value heads, vocabulary, length),
                 then float32: embedding, and each kind of weight stacked over the layers
    pieces.json  the vocabulary, one piece a token: character level, "▁" is a space

llama2.c turns neighbouring pairs of a head's values (RoPE), Transformers the head's two halves:
the rows of W_q and W_k are put in that order. A positive vocabulary size means that the LM head is
the embedding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER = ("dim", "hidden", "layers", "heads", "kv_heads", "vocabulary", "length")
_ROPE_THETA = 10_000.0
_NORM_EPS = 1e-5

# A base model has no turns: contents follow each other, and the first gets the beginning of text.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)

Weights = dict[str, NDArray[np.float32]]


def read_header(checkpoint: Path) -> dict[str, int]:
    """The seven numbers of the header.

    Raises:
        ValueError: the file is too short, or its size is not what the header says.
    """
    head = np.fromfile(checkpoint, dtype="<i4", count=len(_HEADER))
    if head.size < len(_HEADER):
        raise ValueError(f"{checkpoint}: {head.size} header numbers; expected {len(_HEADER)}")
    header = {name: int(value) for name, value in zip(_HEADER, head, strict=True)}
    floats = sum(int(np.prod(shape)) for _, shape in _layout(header))
    expected = 4 * (len(_HEADER) + floats)
    if (found := checkpoint.stat().st_size) != expected:
        raise ValueError(f"{checkpoint}: {found} bytes; expected {expected} for {header}")
    return header


def _layout(header: dict[str, int]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the arrays, in their order in the file."""
    dim, hidden, layers = header["dim"], header["hidden"], header["layers"]
    head = dim // header["heads"]
    kv = head * header["kv_heads"]
    vocabulary = abs(header["vocabulary"])
    arrays: list[tuple[str, tuple[int, ...]]] = [
        ("embedding", (vocabulary, dim)),
        ("input_layernorm", (layers, dim)),
        ("self_attn.q_proj", (layers, dim, dim)),
        ("self_attn.k_proj", (layers, kv, dim)),
        ("self_attn.v_proj", (layers, kv, dim)),
        ("self_attn.o_proj", (layers, dim, dim)),
        ("post_attention_layernorm", (layers, dim)),
        ("mlp.gate_proj", (layers, hidden, dim)),
        ("mlp.down_proj", (layers, dim, hidden)),
        ("mlp.up_proj", (layers, hidden, dim)),
        ("norm", (dim,)),
        ("cos", (header["length"], head // 2)),  # computed by Transformers, not stored
        ("sin", (header["length"], head // 2)),
    ]
    return arrays if header["vocabulary"] > 0 else [*arrays, ("head", (vocabulary, dim))]


def read_weights(checkpoint: Path) -> Weights:
    """The weights under Transformers' names."""
    header = read_header(checkpoint)
    data = np.fromfile(checkpoint, dtype="<f4", offset=4 * len(_HEADER))
    arrays, at = {}, 0
    for name, shape in _layout(header):
        size = int(np.prod(shape))
        arrays[name] = data[at : at + size].reshape(shape)
        at += size
    heads = {"self_attn.q_proj": header["heads"], "self_attn.k_proj": header["kv_heads"]}
    found: Weights = {
        "model.embed_tokens.weight": arrays["embedding"],
        "model.norm.weight": arrays["norm"],
        "lm_head.weight": arrays.get("head", arrays["embedding"]),
    }
    for name, stacked in arrays.items():
        if name in ("embedding", "norm", "cos", "sin", "head"):
            continue
        for layer, weight in enumerate(stacked):
            turned = _halves(weight, heads[name]) if name in heads else weight
            found[f"model.layers.{layer}.{name}.weight"] = turned
    return found


def _halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head from pairs (0, 1), (2, 3) … to first members, then second members."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def build_tokenizer(pieces: list[str]) -> Any:
    """A character tokenizer: "▁" for each space and before the text, one token a character.

    Args:
        pieces: the vocabulary; the first three are unknown, beginning and end of text.
    """
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    unknown, begin, end = pieces[:3]
    tokenizer = Tokenizer(
        WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token=unknown)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, pieces.index(begin))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unknown,
        bos_token=begin,
        eos_token=end,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def convert(checkpoint: Path, pieces: Path, folder: Path) -> None:
    """Write a Hugging Face folder of a checkpoint and its vocabulary.

    Args:
        checkpoint: the `.bin` file.
        pieces: JSON list of the vocabulary's pieces.
        folder: made where it is not there.

    Raises:
        ValueError: the file's size, or the number of pieces, is not what the header says.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    header = read_header(checkpoint)
    vocabulary = json.loads(pieces.read_text(encoding="utf-8"))
    if len(vocabulary) != abs(header["vocabulary"]):
        raise ValueError(
            f"{pieces}: {len(vocabulary)} pieces; {checkpoint} has {abs(header['vocabulary'])}"
        )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=header["dim"],
        intermediate_size=header["hidden"],
        num_hidden_layers=header["layers"],
        num_attention_heads=header["heads"],
        num_key_value_heads=header["kv_heads"],
        max_position_embeddings=header["length"],
        rms_norm_eps=_NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
        tie_word_embeddings=header["vocabulary"] > 0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    weights = {name: torch.from_numpy(array.copy())
               for name, array in read_weights(checkpoint).items()}  # fmt: skip
    model.load_state_dict(weights, strict=True)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    build_tokenizer(vocabulary).save_pretrained(folder)
