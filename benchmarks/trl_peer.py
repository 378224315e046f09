"""TRL's own losses on given log-probabilities: what `loss_parity.py` compares with.

Runs in a process where that TRL can be imported. Trainers are stand-ins with the attributes that
the methods read, models stand-ins that hand over the given log-probabilities.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

Given = dict[str, torch.Tensor]


def trl(case: Any, given: Given) -> torch.Tensor:
    """TRL's loss of the batch, in our convention (see `Case.scale`)."""
    if case.version == "0.28.0":
        _answer_as_transformers_4()
    import trl as installed

    assert installed.__version__ == case.version, installed.__version__
    kind, _, loss_type = case.peer.partition("/")
    found: torch.Tensor = _PEERS[kind](loss_type, case.given, given)
    return case.scale * found


def _answer_as_transformers_4() -> None:
    """TRL 0.28 takes the answer to "is it installed?" for a bool; Transformers 5 gives a pair."""
    from trl import import_utils

    ask = import_utils._is_package_available

    def answer(name: str, return_version: bool = False) -> Any:
        return ask(name, return_version=True) if return_version else ask(name)[0]

    import_utils._is_package_available = answer


class _Anything(dict[str, Any]):
    """Metric lists of a trainer: every name has one."""

    def __missing__(self, key: str) -> list[float]:
        self[key] = []
        return self[key]


def _accelerator() -> SimpleNamespace:
    return SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        num_processes=1,
        parallelism_config=None,
    )


def _outputs(logprobs: torch.Tensor, mask: torch.Tensor) -> SimpleNamespace:
    zeros = torch.zeros_like(logprobs.detach())
    return SimpleNamespace(
        log_probs=logprobs,
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros.bool(),
        label_mask=mask,
    )


def _dpo(loss_type: str, options: dict[str, Any], given: Given) -> torch.Tensor:
    from trl import DPOTrainer

    mask = torch.cat([given["chosen_mask"], given["rejected_mask"]])
    logprobs = torch.cat([given["chosen"], given["rejected"]])
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=_accelerator(),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=options["beta"],
        label_smoothing=0.0,
        use_weighting=False,
        _metrics={"train": _Anything()},
        _total_train_tokens=0,
        _tp_size=1,
    )
    width = torch.cat([torch.zeros(16, 1, dtype=torch.bool), mask], dim=1).long()
    inputs = {
        "input_ids": torch.zeros_like(width),
        "attention_mask": torch.ones_like(width),
        "completion_mask": width,
        "ref_chosen_logps": given["ref_chosen"],
        "ref_rejected_logps": given["ref_rejected"],
    }
    compute: Any = DPOTrainer._compute_loss
    result: torch.Tensor = compute(trainer, lambda **_: _outputs(logprobs, mask), inputs, False)
    return result


def _sft(loss_type: str, options: dict[str, Any], given: Given) -> torch.Tensor:
    from trl import SFTTrainer

    mask = given["chosen_mask"]
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=_accelerator(),
        aux_loss_enabled=False,
        compute_loss_func=None,
        label_smoother=None,
        _metrics={"train": _Anything()},
        _total_train_tokens=0,
        _tp_size=1,
        get_tp_size=lambda: 1,
        args=SimpleNamespace(loss_type="nll", max_length=None, average_tokens_across_devices=False),
    )
    inputs = {"input_ids": mask.long(), "attention_mask": mask.long(), "labels": mask.long()}
    compute: Any = SFTTrainer.compute_loss
    result: torch.Tensor = compute(trainer, lambda **_: _outputs(given["chosen"], mask), inputs)
    return result


def _old_dpo(loss_type: str, options: dict[str, Any], given: Given) -> torch.Tensor:
    from trl import DPOTrainer

    trainer = SimpleNamespace(
        accelerator=_accelerator(),
        reference_free=False,
        f_divergence_type="reverse_kl",
        beta=options["beta"],
        label_smoothing=options.get("label_smoothing", 0.0),
        f_divergence_params=None,
    )
    compute: Any = DPOTrainer.dpo_loss
    losses, _, _ = compute(
        trainer,
        given["chosen"].sum(1),
        given["rejected"].sum(1),
        given["ref_chosen"],
        given["ref_rejected"],
        loss_type,
    )
    result: torch.Tensor = losses.mean()
    return result


