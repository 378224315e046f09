"""Trains the base model of tinyworld from scratch.

    stream(seed) ─ 16 examples a step ─ sorted by length into micro-batches ─┐
                                                                             │
    cross entropy of all tokens ─── Muon (matrices) + AdamW (the rest) ─────┴─ base/

Step i always learns from examples 16·i … 16·i + 15, and its learning rate is flat until
the last 65 % of the steps. So a killed run goes on from its checkpoint exactly, and a
checkpoint from before the decay also serves a run with more or fewer steps.
"""

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rayonale.tinyworld.muon import Muon
from rayonale.tinyworld.tasks import Example, example
from rayonale.tinyworld.tokenizer import CONTEXT, build_tokenizer, save_tokenizer

log = logging.getLogger(__name__)

CHECKPOINT: Final = "training.pt"


@dataclass(frozen=True)
class BaseModelSettings:
    """Everything that the trained weights depend on, `save_every` apart.

    Attributes:
        steps: optimizer steps.
        examples: per step.
        micro_batches: parts of a step by length, each computed on a core of its own.
        prompt_weight: weight of a prompt token's loss against an answer token's 1; the
            responses in judges' prompts teach what requests ask for.
        matrix_rate, rate: peak learning rates of Muon and of AdamW.
        warmup: steps.
        decay: share of the steps, at the end, over which both rates fall to 0.
        hidden, layers, heads, inner: model sizes.
        save_every: seconds between checkpoints.
    """

    steps: int = 2600
    seed: int = 0
    examples: int = 16
    micro_batches: int = 2
    prompt_weight: float = 0.25
    matrix_rate: float = 0.02
    rate: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = 50
    decay: float = 0.65
    hidden: int = 160
    layers: int = 4
    heads: int = 5
    inner: int = 416
    save_every: float = 60.0


