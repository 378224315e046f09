"""Replicas that give rewards instead of text: a response in, a number out.

    RewardReplica        vLLM's pooling engine around a sequence classifier with one label
    TransformersReplica  Transformers, for what vLLM cannot load, and for a causal LM with a reward
                         head of ours and no classifier beside it

Both have the methods of `replica.Replica`, so pools, clients and passes are the same. A reward is
read at the last token of the rendered conversation (the response's end of turn), never at padding,
and is the head's own value: no sigmoid, no scaling.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from rayonale.generate.replica import Replica
from rayonale.generate.settings import Completion, EngineOptions, Request, Runner, Sampling, Weights

log = logging.getLogger("rayonale")


def source_of(path: str) -> tuple[str, bool]:
    """What of a model's folder gives rewards, and whether vLLM can be asked to load it.

    Raises:
        ValueError: nothing in it does.
    """
    folder = Path(path)
    if not folder.is_dir():
        return path, True  # a hub name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = [str(name) for name in config.get("architectures") or []]
    if any(name.endswith("ForSequenceClassification") for name in names):
        return path, True
    if (folder / "classifier" / "config.json").is_file():
        return str(folder / "classifier"), True
    if (folder / "reward_head").is_dir():
        return path, False
    raise ValueError(
        f"{path}: found {', '.join(names) or 'no architecture'} without a reward head; expected a "
        "sequence classifier with one label, or a model trained with bradley_terry"
    )


def encoded(tokenizer: Any, requests: list[Request], limit: int) -> list[list[int] | Completion]:
    """Tokens of each conversation with its response, or why it gets no reward."""
    from rayonale.data import tokens

    found: list[list[int] | Completion] = []
    for request in requests:
        if request.encoded is not None:
            ids = list(request.encoded)
        else:
            assert request.response is not None
            said = [{"role": "assistant", "content": request.response}]
            try:
                prompt, response = tokens.encode_example(tokenizer, request.messages, said)  # type: ignore[arg-type]
            except ValueError as error:
                found.append(Completion(error="bad_prompt", detail=str(error)))
                continue
            ids = [*prompt, *response]
        told = f"prompt and response of {len(ids)} tokens exceed max_model_len = {limit}"
        over = Completion(prompt_tokens=len(ids), error="over_long", detail=told)
        found.append(ids if len(ids) <= limit else over)
    return found


class RewardReplica(Replica):
    """A pooling engine with its tokenizers."""

    runner: Runner = "pooling"

    def generate(
        self,
        weights: Weights,
        requests: list[Request],
        sampling: Sampling,
        json_schema: dict[str, Any] | None = None,
        logprobs: bool = False,
    ) -> list[Completion]:
        """A reward for each request; `sampling` and what follows have no meaning here.

        Raises:
            EngineFailed: the engine broke and the process has to be replaced.
        """
        from vllm import PoolingParams

        found = encoded(self._tokenizer(weights), requests, self._options.max_model_len)
        wanted = [each for each in found if isinstance(each, list)]
        params = PoolingParams(task="classify", use_activation=False)
        outputs = iter(self._engine.generate(weights, [(ids, params) for ids in wanted]))
        return [
            self._reward(len(each), next(outputs), request.label)
            if isinstance(each, list)
            else each
            for each, request in zip(found, requests, strict=True)
        ]

    @staticmethod
    def _reward(count: int, output: Any, label: int | None) -> Completion:
        if isinstance(output, Exception):
            return Completion(prompt_tokens=count, error="refused", detail=str(output))
        values = output.outputs.data.flatten().tolist()
        return of_label(count, values, label)


def of_label(count: int, values: list[float], label: int | None) -> Completion:
    """A classifier's values as a reward.

    Raises:
        ValueError: it has several labels, and which of them is the reward is unknown; or it has
            not the one that is asked for.
    """
    if label is None and len(values) != 1:
        raise ValueError(
            f"the reward model gives {len(values)} labels; expected one (num_labels: 1), or the "
            "oracle's `label`"
        )
    if label is not None and label >= len(values):
        raise ValueError(f"label: found {label}, but the reward model gives {len(values)}")
    return Completion(prompt_tokens=count, reward=float(values[label or 0]))


class TransformersReplica:
    """A reward model in Transformers; one forward pass at a time, batched by length."""

    def __init__(self, weights: Weights, options: EngineOptions) -> None:
        import torch

        self._options = options
        self._lock = threading.Lock()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._loaded = weights
        self._load()

    def ready(self) -> int:
        """Process id, once the model is loaded."""
        return os.getpid()

    def _load(self) -> None:
        from rayonale.data import tokens
        from rayonale.generate import classifiers

        self._tokenizer = tokens.load_tokenizer(self._loaded.path, self._options.chat_template)
        wanted = self._options.dtype
        if wanted == "auto":
            wanted = "float32" if self._device.type == "cpu" else "bfloat16"
        self._model = classifiers.load(self._loaded.path, wanted).to(self._device).eval()

    def generate(
        self,
        weights: Weights,
        requests: list[Request],
        sampling: Sampling,
        json_schema: dict[str, Any] | None = None,
        logprobs: bool = False,
    ) -> list[Completion]:
        """A reward for each request; `sampling` and what follows have no meaning here."""
        from rayonale.generate import classifiers

        with self._lock:
            if weights != self._loaded:
                self._loaded = weights
                self._load()
            found = encoded(self._tokenizer, requests, self._options.max_model_len)
            places = [i for i, each in enumerate(found) if isinstance(each, list)]
            tokens: list[list[int]] = [each for each in found if isinstance(each, list)]
            rewards = classifiers.scored(
                self._model, tokens, self._device, self._options.max_num_seqs
            )
        for place, ids, reward in zip(places, tokens, rewards, strict=True):
            found[place] = of_label(len(ids), reward, requests[place].label)
        return [each for each in found if isinstance(each, Completion)]
