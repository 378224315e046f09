"""Requests as clients send them: OpenAI's fields, and ours beside them.

Types are strict and unknown fields are refused: a field that would have no effect is an error, and
none of them reaches an engine unchecked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rayonale.records import Message
from rayonale.serve.messages import Ask

_Text = Annotated[str, Field(max_length=1_000_000)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class TextPart(_Strict):
    """A part of a message; only text."""

    type: Literal["text"]
    text: _Text


class ChatMessage(_Strict):
    """One turn. `developer` is OpenAI's newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | list[TextPart]
    name: _Name | None = None

    def message(self) -> Message:
        """As the platform's records have it."""
        role = "system" if self.role == "developer" else self.role
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return Message(role=role, content=text)

    @model_validator(mode="after")
    def _no_name(self) -> ChatMessage:
        if self.name is not None:
            raise ValueError("name: the served templates have no names; leave it out")
        return self


class StreamOptions(_Strict):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class _Drawn(_Strict):
    """What chat and completions share.

    Attributes:
        best_of: samples drawn, of which the `n` with the highest rewards are returned.
        goal: of a goal-conditioned policy: a number, or one for each attribute.
        top_k: tokens sampled from; 0 is all.
        repetition_penalty, ignore_eos: vLLM's; the latter draws `max_tokens` tokens in any case.
        user: whose request it is; a policy with a challenger always sends one user the same way.
    """

    model: _Name
    n: int = Field(default=1, ge=1)
    best_of: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=1_000_000)
    seed: int | None = Field(default=None, ge=0, lt=2**53)
    stop: (
        Annotated[str, Field(min_length=1, max_length=200)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=4)]
        | None
    ) = None
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, gt=0, le=2)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: _Name | None = None

    @model_validator(mode="after")
    def _together(self) -> _Drawn:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream: true")
        if self.best_of is not None:
            if self.stream:
                raise ValueError("best_of: the best is known at the end only; stream must be false")
            if self.best_of < self.n:
                raise ValueError(f"best_of: {self.best_of} is less than n = {self.n}")
        return self

    @property
    def samples(self) -> int:
        """Samples to draw."""
        return self.best_of or self.n

    def _ask(self, **more: Any) -> Ask:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Ask(
            n=self.samples,
            temperature=float(self.temperature),
            top_p=float(self.top_p),
            top_k=self.top_k,
            seed=self.seed,
            stop=stop,
            presence_penalty=float(self.presence_penalty),
            frequency_penalty=float(self.frequency_penalty),
            repetition_penalty=float(self.repetition_penalty),
            ignore_eos=self.ignore_eos,
            **more,
        )


class ChatRequest(_Drawn):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1_000)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    goal: float | dict[Annotated[str, Field(max_length=100)], float] | None = None

    @model_validator(mode="after")
    def _chat_fields(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs: true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens exclude each other")
        if self.messages[-1].role == "assistant":
            raise ValueError("messages: the last one is the assistant's; nothing is to be answered")
        return self

    def ask(self, adapter: str | None) -> Ask:
        """For the engine's deployment."""
        return self._ask(
            prompt=[message.message() for message in self.messages],
            max_tokens=self.max_tokens or self.max_completion_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            goal=self.goal,
            adapter=adapter,
        )


class CompletionRequest(_Drawn):
    """`POST /v1/completions`: text that is gone on with, without a chat template."""

    prompt: Annotated[str, Field(min_length=1, max_length=1_000_000)]
    max_tokens: int = Field(default=16, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: Literal[False] = False

    def ask(self, adapter: str | None) -> Ask:
        """For the engine's deployment."""
        return self._ask(
            prompt=self.prompt,
            max_tokens=self.max_tokens,
            logprobs=self.logprobs,
            adapter=adapter,
        )


Conversation = Annotated[list[ChatMessage], Field(min_length=2, max_length=1_000)]


class RewardRequest(_Strict):
    """`POST /v1/rewards`: one conversation (`messages`) or several, each ending with an answer."""

    model: _Name | None = None
    messages: Conversation | None = None
    conversations: Annotated[list[Conversation], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> RewardRequest:
        if (self.messages is None) == (self.conversations is None):
            raise ValueError("expected either messages or conversations")
        for place, said in enumerate(self.all()):
            if said[-1].role != "assistant":
                raise ValueError(
                    f"conversation {place}: expected an assistant's message at its end"
                )
        return self

    def all(self) -> list[list[ChatMessage]]:
        """Every conversation."""
        return [self.messages] if self.messages is not None else list(self.conversations or [])


class Rubric(_Strict):
    """What is judged, and what each score means."""

    criteria: _Text
    scores: dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,2})$")], _Text] = Field(
        min_length=2, max_length=100
    )