def _kto(loss_type: str, options: dict[str, Any], given: Given) -> torch.Tensor:
    """Chosen responses as desired rows, rejected ones as undesired."""
    from trl import KTOTrainer

    logprobs = torch.cat([given["chosen"], given["rejected"]])
    mask = torch.cat([given["chosen_mask"], given["rejected_mask"]])
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=_accelerator(),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type=loss_type,
        beta=options["beta"],
        desirable_weight=options["desired_weight"],
        undesirable_weight=options["undesired_weight"],
        _compute_kl_logps=lambda model, batch: given["mismatched"],
        _metrics={"train": _Anything()},
        _total_train_tokens=0,
        _tp_size=1,
    )
    width = torch.cat([torch.zeros(16, 1, dtype=torch.bool), mask], dim=1).long()
    inputs = {
        "input_ids": torch.zeros_like(width),
        "attention_mask": torch.ones_like(width),
        "completion_mask": width,
        "label": torch.arange(16) < 8,
        "ref_logps": torch.cat([given["ref_chosen"], given["ref_rejected"]]),
        "ref_KL_logps": given["ref_mismatched"],
    }
    compute: Any = KTOTrainer._compute_loss
    result: torch.Tensor = compute(trainer, lambda **_: _outputs(logprobs, mask), inputs, False)
    return result


def _orpo(loss_type: str, options: dict[str, Any], given: Given) -> torch.Tensor:
    from trl.experimental.orpo import ORPOTrainer

    trainer = SimpleNamespace(
        accelerator=_accelerator(),
        is_encoder_decoder=False,
        aux_loss_enabled=False,
        padding_value=1,
        beta=options["odds_weight"],
        concatenated_inputs=ORPOTrainer.concatenated_inputs,
        get_batch_logps=ORPOTrainer.get_batch_logps,
    )
    trainer.odds_ratio_loss = lambda *x: ORPOTrainer.odds_ratio_loss(trainer, *x)
    return _with_logits(ORPOTrainer, trainer, given)


def _cpo(loss_type: str, options: dict[str, Any], given: Given) -> torch.Tensor:
    from trl.experimental.cpo import CPOTrainer

    trainer = SimpleNamespace(
        accelerator=_accelerator(),
        is_encoder_decoder=False,
        aux_loss_enabled=False,
        pad_token_id=1,
        beta=options["beta"],
        loss_type=loss_type,
        label_smoothing=0.0,
        alpha=0.0,
        simpo_gamma=options.get("simpo_gamma", 0.0),
        cpo_alpha=options.get("nll_weight", 0.0),
        concatenated_inputs=CPOTrainer.concatenated_inputs,
        get_batch_logps=CPOTrainer.get_batch_logps,
    )
    trainer.cpo_loss = lambda *x: CPOTrainer.cpo_loss(trainer, *x)
    return _with_logits(CPOTrainer, trainer, given)


def _with_logits(kind: Any, trainer: Any, given: Given) -> torch.Tensor:
    """Run `get_batch_loss_metrics` of a trainer that takes logits.

    Slots: a first token, the prompt, the response; every token is number 0 of a vocabulary of two,
    with logits whose softmax gives the wanted log-probability.
    """
    first = torch.ones(8, 1, dtype=torch.bool)
    batch, logits = {}, []
    for name in ("chosen", "rejected"):
        mask = torch.cat([first, given["prompt_mask"], given[f"{name}_mask"]], 1)
        wanted = torch.cat([given["prompt"], given[name]], 1).masked_fill(~mask[:, 1:], -1.0)
        other = torch.log(-torch.expm1(wanted))
        # The logits at a slot predict the next one; the last slot predicts nothing.
        pairs = torch.stack([wanted, other], 2)
        logits.append(torch.cat([pairs, torch.zeros(8, 1, 2)], 1))
        ids = torch.zeros_like(mask, dtype=torch.long)
        answer = torch.cat([first & False, given["prompt_mask"] & False, given[f"{name}_mask"]], 1)
        batch[f"{name}_input_ids"] = ids
        batch[f"{name}_attention_mask"] = mask.long()
        batch[f"{name}_labels"] = torch.where(answer, ids, -100)
    trainer.concatenated_forward = lambda *x: kind.concatenated_forward(trainer, *x)
    output = SimpleNamespace(logits=torch.cat(logits))
    loss: torch.Tensor = kind.get_batch_loss_metrics(trainer, lambda *a, **k: output, batch)[0]
    return loss


def _reward(loss_type: str, options: dict[str, Any], given: Given) -> torch.Tensor:
    from trl import RewardTrainer

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=_accelerator(),
        args=SimpleNamespace(center_rewards_coefficient=options.get("centring")),
        _metrics={"train": _Anything()},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(16, 1)}
    if options.get("margin"):
        inputs["margin"] = torch.full((8,), options["margin"])
    rewards = torch.cat([given["reward_chosen"], given["reward_rejected"]])
    compute: Any = RewardTrainer.compute_loss
    output = SimpleNamespace(logits=rewards[:, None])
    result: torch.Tensor = compute(trainer, lambda **_: output, inputs)
    return result


_PEERS = {
    "dpo": _dpo,
    "sft": _sft,
    "dpo_loss": _old_dpo,
    "kto": _kto,
    "orpo": _orpo,
    "cpo": _cpo,
    "reward": _reward,
}
