"""What travels between the endpoint and the engines' deployments."""

from __future__ import annotations

from dataclasses import dataclass

from rayonale.records import Message
from rayonale.serve.served_model import ServedModel


@dataclass(frozen=True)
class Ask:
    """Completions to draw.

    Attributes:
        prompt: a conversation, or text that is gone on with as it is.
        n: samples.
        max_tokens: of each sample; None is what the model's context leaves.
        seed: of the first sample; each next one's is one more.
        stop: texts that end a sample (they are not part of it).
        logprobs: most likely tokens to tell in the place of each one; None tells nothing.
        ignore_eos: go on after the end of the turn.
        goal: of a goal-conditioned policy.
        adapter: name of a LoRA adapter on the weights.
    """

    prompt: list[Message] | str
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    goal: float | dict[str, float] | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A drawn token: its text, its log-probability in nats, and the most likely ones'."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What came of a sample: all of it, or the next part in a stream.

    Attributes:
        index: of the sample.
        tokens: drawn, end-of-turn token included.
        finish_reason: `stop` | `length`; None while it goes on.
    """

    index: int
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: str | None = None


@dataclass(frozen=True)
class Begun:
    """A request that was taken: by which model, and how long its prompt is in tokens."""

    model: ServedModel
    prompt_tokens: int


@dataclass(frozen=True)
class Answer:
    """A finished request."""

    begun: Begun
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Refused:
    """A request that the model cannot answer; see `errors.ApiError`."""

    status: int
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class Relayed:
    """A stream's end, where its pieces went another way (`relay.py`).

    Attributes:
        lines: in so many; None when the way broke.
    """

    lines: int | None


@dataclass(frozen=True)
class Scored:
    """Rewards of conversations, in their order."""

    model: ServedModel
    rewards: tuple[float, ...]
    tokens: int


@dataclass(frozen=True)
class About:
    """A deployment's model and limits.

    Attributes:
        held_back: why a newer version of the alias is not served; None when nothing is.
    """

    model: ServedModel
    max_model_len: int
    goals: dict[str, tuple[float, float]] | None = None
    held_back: str | None = None
