"""A random Llama of 0.1 M parameters with a byte tokenizer, and rows to train it on."""

import hashlib
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayonale import storage
from rayonale.records import PAIR, RATIONALE

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORDS = [
    "robin",
    "wren",
    "oak",
    "elm",
    "crow",
    "swan",
    "pine",
    "fern",
    "gull",
    "hawk",
    "happy",
    "sad",
    "calm",
    "short",
    "long",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads cost more than they bring at this size, most of all on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def micro_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the model; weights are the same in every session."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=special[3:],
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(symbols),
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            initializer_range=0.3,  # attention that matters: a wrong position must show
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    folder = tmp_path_factory.mktemp("micro-model")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A rationale prompt."""
    file: Path = tmp_path_factory.mktemp("templates") / "why.jinja"
    file.write_text(
        "{{ prompt }} A: {{ chosen if chosen_first else rejected }} "
        "B: {{ rejected if chosen_first else chosen }} Why?"
    )
    return str(file)


def pairs(count: int, template: str) -> list[dict[str, Any]]:
    """Pairs of random words with a rationale; every eighth is for validation."""
    draw = random.Random(0)

    def text(most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))

    rows = []
    for number in range(count):
        prompt, chosen, rejected = text(6), text(8), text(8) + "."
        rationale = {
            "text": f"Response A is better: {text(6)}",
            "style": template,
            "chosen_first": True,
            "seed": 1,
            "tokens": 9,
            "finish_reason": "stop",
            "grades": None,
        }
        rows.append(
            {
                "id": hashlib.md5(f"{number}".encode()).hexdigest(),
                "split": "train" if number % 8 else "validation",
                "source": "test",
                "line": number,
                "format": "test",
                "annotator": None,
                "occurrence": 0,
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "score_chosen": None,
                "score_rejected": None,
                "confidence": None,
                "metadata": "{}",
                "rationales": [rationale],
            }
        )
    return rows


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory, template: str) -> str:
    """Folder of 64 pairs with rationales."""
    folder = str(tmp_path_factory.mktemp("rows"))
    schema = pa.schema([*PAIR, ("rationales", pa.list_(RATIONALE))])
    storage.write_rows(folder, pairs(64, template), schema)
    return folder
