"""From a request to vLLM's sampling parameters, and from its outputs to text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayonale.serve.messages import Ask, Piece, TokenLogprob

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # a character of which not all bytes are there yet


def params(ask: Ask, index: int, stop: list[int], room: int, every: int = 0) -> Any:
    """vLLM's SamplingParams of one sample.

    Args:
        index: of the sample; it is added to the seed.
        stop: token ids that end a turn.
        room: tokens that the model's context leaves.
        every: outputs are told as they come, each token once: the first at once, then so many at
            a time; 0 tells all at the end.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    greedy = ask.temperature == 0
    return SamplingParams(
        temperature=ask.temperature,
        top_p=1.0 if greedy else ask.top_p,
        top_k=0 if greedy else ask.top_k,
        max_tokens=min(ask.max_tokens or room, room),
        seed=None if greedy or ask.seed is None else ask.seed + index,
        stop=list(ask.stop) or None,
        stop_token_ids=None if ask.ignore_eos else stop,
        ignore_eos=ask.ignore_eos,
        repetition_penalty=ask.repetition_penalty,
        presence_penalty=ask.presence_penalty,
        frequency_penalty=ask.frequency_penalty,
        logprobs=ask.logprobs,
        detokenize=bool(ask.stop),  # else text is decoded once a flush instead of once a token
        output_kind=RequestOutputKind.DELTA if every else RequestOutputKind.FINAL_ONLY,
        stream_interval=every or None,
    )


def adapter_folder(path: str, registry: str | None) -> str:
    """Folder of a LoRA adapter.

    Raises:
        ValueError: there is none.
    """
    from rayonale.serve import served_model

    found = path
    if path.startswith("models:/"):
        found = served_model.resolve(path, registry).path
    for folder in (Path(found).expanduser(), Path(found).expanduser() / "adapter"):
        if (folder / "adapter_config.json").is_file():
            return str(folder.resolve())
    raise ValueError(f"adapter {path!r}: no adapter_config.json in {found} or in its adapter/")


def lora_request(name: str, number: int, folder: str) -> Any:
    """vLLM's LoRARequest."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(name, number, folder)


class Part:
    """One sample as it grows.

    Attributes:
        told: whether its end was flushed.
    """

    def __init__(self, tokenizer: Any, stop: list[int], ask: Ask, index: int) -> None:
        self._tokenizer, self._stop, self._ask, self._index = tokenizer, stop, ask, index
        self._ids: list[int] = []
        self._sent = ""
        self._text = ""  # by vLLM, where texts stop it
        self._new_tokens = 0
        self._logprobs: list[TokenLogprob] = []
        self._finish: str | None = None
        self.told = False

    def take(self, output: Any) -> None:
        """Add what the engine drew.

        Raises:
            Exception: with which the engine refused the request.
        """
        if isinstance(output, Exception):
            self._finish = "error"
            return
        drawn = output.outputs[0]
        ids = list(drawn.token_ids)
        self._new_tokens += len(ids)
        if self._ask.logprobs is not None and drawn.logprobs:
            kept = [i for i in ids if i not in self._stop]
            self._logprobs += self._told_logprobs(kept, drawn.logprobs)
        self._ids += [i for i in ids if i not in self._stop]
        if self._ask.stop:
            self._text += drawn.text
        if output.finished:
            self._finish = "length" if drawn.finish_reason == "length" else "stop"

    @property
    def news(self) -> bool:
        """Whether there is something to flush."""
        return not self.told and bool(self._new_tokens or self._finish)

    def flush(self) -> Piece:
        """What came since the last flush."""
        text = self._text if self._ask.stop else self._decoded()
        if self._finish is None:
            text = text.rstrip(_UNFINISHED)
        new = text[len(self._sent) :] if text.startswith(self._sent) else ""
        self._sent += new
        logprobs = tuple(self._logprobs) if self._ask.logprobs is not None else None
        piece = Piece(self._index, new, self._new_tokens, logprobs, self._finish)
        self._new_tokens, self._logprobs = 0, []
        self.told = self._finish is not None
        return piece

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))

    def _told_logprobs(self, ids: list[int], logprobs: Any) -> list[TokenLogprob]:
        """vLLM's alternatives (token id → Logprob, a token); the stop token is left out."""
        found = []
        for drawn, alternatives in zip(ids, logprobs, strict=False):
            ordered = sorted(alternatives.items(), key=lambda item: item[1].rank)
            top = tuple(
                (self._tokenizer.decode([token]), float(told.logprob))
                for token, told in ordered[: self._ask.logprobs]
            )
            own = float(alternatives[drawn].logprob)
            found.append(TokenLogprob(self._tokenizer.decode([drawn]), own, top))
        return found
