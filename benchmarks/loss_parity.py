"""Our losses against TRL's on the same tensors: one command prints the table.

    python benchmarks/loss_parity.py                     install the peers, compare, print
    python benchmarks/loss_parity.py --write             and renew tests/losses/golden_trl.json

TRL is not among the project's dependencies. The peers are installed without dependencies into
`.parity/` (requirements/parity.txt: TRL 1.16.0; requirements/parity-smoothing.txt: TRL 0.28.0, the
last whose sigmoid loss honours label smoothing); each runs in a process of its own on top of this
environment. Their own functions are called, with stand-ins for trainer and model that hand over
given per-token log-probabilities: `DPOTrainer._compute_loss` and `SFTTrainer.compute_loss` of
1.16.0, `DPOTrainer.dpo_loss` of 0.28.0. The normal tests compare with the golden values.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "losses" / "golden_trl.json"
PEERS = {"1.16.0": "parity.txt", "0.28.0": "parity-smoothing.txt"}
TOLERANCE = 1e-5

# name → (loss options for us, TRL version)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "sft": ({"name": "sft"}, "1.16.0"),
    "dpo β=0.1": ({"name": "dpo", "beta": 0.1}, "1.16.0"),
    "dpo β=0.5": ({"name": "dpo", "beta": 0.5}, "1.16.0"),
    "dpo β=0.1 ε=0.1": ({"name": "dpo", "beta": 0.1, "label_smoothing": 0.1}, "0.28.0"),
    "dpo β=0.5 ε=0.3": ({"name": "dpo", "beta": 0.5, "label_smoothing": 0.3}, "0.28.0"),
}
# What TRL has no counterpart of.
LACKING = {
    "rdpo": "TRL has no rationale term; its preference term is dpo's",
    "rationale_only": "TRL has no rationale term; the paper's form with reduction token is sft's",
}


def tensors() -> dict[str, torch.Tensor]:
    """Eight pairs: per-token log-probabilities [8, 12] and masks, reference sums [8]."""
    torch.manual_seed(0)
    found = {}
    for name in ("chosen", "rejected"):
        lengths = torch.randint(1, 13, (8,))
        lengths[0] = 1
        mask = torch.arange(12)[None] < lengths[:, None]
        found[f"{name}_mask"] = mask
        found[name] = -torch.rand(8, 12).mul(6).exp().mul(0.05) * mask
        found[f"ref_{name}"] = found[name].sum(1) + torch.randn(8) * 3
    found["chosen"][1] = 0.0  # certain
    found["rejected"][2] = -800.0 * found["rejected_mask"][2]  # hopeless
    for name in ("chosen", "rejected"):
        found[name] = found[name].detach().requires_grad_()
    return found


def ours(options: dict[str, Any], given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Our loss of the batch, reduced as the loop does."""
    from rayonale import losses
    from rayonale.losses.spec import Scores

    scores = Scores(
        logprob={n: given[n].sum(1) for n in ("chosen", "rejected")},
        length={n: given[f"{n}_mask"].sum(1).float() for n in ("chosen", "rejected")},
        reference={n: given[f"ref_{n}"] for n in ("chosen", "rejected")},
    )
    terms = losses.get(options["name"]).terms(scores, losses.parse(options))
    counts = {"pairs": 8.0} | {n: float(given[f"{n}_mask"].sum()) for n in ("chosen", "rejected")}
    return sum(
        (term.values.sum() / counts[term.over] for term in terms.values()), start=torch.zeros(())
    )


