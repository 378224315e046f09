"""The deployment of a reward model: conversations in, rewards out.

The same replicas as offline scoring (`generate/rewards.py`), so a reward is the same here and
there. What comes while a batch is scored makes up the next batch, across requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rayonale.data import tokens
from rayonale.generate.engine import EngineFailed
from rayonale.generate.rewards import RewardReplica, TransformersReplica, source_of
from rayonale.generate.settings import Completion, Request, Sampling, Weights
from rayonale.serve import served_model
from rayonale.serve.batching import Batcher
from rayonale.serve.following import Followed
from rayonale.serve.messages import About, Refused, Scored
from rayonale.serve.served_model import ServedModel
from rayonale.serve.settings import ServedOracle

log = logging.getLogger("rayonale")

# Batches at a time: vLLM tokenises one while it scores another, Transformers works on one.
_AT_ONCE = {"vllm": 2, "transformers": 1}
_BATCH = 512  # conversations


class OracleReplica:
    """One replica of a reward model.

    Args:
        settings: of the oracle.
        registry: MLflow's tracking URI.

    Raises:
        ValueError: the model cannot be found, or gives no rewards.
    """

    def __init__(self, settings: ServedOracle, registry: str | None) -> None:
        self._settings = settings
        model = served_model.resolve(settings.model, registry)
        self._scorer, kind = self._open(model)
        self._threads = ThreadPoolExecutor(_AT_ONCE[kind])
        self._batcher: Batcher[tuple[Weights, Request], Completion] = Batcher(
            self._score_batch, _BATCH, _AT_ONCE[kind]
        )
        self._tokenizers: dict[str, Any] = {}
        self._prepare(model)
        self._followed = Followed(settings, registry, model, self._prepare, lambda _: None)

    def _open(self, model: ServedModel) -> tuple[Any, str]:
        source, vllm = source_of(model.path)
        weights, wanted = Weights(source, model.fingerprint), self._settings.backend
        if not self._settings.pickled_weights:
            served_model.require_safetensors(source)
        if wanted == "vllm" and not vllm:
            raise ValueError(f"{model.path}: vLLM cannot load it; expected backend: transformers")
        if wanted != "transformers" and vllm:
            try:
                return RewardReplica(weights, self._settings.engine), "vllm"
            except Exception as error:
                if wanted == "vllm" or "not supported" not in str(error):
                    raise
                log.warning("vLLM does not know %s; Transformers takes its place", source)
        return TransformersReplica(weights, self._settings.engine), "transformers"

    def _prepare(self, model: ServedModel) -> None:
        source, vllm = source_of(model.path)
        if isinstance(self._scorer, RewardReplica) and not vllm:
            raise ValueError(f"{model.path}: vLLM, which serves this oracle, cannot load it")
        template = self._settings.engine.chat_template
        self._tokenizers[model.fingerprint] = tokens.load_tokenizer(source, template)

    def check_health(self) -> None:
        """Ray Serve's question."""

    async def about(self) -> About:
        """What is served."""
        length = self._settings.engine.max_model_len
        return About(self._followed.now, length, None, self._followed.held_back)

    async def process(self) -> int:
        """Id of this process."""
        return os.getpid()

    async def batches(self) -> int:
        """Batches scored so far; fewer than requests when requests share them."""
        return self._batcher.batches

    async def score(self, conversations: list[list[dict[str, str]]]) -> Scored | Refused:
        """Rewards of conversations that end with an assistant's message each."""
        return await self._scored(
            [Request(said[:-1], response=said[-1]["content"]) for said in conversations]  # type: ignore[arg-type]
        )

    async def score_rendered(self, texts: list[str]) -> Scored | Refused:
        """Rewards of conversations that the caller rendered; control strings are control tokens."""
        tokenizer = self._tokenizers[self._followed.now.fingerprint]
        encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        if not all(encoded):
            return Refused(400, "invalid_value", "an empty text has no reward", "input")
        return await self._scored([Request([], encoded=tuple(ids)) for ids in encoded])

    async def _scored(self, requests: list[Request]) -> Scored | Refused:
        model = self._followed.now
        weights = Weights(source_of(model.path)[0], model.fingerprint)
        found = await self._batcher([(weights, request) for request in requests])
        for place, completion in enumerate(found):
            if completion.error:
                code = "context_length_exceeded" if completion.error == "over_long" else "invalid"
                told = completion.detail if completion.error == "over_long" else completion.error
                return Refused(400, code, f"conversation {place}: {told}", "conversations")
        rewards = tuple(each.reward for each in found if each.reward is not None)
        assert len(rewards) == len(requests)
        return Scored(model, rewards, sum(each.prompt_tokens for each in found))

    async def _score_batch(self, batch: list[tuple[Weights, Request]]) -> list[Completion]:
        """A batch, with one call for each version in it (two while an alias moves)."""
        results: list[Completion | None] = [None] * len(batch)
        loop = asyncio.get_running_loop()
        for weights in dict.fromkeys(weights for weights, _ in batch):
            places = [i for i, (own, _) in enumerate(batch) if own == weights]
            requests = [batch[i][1] for i in places]
            try:
                found = await loop.run_in_executor(
                    self._threads, self._scorer.generate, weights, requests, Sampling()
                )
            except EngineFailed as error:
                log.error("engine failed, this replica ends: %s", error)
                os._exit(1)
            for place, completion in zip(places, found, strict=True):
                results[place] = completion
        return [each for each in results if each is not None]