def build_model(
    settings: BaseModelSettings, tokenizer: PreTrainedTokenizerFast
) -> LlamaForCausalLM:
    """A Llama with tied embeddings and random weights from the settings' seed, in float32."""
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.inner,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def tokenise(item: Example, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], int]:
    """Token ids of the whole turn, and the number of them that belong to the prompt."""
    system = [{"role": "system", "content": item.system}] if item.system else []
    messages = [*system, {"role": "user", "content": item.user}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    answer_ids = tokenizer(item.answer, add_special_tokens=False).input_ids
    return [*prompt_ids, *answer_ids, tokenizer.eos_token_id], len(prompt_ids)


def micro_batches(
    rows: list[tuple[list[int], int]], count: int, pad: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut rows, sorted by length, into `count` batches of about equal tokens.

    Yields:
        ids [B, T], padded on the right, and answer [B, T]: whether a token is of the answer.
    """
    ordered = sorted(rows, key=lambda row: len(row[0]))
    total = sum(len(ids) for ids, _ in ordered)
    groups: list[list[tuple[list[int], int]]] = [[] for _ in range(count)]
    seen = 0
    for row in ordered:
        groups[min(count - 1, seen * count // total)].append(row)
        seen += len(row[0])
    for group in filter(None, groups):
        width = len(group[-1][0])
        ids = torch.full((len(group), width), pad)
        answer = torch.zeros((len(group), width), dtype=torch.bool)
        for index, (tokens, prompt) in enumerate(group):
            ids[index, : len(tokens)] = torch.tensor(tokens)
            answer[index, prompt : len(tokens)] = True
        yield ids, answer


def losses(model: LlamaForCausalLM, ids: Tensor, answer: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Cross entropy, in nats, summed over answer tokens and over prompt tokens.

    Padding is on the right, where a causal model needs no mask for it.
    """
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    targets, in_answer = ids[:, 1:], answer[:, 1:]
    real = targets != pad
    each = functional.cross_entropy(model.lm_head(hidden[real]), targets[real], reduction="none")
    return each[in_answer[real]].sum(), each[~in_answer[real]].sum()


def rate_factor(settings: BaseModelSettings, step: int) -> float:
    """Warm-up, flat, then linear to 0 over the last `decay` of the steps."""
    left = (settings.steps - step) / (settings.steps * settings.decay)
    return min(1.0, (step + 1) / settings.warmup, left)


def build_optimizers(
    settings: BaseModelSettings, model: LlamaForCausalLM
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        Muon(matrices, lr=settings.matrix_rate, weight_decay=settings.weight_decay, momentum=0.95),
        torch.optim.AdamW(others, lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(settings: BaseModelSettings, work: Path, out: Path) -> None:
    """Train, or go on with the training in `work`, and save the model to `out`.

    Args:
        work: folder of the checkpoint `training.pt`; reused when it fits the settings.
        out: folder of the finished model (bf16 safetensors, tokenizer, templates).

    Raises:
        ValueError: the checkpoint in `work` was made with other settings than `steps`.
    """
    work.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the cores are used by micro-batch, see `_step`
    tokenizer = build_tokenizer(settings.seed)
    model = build_model(settings, tokenizer)
    optimizers = build_optimizers(settings, model)
    start = _resume(settings, work, model, optimizers)
    log.info("%.2f M parameters, from step %d", model.num_parameters() / 1e6, start)
    began = saved = time.monotonic()
    tokens, recent = 0, []
    for step in range(start, settings.steps):
        loss, seen = _step(settings, step, model, optimizers, tokenizer)
        tokens += seen
        recent.append(loss)
        if step % 50 == 49:
            speed = tokens / (time.monotonic() - began)
            log.info("step %d loss %.4f tokens/s %.0f", step + 1, sum(recent) / len(recent), speed)
            recent.clear()
        if time.monotonic() - saved > settings.save_every:
            _save_checkpoint(settings, work, step + 1, model, optimizers)
            saved = time.monotonic()
    torch.set_num_threads(threads)
    save_base_model(model, tokenizer, out)
    log.info("saved %s", out)


def _step(
    settings: BaseModelSettings,
    step: int,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[float, int]:
    """One optimizer step; mean loss per answer token (nats) and tokens seen."""
    first = step * settings.examples
    rows = [
        tokenise(example(settings.seed, index), tokenizer)
        for index in range(first, first + settings.examples)
    ]
    answers = sum(len(ids) - prompt for ids, prompt in rows)
    pad = tokenizer.pad_token_id

    def backward(batch: tuple[Tensor, Tensor]) -> float:
        of_answer, of_prompt = losses(model, *batch, pad)
        ((of_answer + settings.prompt_weight * of_prompt) / answers).backward()
        return of_answer.item() / answers

    # One core for each micro-batch: matrices this small gain little from being split. The
    # sum of two gradients is the same whichever comes first.
    with ThreadPoolExecutor(settings.micro_batches) as cores:
        total = sum(cores.map(backward, micro_batches(rows, settings.micro_batches, pad)))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    peaks = (settings.matrix_rate, settings.rate)
    for optimizer, peak in zip(optimizers, peaks, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate_factor(settings, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total, sum(len(ids) for ids, _ in rows)


def save_base_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a Hugging Face folder with bf16 weights; the float32 model is left as it is."""
    out.mkdir(parents=True, exist_ok=True)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)
    copy.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
    )
    copy.save_pretrained(out)
    save_tokenizer(tokenizer, out)


def _fixed(settings: BaseModelSettings) -> str:
    """What a checkpoint must agree on; `steps` may change before the decay begins."""
    kept = {k: v for k, v in asdict(settings).items() if k not in ("steps", "save_every")}
    return json.dumps(kept, sort_keys=True)


def _save_checkpoint(
    settings: BaseModelSettings,
    work: Path,
    step: int,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
) -> None:
    state = {
        "settings": _fixed(settings),
        "steps": settings.steps,
        "step": step,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    temporary = work / f"{CHECKPOINT}.tmp"
    torch.save(state, temporary)
    temporary.rename(work / CHECKPOINT)


def _resume(
    settings: BaseModelSettings,
    work: Path,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
) -> int:
    path = work / CHECKPOINT
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    flat_until = min(state["steps"], settings.steps) * (1 - settings.decay)
    if state["settings"] != _fixed(settings):
        raise ValueError(
            f"{path}: found settings {state['settings']}, expected {_fixed(settings)}; "
            "give another work folder or the same settings"
        )
    if state["steps"] != settings.steps and state["step"] > flat_until:
        raise ValueError(
            f"{path}: found step {state['step']} of {state['steps']}, past the start of the "
            f"decay at {flat_until:.0f}; expected the same steps, not {settings.steps}"
        )
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])
