"""Small tokenizers with the chat templates of well-known families, and ingestion on its own."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rayonale import stages
from rayonale.data import ingest
from rayonale.data.settings import IngestSettings

CHATML = """\
{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3 = """\
{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + \
'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}\
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

MISTRAL = """\
{{ bos_token }}{% for m in messages %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}\
{% endif %}{% if m['role'] == 'user' %}{{ ' [INST] ' + m['content'] + ' [/INST]' }}\
{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}\
{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}\
{% endif %}{% for m in messages %}{{ '<start_of_turn>' + \
('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + \
'<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

# name → template, special tokens (bos, eos, …), whether SentencePiece-like
FAMILIES = {
    "chatml": (CHATML, ["<|endoftext|>", "<|im_end|>", "<|im_start|>"], False),
    "llama3": (
        LLAMA3,
        ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        False,
    ),
    "mistral": (MISTRAL, ["<s>", "</s>"], True),
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], False),
}

_TEXTS = [
    "Name two birds in alphabetical order. Boil water, then add the rice and wait.",
    "user assistant system model [INST] [/INST] hello there, how do you cook rice?\n\nWell,",
] * 40


@cache
def _trained(family: str) -> str:
    _, special, sentencepiece = FAMILIES[family]
    tokenizer = Tokenizer(models.BPE())
    if sentencepiece:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        alphabet = [chr(code) for code in range(10, 127)]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer.to_str()


def _make(family: str, chat_template: str | None = None, **kwargs: Any) -> PreTrainedTokenizerFast:
    template, special, _ = FAMILIES[family]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(family)),
        bos_token=None if family == "chatml" else special[0],
        eos_token=special[1],
        additional_special_tokens=special,
        **kwargs,
    )
    tokenizer.chat_template = template if chat_template is None else chat_template
    return tokenizer


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """`make_tokenizer(family, chat_template=None, **kwargs)`: a fresh small tokenizer."""
    return _make


@pytest.fixture(params=list(FAMILIES))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """A tokenizer of each family in turn."""
    return _make(request.param)


def run_ingest(out: Path | str, *, raw: str | None = None, **settings: Any) -> stages.StageResult:
    """Run the stage's function into a folder."""
    inputs = {} if raw is None else {"raw": stages.StageOutput("raw", raw, "0" * 32)}
    context = stages.StageContext(
        name="pairs",
        out=str(out),
        inputs=inputs,
        engines=None,
        fingerprint="",
        code_version="",
        run=None,  # type: ignore[arg-type]
    )
    checked = IngestSettings.model_validate(settings)
    assert not ingest.STAGE.validate(checked)
    return ingest.run(context, checked)