def trl(options: dict[str, Any], version: str, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """TRL's loss of the batch; runs where that TRL can be imported."""
    if version == "0.28.0":
        _answer_as_transformers_4()
    import trl as installed

    assert installed.__version__ == version, installed.__version__
    if options["name"] == "sft":
        return _trl_sft(given)
    return _trl_dpo_loss(options, given) if version == "0.28.0" else _trl_dpo(options, given)


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


def _trl_dpo(options: dict[str, Any], given: dict[str, torch.Tensor]) -> torch.Tensor:
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
        loss_types=["sigmoid"],
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


def _trl_sft(given: dict[str, torch.Tensor]) -> torch.Tensor:
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


def _trl_dpo_loss(options: dict[str, Any], given: dict[str, torch.Tensor]) -> torch.Tensor:
    from trl import DPOTrainer

    trainer = SimpleNamespace(
        accelerator=_accelerator(),
        reference_free=False,
        f_divergence_type="reverse_kl",
        beta=options["beta"],
        label_smoothing=options["label_smoothing"],
        f_divergence_params=None,
    )
    compute: Any = DPOTrainer.dpo_loss
    losses, _, _ = compute(
        trainer,
        given["chosen"].sum(1),
        given["rejected"].sum(1),
        given["ref_chosen"],
        given["ref_rejected"],
    )
    result: torch.Tensor = losses.mean()
    return result


def measured(value: torch.Tensor, given: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A loss and the sizes of its gradients, as JSON."""
    used = [given[name] for name in ("chosen", "rejected")]
    gradients = torch.autograd.grad(value, used, allow_unused=True)
    sums = [0.0 if g is None else g.double().abs().sum().item() for g in gradients]
    return {"loss": value.item(), "gradient": sums}


def peer_main(version: str) -> None:
    """In the peer's process: print its values."""
    found = {}
    for name, (options, wanted) in CASES.items():
        if wanted == version:
            given = tensors()
            found[name] = measured(trl(options, version, given), given)
    print("PEER " + json.dumps(found))


def ask_peer(version: str, folder: Path) -> dict[str, Any]:
    """Install a peer if it is not there and run it."""
    place = folder / version
    if not place.is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(place),
            "-r",
            str(ROOT / "requirements" / PEERS[version]),
        ]
        subprocess.run(command, check=True)
    environment = {**os.environ, "PYTHONPATH": str(place), "TRL_EXPERIMENTAL_SILENCE": "1"}
    run = subprocess.run(
        [sys.executable, __file__, "--peer", version],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    for line in run.stdout.splitlines():
        if line.startswith("PEER "):
            found: dict[str, Any] = json.loads(line.removeprefix("PEER "))
            return found
    raise RuntimeError(f"TRL {version} did not answer:\n{run.stderr[-3_000:]}")


def main() -> int:
    """Compare, print, and tell by the exit code whether all are within the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=ROOT / ".parity")
    parser.add_argument("--write", action="store_true", help="renew the golden values")
    arguments = parser.parse_args()
    if arguments.peer:
        peer_main(arguments.peer)
        return 0
    peers: dict[str, Any] = {}
    for version in PEERS:
        peers |= ask_peer(version, arguments.folder)
    print(f"{'loss':18} {'TRL':8} {'ours':>12} {'TRL’s':>12} {'difference':>11} {'gradient':>9}")
    worst = 0.0
    for name, (options, version) in CASES.items():
        given = tensors()
        mine, theirs = measured(ours(options, given), given), peers[name]
        loss = abs(mine["loss"] - theirs["loss"]) / max(1.0, abs(theirs["loss"]))
        pairs = zip(mine["gradient"], theirs["gradient"], strict=True)
        gradient = max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)
        worst = max(worst, loss, gradient)
        print(
            f"{name:18} {version:8} {mine['loss']:12.7f} {theirs['loss']:12.7f} {loss:11.1e} "
            f"{gradient:9.1e}"
        )
    for name, why in LACKING.items():
        print(f"{name:18} {'–':8} {why}")
    print(f"largest difference {worst:.1e}, tolerance {TOLERANCE:.0e}")
    if arguments.write:
        command = "python benchmarks/loss_parity.py --write"
        text = json.dumps({"command": command, "values": peers}, indent=2, ensure_ascii=False)
        GOLDEN.write_text(text + "\n", encoding="utf-8")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
