"""What both sides of `training.py` train on: one model of random weights, token lists in shards.

In a folder:

    <folder>/model/        Llama of 6.8 M parameters (hidden 256, 6 layers, 8,192 tokens), seeded
    <folder>/hh.arrow      HH-RLHF pairs with a made-up rationale each
    <folder>/long.arrow    pairs with prompts of 900-1,500 tokens, of random tokens
    <folder>/short-….arrow  pairs of about 120 tokens, of random tokens, so many
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEQUENCES = ("chosen", "rejected", "rationale")
RATIONALES = ("own-prompt", "follow-up")
VOCABULARY = 8_192
SPECIAL = ["<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# name → (prompt, response, rationale): least and most tokens.
RANDOM = {
    "long": ((900, 1_500), (60, 200), (60, 120)),
    "short": ((40, 80), (10, 40), (10, 30)),
}


def write_model(folder: Path, texts: list[str]) -> str:
    """A byte-level BPE of the texts and a Llama of random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL[3:],
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4_096,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    out = folder / "model"
    tokenizer.save_pretrained(out)
    LlamaForCausalLM(config).save_pretrained(out)
    return str(out)


def hh_pairs(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of an HH-RLHF file with a rationale of 40 to 80 words out of both responses."""
    from rayonale.data.fields import BadRow
    from rayonale.data.formats import get

    convert = get("hh_rlhf").convert
    draw = random.Random(0)
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        try:
            pair = convert(json.loads(line))
        except BadRow:
            continue
        words = f"{pair['chosen'][0]['content']} {pair['rejected'][0]['content']}".split()
        said = " ".join(draw.choices(words or ["nothing"], k=draw.randint(40, 80)))
        rationale = {
            "text": f"Response A is better: {said}",
            "chosen_first": True,
            "finish_reason": "stop",
        }
        yield {"id": f"{number:08d}", **pair, "rationales": [rationale]}


def random_examples(count: int, kind: str, rationale: str) -> Iterator[dict[str, Any]]:
    """Token lists of random tokens; the rationale's prompt holds prompt and both responses.

    Args:
        rationale: one of `RATIONALES`: whether the prompt goes on from the chosen response.
    """
    from rayonale.train.trees import shared_tokens

    draw = random.Random(1)
    prompts, responses, rationales = RANDOM[kind]

    def some(least: int, most: int) -> list[int]:
        return draw.choices(range(len(SPECIAL), VOCABULARY), k=draw.randint(least, most))

    for number in range(count):
        found: dict[str, Any] = {"id": f"{number:08d}", "prompt": [1, 3, *some(*prompts), 2, 4]}
        found |= {name: [*some(*responses), 2] for name in ("chosen", "rejected")}
        if rationale == "follow-up":
            shown = [*found["prompt"], *found["chosen"], 3, *found["rejected"]]
        else:
            shown = found["prompt"][:-1] + found["chosen"] + found["rejected"]
        found |= {"rationale_prompt": [*shown, 4], "rationale": [*some(*rationales), 2]}
        counts = {f"{n}_tokens": len(v) for n, v in found.items() if n != "id"}
        yield found | counts | {"shared_tokens": shared_tokens(found)}


def write_shard(path: Path, examples: list[dict[str, Any]], model: str) -> str:
    """Token lists as the training stage's shard, with room for the reference."""
    import pyarrow as pa

    from rayonale.train.examples import Encoding

    schema = Encoding(model, SEQUENCES).schema()
    table = pa.Table.from_pylist(examples, schema=schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_table(table)
    return str(path)


def build(
    folder: Path, hh: Path, rows: int, short: tuple[int, ...] = (), rationale: str = "own-prompt"
) -> dict[str, str]:
    """Write model and shards; returns their paths by name."""
    from rayonale.train.examples import Encoding, encode
    from rayonale.train.settings import RationalePrompt

    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(hh_pairs(hh))
    texts = [m["content"] for p in pairs for k in ("prompt", "chosen", "rejected") for m in p[k]]
    found = {"model": write_model(folder, texts)}
    prompt = RationalePrompt(template="rationale_general")
    if rationale == "follow-up":
        prompt = RationalePrompt(follows="chosen")
    encoding = Encoding(found["model"], SEQUENCES, rationale=prompt)
    tokenizer = encoding.tokenizer()
    examples = [e for e, _ in (encode(tokenizer, pair, encoding) for pair in pairs) if e]
    made = {"hh": examples[:rows], "long": list(random_examples(min(rows, 256), "long", rationale))}
    for count in short:
        made[f"short-{count}"] = list(random_examples(count, "short", rationale))
    for name, some in made.items():
        found[name] = write_shard(folder / f"{name}.arrow", some, found["model"])
    return found