class JudgeRequest(_Strict):
    """`POST /v1/judge`: one response is scored, two are compared.

    Attributes:
        responses: to the conversation in `messages`.
        rubric: text, or criteria and described scores.
        orders: of two responses: compared in `both` orders, in one (`ab`), or each scored by
            itself (`apart`).
        n: judgements in each order.
        temperature: 0 takes the judge's most likely words.
    """

    model: _Name
    messages: list[ChatMessage] = Field(min_length=1, max_length=1_000)
    responses: list[_Text] = Field(min_length=1, max_length=2)
    rubric: _Text | Rubric | None = None
    reference: _Text | None = None
    orders: Literal["both", "ab", "apart"] = "both"
    n: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**53)
    user: _Name | None = None

    @model_validator(mode="after")
    def _fields_count(self) -> JudgeRequest:
        if len(self.responses) == 1 and self.orders != "both":
            raise ValueError(f"orders: {self.orders} has no effect on one response")
        if self.temperature == 0 and self.n > 1:
            raise ValueError("n: at temperature 0 all judgements are the same; raise it or leave n")
        if self.messages[-1].role == "assistant":
            raise ValueError("messages: the last one is the assistant's; nothing is answered")
        return self


class ScoreRequest(_Strict):
    """`POST /v1/score`, vLLM's: the prompt as `text_1`, responses as `text_2`."""

    model: _Name | None = None
    text_1: _Text | Annotated[list[_Text], Field(min_length=1)]
    text_2: _Text | Annotated[list[_Text], Field(min_length=1)]

    def pairs(self) -> list[tuple[str, str]]:
        """Prompt and response of each score.

        Raises:
            ValueError: neither is one text, and their numbers differ.
        """
        first = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        second = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        if len(first) == 1:
            first = first * len(second)
        if len(first) != len(second):
            raise ValueError(f"text_1 has {len(first)} texts and text_2 {len(second)}")
        return list(zip(first, second, strict=True))


class PoolingRequest(_Strict):
    """`POST /pooling` and `/classify`, vLLM's: `messages`, or rendered text as `input`."""

    model: _Name | None = None
    messages: Conversation | None = None
    input: _Text | Annotated[list[_Text], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> PoolingRequest:
        if (self.messages is None) == (self.input is None):
            raise ValueError("expected either messages or input")
        return self


class RemoteRewardRequest(BaseModel):
    """`POST /get_reward`, OpenRLHF's: whole conversations as rendered text."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    query: Annotated[list[_Text], Field(min_length=1)]
    prompts: list[Any] | None = None
    labels: list[Any] | None = None


class Candidate(_Strict):
    """One of two answers on the page."""

    content: _Text
    model: _Name
    version: _Name | None = None
    reward: float | None = None


class PickRequest(_Strict):
    """`POST /v1/preferences`: which of two answers is better."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1_000)
    chosen: Candidate
    rejected: Candidate

    @model_validator(mode="after")
    def _differ(self) -> PickRequest:
        if self.chosen.content == self.rejected.content:
            raise ValueError("chosen and rejected have the same text")
        if self.messages[-1].role == "assistant":
            raise ValueError("messages: the last one is the assistant's; nothing is answered")
        return self
