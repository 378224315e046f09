"""Real pretrained weights in Transformers: what they write and how likely they find a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayonale import llama2c


@pytest.fixture(scope="module")
def converted(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = shared_data / "tiny_lm"
    folder = tmp_path_factory.mktemp("tiny_lm")
    llama2c.convert(source / "babyllama_tok105_model5000.bin", source / "tok105.json", folder)
    return folder


@pytest.fixture(scope="module")
def loaded(converted: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float64).eval()
    return model, AutoTokenizer.from_pretrained(converted)


@pytest.fixture(scope="module")
def expected(shared_data: Path) -> Any:
    return json.loads((shared_data / "tiny_lm" / "expected.json").read_text())


def greedy(model: Any, ids: list[int], tokens: int) -> list[int]:
    with torch.no_grad():
        found = model.generate(
            torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
    return list(found[0].tolist())


def test_it_writes_what_was_expected(loaded: tuple[Any, Any], expected: Any) -> None:
    model, tokenizer = loaded
    told = expected["greedy_from_bos_200"]
    ids = greedy(model, [tokenizer.bos_token_id], len(told["ids"]) - 1)
    assert ids == told["ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == told["text"]
    told = expected["greedy_prompt"]
    prompt = tokenizer(told["prompt"])["input_ids"]
    assert prompt[0] == 1 and len(prompt) == len(told["prompt"]) + 2
    ids = greedy(model, prompt, 1 + len(told["text"]) - len(prompt))
    assert tokenizer.decode(ids, skip_special_tokens=True) == told["text"]


def test_texts_are_as_likely_as_expected(loaded: tuple[Any, Any], expected: Any) -> None:
    model, tokenizer = loaded
    for told in expected["nll_per_char"]:
        ids = torch.tensor([tokenizer(told["text"])["input_ids"]])
        assert ids.shape[1] == told["n"] + 1
        with torch.no_grad():
            nll = model(ids, labels=ids).loss.item()
        assert nll == pytest.approx(told["nll"], abs=1e-6)


def test_the_tokenizer_round_trips_and_knows_what_it_does_not(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    ids = tokenizer("A cat  sat.")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == " A cat  sat."
    assert tokenizer("日")["input_ids"] == [1, 3, 0]
    assert tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    ) == "<s>Hi"  # fmt: skip


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cut.bin"
    np.array([8, 16, 1, 2, 2, 11, 4], dtype="<i4").tofile(file)
    with pytest.raises(ValueError, match=r"28 bytes; expected \d+ for .*'dim': 8"):
        llama2c.read_header(file)
    file.write_bytes(b"1234")
    with pytest.raises(ValueError, match="1 header numbers; expected 7"):
        llama2c.read_header(file)


def test_heads_are_put_from_pairs_into_halves() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]
    turned = llama2c._halves(rows, heads=2)
    assert turned[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
