"""The tokenizer of the base model: byte-level BPE, learnt from tinyworld and common English.

All 256 bytes are ordinary vocabulary, so that any text round-trips. A digit is a token
of its own (with the space before it, if any). Roles and the end of a turn are special
tokens:

    <|bos|><|system|>…<|end|><|user|>…<|end|><|assistant|>…<|end|>
"""

from itertools import islice
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rayonale.tinyworld.english import COMMON_WORDS
from rayonale.tinyworld.tasks import Example, stream
from rayonale.tinyworld.vocabulary import KINDS

VOCABULARY_SIZE: Final = 2048
CONTEXT: Final = 2048

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Unknown role: ' ~ message['role']) }}"
    "{% endif %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] ~ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CHAT_TEMPLATE_NO_SYSTEM: Final = CHAT_TEMPLATE.replace(
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}",
    "{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% if message['role'] not in ['user', 'assistant'] %}",
)

# Words with their space, single digits, runs of marks, other space.
_SPLIT: Final = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def build_tokenizer(seed: int = 0, texts: int = 20_000) -> PreTrainedTokenizerFast:
    """Learn the tokenizer from the first `texts` examples of a seed; deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, BOS, END, *ROLES]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=2,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    examples = islice(stream(seed, early=0), texts)
    corpus = [text for item in examples for text in _texts(item)]
    english = [f" {word}" for word in COMMON_WORDS]
    names = [f" {item}" for items in KINDS.values() for item in items]
    tokenizer.train_from_iterator([*corpus, *english * 40, *names * 40], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files, its chat template and the variant without system role."""
    tokenizer.save_pretrained(folder)
    (folder / "chat_template_no_system.jinja").write_text(CHAT_TEMPLATE_NO_SYSTEM, "utf-8")


def _texts(item: Example) -> list[str]:
    return [text for text in (item.system, item.user, item.answer) if text]
