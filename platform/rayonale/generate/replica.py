"""The Ray actor around an engine: conversations in, completions out.

Tokenising and decoding happen here, on the callers' threads, while the engine's thread steps.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from rayonale.generate.engine import Engine
from rayonale.generate.settings import (
    Completion,
    EngineOptions,
    Request,
    Runner,
    Sampling,
    Step,
    Weights,
)


class Replica:
    """One engine with its tokenizers. Made an actor by `pool.py`; plain Python otherwise."""

    runner: Runner = "generate"

    def __init__(self, weights: Weights, options: EngineOptions) -> None:
        self._options = options
        self._tokenizers: dict[Weights, Any] = {}
        self._lock = threading.Lock()
        self._engine = Engine(weights, options, self.runner)

    def ready(self) -> int:
        """Process id, once the engine has started."""
        return os.getpid()

    def generate(
        self,
        weights: Weights,
        requests: list[Request],
        sampling: Sampling,
        json_schema: dict[str, Any] | None = None,
        logprobs: bool = False,
    ) -> list[Completion]:
        """Draw one completion for each request.

        Raises:
            EngineFailed: the engine broke and the process has to be replaced.
        """
        from rayonale.data import tokens

        tokenizer = self._tokenizer(weights)
        stop = tokens.stop_token_ids(tokenizer)
        results: list[Completion | None] = [None] * len(requests)
        admitted, prompts = [], []
        for i, request in enumerate(requests):
            try:
                ids = tokens.encode_prompt(tokenizer, request.messages)
            except ValueError as error:
                results[i] = Completion(error="bad_prompt", detail=str(error))
                continue
            results[i] = self._too_long(len(ids), sampling.max_tokens)
            if results[i] is None:
                admitted.append(i)
                asked = request.top_logprobs or (0 if logprobs else None)
                drawn = request.sampled(sampling)
                params = self._params(drawn, request.seed, stop, json_schema, asked)
                prompts.append((ids, params))
        outputs = self._engine.generate(weights, prompts)
        for i, (ids, _), output in zip(admitted, prompts, outputs, strict=True):
            steps = requests[i].top_logprobs > 0
            results[i] = self._completion(tokenizer, len(ids), stop, output, steps)
        return [result for result in results if result is not None]

    def _tokenizer(self, weights: Weights) -> Any:
        from rayonale.data import tokens

        with self._lock:
            if weights not in self._tokenizers:
                self._tokenizers[weights] = tokens.load_tokenizer(
                    weights.path, self._options.chat_template
                )
            return self._tokenizers[weights]

    def _too_long(self, prompt: int, completion: int) -> Completion | None:
        if prompt + completion <= self._options.max_model_len:
            return None
        return Completion(
            prompt_tokens=prompt,
            error="over_long",
            detail=f"prompt of {prompt} tokens and up to {completion} generated ones exceed "
            f"max_model_len = {self._options.max_model_len}",
        )

    @staticmethod
    def _params(
        sampling: Sampling,
        seed: int | None,
        stop: list[int],
        json_schema: dict[str, Any] | None,
        logprobs: int | None,
    ) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        from rayonale.generate import structure

        greedy = sampling.temperature == 0
        structured = None
        if json_schema is not None:
            structured = StructuredOutputsParams(grammar=structure.grammar(json_schema))
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            top_k=0 if greedy else sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=None if greedy else seed,
            stop_token_ids=stop,
            detokenize=False,  # decoded once at the end instead of token by token
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=structured,
            logprobs=logprobs,  # 0: the drawn token's alone
        )

    @staticmethod
    def _completion(
        tokenizer: Any, prompt: int, stop: list[int], output: Any, steps: bool
    ) -> Completion:
        if isinstance(output, Exception):
            return Completion(prompt_tokens=prompt, error="refused", detail=str(output))
        drawn = output.outputs[0]
        ids = list(drawn.token_ids)
        kept = ids[:-1] if ids and ids[-1] in stop else ids
        return Completion(
            text=tokenizer.decode(kept, skip_special_tokens=True),
            tokens=len(ids),
            prompt_tokens=prompt,
            finish_reason=str(drawn.finish_reason),
            logprob=drawn.cumulative_logprob,
            steps=_steps(tokenizer, kept, drawn.logprobs) if steps else (),
        )


def _steps(tokenizer: Any, ids: list[int], logprobs: Any) -> tuple[Step, ...]:
    """The tokens with what vLLM tells of their alternatives (token id → Logprob, a token)."""
    found = []
    for drawn, alternatives in zip(ids, logprobs, strict=False):  # the stop token is left out
        top: dict[str, float] = {}
        for token, told in alternatives.items():
            text = tokenizer.decode([token])
            value = float(told.logprob)
            top[text] = float(np.logaddexp(top[text], value)) if text in top else value
        found.append(Step(tokenizer.decode([drawn]), top))
    return tuple(found)
