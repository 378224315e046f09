"""TRL's side of `training.py`: DPOTrainer, and with a rationale term for RDPO.

    python benchmarks/training_trl.py <spec.json>       prints one line: SIDE {…}

Runs with TRL on PYTHONPATH. The trainer gets the token lists that ours gets; beyond that only
methods that TRL's own documentation tells to override are: none changes what DPOTrainer computes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from training_ours import peak_mib

EXTRA = ("rationale_ids", "rationale_mask", "rationale_labels")


class Timed(DPOTrainer):
    """DPOTrainer on rows that are tokenised already; keeps losses and the reference's seconds."""

    order: list[int] | None = None
    reference_seconds = reference_cpu = 0.0
    micro_losses: list[float]

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        self.micro_losses = []
        return dataset

    def _precompute_ref_logps(self, *given: Any, **named: Any) -> Any:
        started, busy = time.monotonic(), time.process_time()
        found = super()._precompute_ref_logps(*given, **named)
        self.reference_seconds += time.monotonic() - started
        self.reference_cpu += time.process_time() - busy
        return found

    def _get_train_sampler(self, *given: Any) -> Any:
        return self.order if self.order is not None else super()._get_train_sampler(*given)

    def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        loss = super().compute_loss(model, inputs, *given, **named)
        self.micro_losses.append(loss.item())
        return loss


class WithRationale(Timed):
    """RDPO on top of TRL: one more forward, on the rationale after its prompt."""

    gamma = 1.0

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        return super().compute_ref_log_probs(
            model, {k: v for k, v in inputs.items() if k not in EXTRA}
        )

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        tokens, mask, labels = (inputs.pop(name) for name in EXTRA)
        preference = super()._compute_loss(model, inputs, return_outputs)
        found = model(
            input_ids=tokens,
            attention_mask=mask,
            labels=labels,
            fused_lm_head=True,
            use_cache=False,
        )
        mean = found.log_probs.sum(1) / (labels != -100).sum(1)
        return preference - self.gamma * mean.mean()


def with_rationales(collate: Any, pad: int) -> Any:
    """TRL's collator, and the rationales of the same rows padded beside it."""

    def padded(lists: list[list[int]], value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(found) for found in lists], batch_first=True, padding_value=value
        )

    def both(rows: list[dict[str, Any]]) -> dict[str, Any]:
        whole = [row["rationale_prompt"] + row["rationale"] for row in rows]
        labels = [[-100] * len(row["rationale_prompt"]) + row["rationale"] for row in rows]
        extra = (padded(whole, pad), padded([[1] * len(w) for w in whole], 0), padded(labels, -100))
        return collate(rows) | dict(zip(EXTRA, extra, strict=True))

    return both


def main() -> None:
    """Train as the specification says and print what was measured."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec["threads"])
    at_start = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        found = train(spec, folder)
    print("SIDE " + json.dumps({**found, "start_mib": at_start, "peak_mib": peak_mib()}))


def train(spec: dict[str, Any], folder: str) -> dict[str, Any]:
    """Seconds of the reference pass and of the steps, and the loss of each step."""
    import pyarrow as pa
    from datasets import Dataset
    from transformers import AutoTokenizer, set_seed
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    table = pa.ipc.open_file(pa.memory_map(spec["shard"])).read_all()
    rows = table.drop_columns([n for n in table.column_names if n.endswith("_tokens")])
    lengths = [
        len(p) + max(len(c), len(r))
        for p, c, r in zip(*(table[n].to_pylist() for n in ("prompt", "chosen", "rejected")),
                           strict=True)
    ]  # fmt: skip
    rows = rows.rename_columns(
        [f"{n}_ids" if n in ("prompt", "chosen", "rejected") else n for n in rows.column_names]
    ).append_column("length", pa.array(lengths))
    data = Dataset.from_list(rows.to_pylist())
    rationale = spec["loss"]["name"] == "rdpo"
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)
    accumulate = spec["batch_pairs"] // spec["micro"]
    set_seed(0)
    config = DPOConfig(
        output_dir=folder,
        beta=spec["loss"]["beta"],
        per_device_train_batch_size=spec["micro"],
        gradient_accumulation_steps=accumulate,
        precompute_ref_log_probs=spec["precompute"],
        precompute_ref_batch_size=spec["micro"],
        gradient_checkpointing=spec["checkpointing"],
        train_sampling_strategy="group_by_length" if spec["grouped"] else "random",
        learning_rate=spec["learning_rate"],
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_grad_norm=1.0,
        num_train_epochs=1,
        max_steps=spec["steps"] or -1,
        max_length=None,
        model_init_kwargs={"dtype": spec["dtype"], "attn_implementation": "sdpa"},
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_drop_last=False,
    )
    kind = WithRationale if rationale else Timed
    kind.order = spec["order"]
    if rationale:
        WithRationale.gamma = spec["loss"]["gamma"]
    trainer = kind(
        model=spec["model"],
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        data_collator=with_rationales(collate, tokenizer.pad_token_id) if rationale else collate,
    )
    started, busy = time.monotonic(), time.process_time()
    trainer.train()
    seconds, cpu = time.monotonic() - started, time.process_time() - busy
    micro = trainer.micro_losses
    steps = [micro[i : i + accumulate] for i in range(0, len(micro), accumulate)]
    pairs = min(len(data), len(steps) * spec["batch_pairs"])
    return {
        "pairs": pairs,
        "reference_seconds": trainer.reference_seconds * (pairs / len(data)),
        "train_seconds": seconds,
        "cpu_seconds": trainer.reference_cpu * (pairs / len(data)) + cpu,
        "losses": [sum(step) / len(step) for step in steps],
        "grad_norms": [e["grad_norm"] for e in trainer.state.log_history if "grad_norm" in e],
    }


if __name__ == "__main__":
    main()
