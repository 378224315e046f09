"""One real engine, shared: seeds, batches, weights, structured output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rayonale.data import tokens
from rayonale.generate.pool import EnginePool
from rayonale.generate.settings import EngineOptions, Request, Sampling, row_seed

SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_tokens=32)
GREEDY = Sampling(temperature=0.0, max_tokens=24)


def request(i: int) -> Request:
    text = f"Name {2 + i % 4} birds in alphabetical order in a calm tone."
    return Request([{"role": "user", "content": text}], row_seed(0, str(i), 0))


@pytest.fixture(scope="module")
def pool(engines: Any, tinyworld_model: Path) -> EnginePool:
    return engines.get(str(tinyworld_model))


@pytest.fixture(scope="module")
def other_model(tinyworld_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with other weights, also in what is tied to the LM head."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(tinyworld_model, folder)
    model = AutoModelForCausalLM.from_pretrained(tinyworld_model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(noise * weight.std(correction=0) * 0.5)
    model.save_pretrained(folder)
    return folder


def greedy_of_transformers(model: Path, request: Request) -> str:
    from transformers import AutoModelForCausalLM

    tokenizer = tokens.load_tokenizer(str(model))
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    prompt = torch.tensor([tokens.encode_prompt(tokenizer, request.messages)])
    with torch.no_grad():
        drawn = network.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=GREEDY.max_tokens,
            eos_token_id=tokens.stop_token_ids(tokenizer),
        )
    return str(tokenizer.decode(drawn[0, prompt.shape[1] :], skip_special_tokens=True))


def test_a_seeded_row_gives_the_same_text_alone_in_a_batch_and_shuffled(pool: EnginePool) -> None:
    requests = [request(i) for i in range(24)]
    together = [each.text for each in pool.generate(requests, SAMPLING)]
    backwards = [each.text for each in pool.generate(requests[::-1], SAMPLING)][::-1]
    alone = [pool.generate([requests[i]], SAMPLING)[0].text for i in (0, 7)]
    assert backwards == together
    assert alone == [together[0], together[7]]
    assert len(set(together)) > 12  # seeds differ, so texts do


def test_exchanged_weights_generate_what_transformers_does(
    pool: EnginePool, engines: Any, tinyworld_model: Path, other_model: Path
) -> None:
    asked = request(1)
    other = engines.get(str(other_model))
    assert other.replicas == pool.replicas  # the same engine
    for model, user in ((tinyworld_model, pool), (other_model, other), (tinyworld_model, pool)):
        assert user.generate([asked], GREEDY)[0].text == greedy_of_transformers(model, asked)


def test_a_prompt_that_does_not_fit_is_told_and_harms_nobody(pool: EnginePool) -> None:
    long = Request([{"role": "user", "content": "bird " * 3_000}], 1)
    refused, fine = pool.generate([long, request(0)], SAMPLING)
    assert refused.error == "over_long"
    assert "max_model_len = 2048" in refused.detail
    assert fine.error is None
    assert fine.text


def test_a_conversation_that_the_template_refuses_is_told(pool: EnginePool) -> None:
    assert pool.generate([Request([], 1)], SAMPLING)[0].error == "bad_prompt"


def test_structured_output_is_json_of_the_schema(pool: EnginePool) -> None:
    schema = {
        "type": "object",
        "properties": {
            "grade": {"type": "integer", "enum": [1, 2, 3]},
            "other": {"type": "integer", "enum": [4]},
        },
        "required": ["grade", "other"],
        "additionalProperties": False,
    }
    for each in pool.generate([request(i) for i in range(4)], SAMPLING, json_schema=schema):
        found = json.loads(each.text)
        assert found["grade"] in (1, 2, 3)
        assert each.text == json.dumps(found)  # with the blanks that models are used to


def test_log_probability_of_a_greedy_text_is_that_of_its_tokens(pool: EnginePool) -> None:
    found = pool.generate([request(2)], GREEDY, logprobs=True)[0]
    assert found.logprob is not None
    assert -GREEDY.max_tokens * 5 < found.logprob <= 0


def test_equal_settings_share_a_pool_and_others_do_not_exist_yet(
    engines: Any, pool: EnginePool, tinyworld_model: Path
) -> None:
    assert engines.get(str(tinyworld_model), EngineOptions()).replicas == pool.replicas
