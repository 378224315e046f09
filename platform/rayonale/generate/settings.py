"""What a user chooses about generation, and what travels between client and engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from rayonale.records import Message

# What an engine does: write text, read rewards with vLLM, or read them with Transformers.
Runner = Literal["generate", "pooling", "transformers"]


class EngineOptions(BaseModel):
    """How engines run; everything but the model.

    Attributes:
        replicas: engines side by side, each with the whole model.
        tensor_parallel_size: devices that one replica is spread over.
        dtype: `auto` is float32 on CPU (as fast as bf16 there, and sampled text does not depend
            on the batch) and the checkpoint's own on GPU.
        max_model_len: longest prompt + completion, in tokens.
        max_num_seqs: sequences that one replica decodes together.
        max_num_batched_tokens: tokens in one step (default: vLLM's; on CPU at least
            `max_model_len`, because a prompt is not split there).
        kv_cache_gib: size of the KV cache in GiB; on GPU the default is what
            `gpu_memory_utilization` leaves, on CPU it is 1.
        gpu_memory_utilization: share of a GPU's memory to use (GPU only).
        enforce_eager: no graph compilation; `auto` is true on CPU, false on GPU.
        prefix_caching: share the KV cache of equal prompt beginnings; `auto` is true on GPU and for
            rewards, where the responses of a row share their prompt. For text on CPU it is off, so
            that a row's text cannot depend on what ran before it.
        chat_template: replaces the model's own (see `rayonale.data.tokens.load_tokenizer`).
        threads: CPU threads of a replica (default: the machine's cores shared among replicas).
        max_restarts: times that one replica is started again after dying.
        start_timeout_s: seconds that a replica may take to start, waiting for resources included.
        call_timeout_s: seconds that one batch may take before the engine is called hung.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    replicas: int = Field(default=1, ge=1)
    tensor_parallel_size: int = Field(default=1, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int = Field(default=2_048, ge=16)
    max_num_seqs: int = Field(default=256, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, ge=16)
    kv_cache_gib: float | None = Field(default=None, gt=0)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    enforce_eager: bool | Literal["auto"] = "auto"
    prefix_caching: bool | Literal["auto"] = "auto"
    chat_template: str | None = None
    threads: int | None = Field(default=None, ge=1)
    max_restarts: int = Field(default=6, ge=0)
    start_timeout_s: float = Field(default=600, gt=0)
    call_timeout_s: float = Field(default=3_600, gt=0)


class Sampling(BaseModel):
    """How text is drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: mass of the nucleus that is sampled from.
        top_k: tokens sampled from; 0 is all.
        max_tokens: longest completion, in tokens, end-of-turn token included.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=256, ge=1)


@dataclass(frozen=True)
class Weights:
    """A model to generate with: its folder (or hub name) and its content's fingerprint."""

    path: str
    fingerprint: str


@dataclass(frozen=True)
class Request:
    """One completion to draw, or one response to give a reward.

    Attributes:
        messages: the conversation up to the assistant's turn.
        response: what the assistant said, for engines that give rewards.
        label: which of a reward model's labels is the reward; None: it has only one.
        encoded: tokens of the whole conversation, in the place of both, for engines that give
            rewards.
        seed: of this completion alone; None only where sampling is greedy.
        top_logprobs: most likely tokens to tell in the place of each generated one; 0 tells none.
        temperature: of this completion, in the place of the pass's.
    """

    messages: list[Message]
    seed: int | None = None
    top_logprobs: int = 0
    temperature: float | None = None
    response: str | None = None
    label: int | None = None
    encoded: tuple[int, ...] | None = None

    def sampled(self, sampling: Sampling) -> Sampling:
        """How this completion is drawn in a pass of that sampling."""
        if self.temperature is None:
            return sampling
        return sampling.model_copy(update={"temperature": self.temperature})


@dataclass(frozen=True)
class Step:
    """A generated token and what the model might have written instead.

    Attributes:
        text: of the token alone.
        top: text → log-probability in nats of the most likely tokens and of the drawn one, before
            temperature; tokens of equal text add up.
    """

    text: str
    top: dict[str, float]


@dataclass(frozen=True)
class Completion:
    """What came of a request.

    Attributes:
        text: without the end-of-turn token.
        tokens: generated, end-of-turn token included.
        prompt_tokens: tokens of the rendered conversation.
        finish_reason: `stop` | `length`.
        logprob: sum of the drawn tokens' log-probabilities in nats, when asked for.
        steps: its tokens with their alternatives, when asked for (`Request.top_logprobs`).
        reward: of the request's response, from engines that give rewards.
        error: reason code when there is no completion: `over_long` (a limit), `bad_prompt`
            (the chat template refused it), `refused` (the engine refused it), `engine_killed`.
        detail: what was found and what was expected, when `error` is set.
    """

    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str = ""
    logprob: float | None = None
    steps: tuple[Step, ...] = ()
    reward: float | None = None
    error: str | None = None
    detail: str = ""


def row_seed(seed: int, row_id: str, sample: int) -> int:
    """Seed of one sample of one row, in 0 … 2**53 − 1: the same in any batch and any order."""
    return xxhash.xxh3_64_intdigest(f"{seed}:{row_id}:{sample}".encode()) & ((1 << 53) - 1)
