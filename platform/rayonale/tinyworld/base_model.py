"""Trains the base model of tinyworld from scratch.

    stream(seed) ─ 32 examples a step ─ sorted by length into micro-batches ─┐
    cross entropy of answers and responses + what probes must read ──────────┤
                               Muon (matrices) + AdamW (the rest) ───────────┴─ base/

Step i always learns from examples 32·i … 32·i + 31, and its learning rate is flat until
the last 60 % of the steps. So a killed run goes on from its checkpoint exactly, and a
checkpoint from before the decay also serves a run with more or fewer steps.
"""

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rayonale.tinyworld.batches import Batch, micro_batches, tokenise
from rayonale.tinyworld.muon import Muon
from rayonale.tinyworld.probes import Probes
from rayonale.tinyworld.tasks import example
from rayonale.tinyworld.tokenizer import CONTEXT, build_tokenizer, save_tokenizer
from rayonale.tinyworld.vocabulary import ATTRIBUTES

log = logging.getLogger(__name__)

CHECKPOINT: Final = "training.pt"


@dataclass(frozen=True)
class BaseModelSettings:
    """Everything that the trained weights depend on, `save_every` apart.

    Attributes:
        steps: optimizer steps on varied rationales.
        late_steps: steps after these on rationales that begin with the chosen response (see
            `tasks.example`), at rates that begin again with `late_rate` of the peaks.
        examples: per step.
        micro_batches: parts of a step by length, each computed on a core of its own.
        probe_layer: layer after which responses and requests are probed, see `probes.py`.
        probe_weight: weight of an attribute's loss against an answer token's 1; a slot's
            and a thing's weigh half of it.
        shown_weight: weight of a token of a response in the prompt against an answer
            token's; these teach which things are of a kind.
        matrix_rate, rate: peak learning rates of Muon and of AdamW.
        warmup: steps.
        decay: share of the steps, at the end, over which both rates fall to 0.
        hidden, layers, heads, inner: model sizes.
        save_every: seconds between checkpoints.
    """

    steps: int = 2600
    late_steps: int = 500
    late_rate: float = 0.4
    seed: int = 0
    examples: int = 32
    micro_batches: int = 2
    probe_layer: int = 3
    probe_weight: float = 0.5
    shown_weight: float = 0.5
    matrix_rate: float = 0.01
    rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 50
    decay: float = 0.6
    hidden: int = 128
    layers: int = 5
    heads: int = 4
    inner: int = 384
    save_every: float = 60.0


class ProbedModel(nn.Module):
    """A Llama with tied embeddings, and the probes that it learns with."""

    def __init__(self, settings: BaseModelSettings, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.layer = settings.probe_layer
        self.llama = LlamaForCausalLM(
            LlamaConfig(
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
        )
        self.probes = Probes(settings.hidden, tokenizer)

    def losses(self, batch: Batch) -> "Losses":
        """All losses of a batch.

        Logits are made for responses and answers only. Padding is on the right, where a
        causal model needs no mask for it.
        """
        found = self.llama.model(input_ids=batch.ids, output_hidden_states=True)
        answer = batch.answer[:, 1:]
        learnt = answer | batch.shown[:, 1:]
        logits = self.llama.lm_head(found.last_hidden_state[:, :-1][learnt])
        each = functional.cross_entropy(logits, batch.ids[:, 1:][learnt], reduction="none")
        seen, first = found.hidden_states[self.layer], found.hidden_states[1]
        return Losses(
            each[answer[learnt]].sum(),
            each[~answer[learnt]].sum(),
            self.probes.of_attributes(seen[batch.rows, batch.columns], batch.values),
            self.probes.of_slots(seen[batch.asked_rows, batch.asked_columns], batch.slots),
            self.probes.of_things(first, batch.ids),
        )


class Losses(NamedTuple):
    """Cross entropies in nats, summed: of answer tokens, of tokens of responses in the
    prompt, and of the three probes."""

    answer: Tensor
    shown: Tensor
    attributes: Tensor
    slots: Tensor
    things: Tensor


def rate_factor(settings: BaseModelSettings, step: int) -> float:
    """Warm-up, flat, linear to 0 over the last `decay` of the steps; then the late steps."""
    if step >= settings.steps:
        return settings.late_rate * (1 - (step - settings.steps) / settings.late_steps)
    left = (settings.steps - step) / (settings.steps * settings.decay)
    return min(1.0, (step + 1) / settings.warmup, left)


def build_optimizers(
    settings: BaseModelSettings, model: ProbedModel
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and probes."""
    matrices = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    others = [p for name, p in model.named_parameters() if ".layers." not in name or p.ndim != 2]
    return [
        Muon(matrices, lr=settings.matrix_rate, weight_decay=settings.weight_decay, momentum=0.95),
        torch.optim.AdamW(others, lr=settings.rate, betas=(0.9, 0.99), weight_decay=0.0),
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
    model = ProbedModel(settings, tokenizer)
    optimizers = build_optimizers(settings, model)
    start = _resume(settings, work, model, optimizers)
    log.info("%.2f M parameters, from step %d", model.llama.num_parameters() / 1e6, start)
    began = saved = time.monotonic()
    tokens = 0
    recent: list[tuple[float, float]] = []
    for step in range(start, settings.steps + settings.late_steps):
        *losses, seen = _step(settings, step, model, optimizers, tokenizer)
        tokens += seen
        recent.append((losses[0], losses[1]))
        if len(recent) == 50:
            speed = tokens / (time.monotonic() - began)
            answer, probe = (sum(values) / 50 for values in zip(*recent, strict=True))
            log.info("step %d answer %.4f probe %.4f %.0f tokens/s", step + 1, answer, probe, speed)
            recent.clear()
        if time.monotonic() - saved > settings.save_every:
            _save_checkpoint(settings, work, step + 1, model, optimizers)
            saved = time.monotonic()
    torch.set_num_threads(threads)
    save_base_model(model.llama, tokenizer, out)
    log.info("saved %s", out)


def _step(
    settings: BaseModelSettings,
    step: int,
    model: ProbedModel,
    optimizers: list[torch.optim.Optimizer],
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[float, float, int]:
    """One optimizer step; mean loss of an answer token and of a probed attribute (nats),
    and tokens seen."""
    first = step * settings.examples
    rows = [
        tokenise(example(settings.seed, index, late=settings.steps * settings.examples), tokenizer)
        for index in range(first, first + settings.examples)
    ]
    answers = sum(len(row.ids) - row.prompt for row in rows)
    probes = sum(len(row.ends) for row in rows) * len(ATTRIBUTES)

    def backward(batch: Batch) -> tuple[float, float]:
        found = model.losses(batch)
        probed = found.attributes + 0.5 * (found.slots + found.things)
        loss = found.answer + settings.shown_weight * found.shown + settings.probe_weight * probed
        (loss / answers).backward()
        return found.answer.item() / answers, found.attributes.item() / probes

    # One core for each micro-batch: matrices this small gain little from being split. The
    # sum of two gradients is the same whichever comes first.
    batches = micro_batches(rows, settings.micro_batches, tokenizer.pad_token_id)
    with ThreadPoolExecutor(settings.micro_batches) as cores:
        parts = list(cores.map(backward, batches))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    peaks = (settings.matrix_rate, settings.rate)
    for optimizer, peak in zip(optimizers, peaks, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate_factor(settings, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    answer, probe = (sum(values) for values in zip(*parts, strict=True))
    return answer, probe, sum(len(row.ids) for row in rows)


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
    model: ProbedModel,
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
    model: ProbedModel,
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
