"""Our losses against TRL's on the same tensors: one command prints the table.

    python benchmarks/loss_parity.py                     install the peers, compare, print
    python benchmarks/loss_parity.py --write             and renew tests/losses/golden_trl.json

TRL is not among the project's dependencies. The peers are installed without dependencies into
`.parity/` (requirements/parity.txt: TRL 1.16.0; requirements/parity-smoothing.txt: TRL 0.28.0, the
last whose sigmoid loss honours label smoothing); each runs in a process of its own on top of this
environment. Their own functions are called (`trl_peer.py`), with stand-ins for trainer and model
that hand over given per-token log-probabilities: of 1.16.0 `_compute_loss` of DPOTrainer and
KTOTrainer, `SFTTrainer.compute_loss`, `get_batch_loss_metrics` of the experimental ORPOTrainer and
CPOTrainer; `DPOTrainer.dpo_loss` of 0.28.0. Differences are relative above 1. The normal tests
compare with the golden values.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "losses" / "golden_trl.json"
PEERS = {"1.16.0": "parity.txt", "0.28.0": "parity-smoothing.txt"}
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        options: of our loss, as in a recipe.
        peer: function of `trl_peer.py` / TRL's `loss_type`.
        given: TRL's options.
        version: of TRL.
        scale: TRL's value times this is ours.
        mild: without a certain response, at which TRL's gradient is NaN.
    """

    options: dict[str, Any]
    peer: str
    given: dict[str, Any] = field(default_factory=dict)
    version: str = "1.16.0"
    scale: float = 1.0
    mild: bool = False


_SMOOTH = {"beta": 0.1, "label_smoothing": 0.1}
_CENTRED = {"margin": 0.5, "centring": 0.01}
_KTO = {"beta": 0.1, "desired_weight": 1.5, "undesired_weight": 0.75}
CASES: dict[str, Case] = {
    "sft": Case({"name": "sft"}, "sft/nll"),
    "dpo β=0.1": Case({"name": "dpo", "beta": 0.1}, "dpo/sigmoid", {"beta": 0.1}),
    "dpo β=0.5": Case({"name": "dpo", "beta": 0.5}, "dpo/sigmoid", {"beta": 0.5}),
    "dpo ε=0.1": Case({"name": "dpo", **_SMOOTH}, "dpo_loss/sigmoid", _SMOOTH, "0.28.0"),
    "cdpo β=0.5 ε=0.3": Case(
        {"name": "cdpo", "beta": 0.5, "label_smoothing": 0.3},
        "dpo_loss/sigmoid",
        {"beta": 0.5, "label_smoothing": 0.3},
        "0.28.0",
    ),
    "ipo normalised": Case({"name": "ipo", "tau": 0.1}, "dpo/ipo", {"beta": 0.1}),
    # 0.28 takes means or sums before the function that is called here; it is given sums.
    "ipo summed": Case(
        {"name": "ipo", "tau": 0.1, "length": "summed"}, "dpo_loss/ipo", {"beta": 0.1}, "0.28.0"
    ),
    "hinge": Case({"name": "hinge", "beta": 0.1}, "dpo/hinge", {"beta": 0.1}),
    "sppo hard (TRL × ½)": Case(
        {"name": "sppo", "eta": 1_000.0}, "dpo/sppo_hard", {"beta": 0.001}, scale=0.5
    ),
    "nca_pair": Case({"name": "nca_pair", "beta": 0.01}, "dpo/nca_pair", {"beta": 0.01}),
    "kto": Case({"name": "kto", **_KTO}, "kto/kto", _KTO),
    "orpo NLL over both": Case(
        {"name": "orpo", "odds_weight": 0.1, "nll_over": "prompt_and_response"},
        "orpo/",
        {"odds_weight": 0.1},
        mild=True,
    ),
    "cpo": Case({"name": "cpo"}, "cpo/sigmoid", {"beta": 0.1, "nll_weight": 1.0}, mild=True),
    "simpo γ": Case(
        {"name": "simpo", "beta": 2.0, "simpo_gamma": 0.5},
        "cpo/simpo",
        {"beta": 2.0, "simpo_gamma": 0.5},
        mild=True,
    ),
    "simpo γ/β": Case(
        {"name": "simpo", "beta": 2.5, "gamma_beta_ratio": 0.4},
        "cpo/simpo",
        {"beta": 2.5, "simpo_gamma": 1.0},
        mild=True,
    ),
    "bradley_terry": Case({"name": "bradley_terry", "alpha": 0.0}, "reward/"),
    "bradley_terry m=0.5 c=0.01": Case(
        {"name": "bradley_terry", "alpha": 0.0, **_CENTRED}, "reward/", _CENTRED
    ),
}
# What TRL has no counterpart of.
LACKING = {
    "conditioned_sft": "TRL has no goals; the loss is sft's, on other rows",
    "slic": "TRL's hinge has a reference (our `hinge`) and no NLL term",
    "rrhf": "TRL has no losses of lists",
    "nca, infonca": "TRL has no losses of lists, only nca_pair; infonca of hard pairs is dpo",
    "length_dpo": "TRL has no length-regularised R-DPO",
    "rpo": "TRL has no reward-aware RPO (what it calls RPO is DPO + NLL)",
    "sppo with probabilities": "TRL has hard labels only",
    "orpo NLL over response": "TRL's NLL counts prompt tokens",
    "bradley_terry α > 0": "TRL's reward model has no likelihood term",
    "drdo, e_dpo": "TRL has neither",
    "rdpo, rorpo, rsimpo": "TRL has no rationale term; the other terms are dpo's, orpo's, simpo's",
    "rationale_only": "TRL has no rationale term; the paper's form with reduction token is sft's",
}


def tensors(*, mild: bool = False) -> dict[str, torch.Tensor]:
    """Eight pairs: per-token log-probabilities [8, 12] and masks, reference sums [8].

    And log-probabilities of their prompts [8, 5], sums of 16 mismatched responses, rewards [8].

    Args:
        mild: no response is certain, none hopeless.
    """
    torch.manual_seed(0)
    found = {}
    for name in ("chosen", "rejected"):
        lengths = torch.randint(1, 13, (8,))
        lengths[0] = 1
        mask = torch.arange(12)[None] < lengths[:, None]
        found[f"{name}_mask"] = mask
        found[name] = -torch.rand(8, 12).mul(6).exp().mul(0.05) * mask
        found[f"ref_{name}"] = found[name].sum(1) + torch.randn(8) * 3
    if not mild:
        found["chosen"][1] = 0.0  # certain
        found["rejected"][2] = -800.0 * found["rejected_mask"][2]  # hopeless
    found["prompt_mask"] = torch.arange(5)[None] < torch.randint(1, 6, (8, 1))
    found["prompt"] = -torch.rand(8, 5) * 4 * found["prompt_mask"]
    found["mismatched"] = -torch.rand(16) * 40 - 10
    found["ref_mismatched"] = found["mismatched"] - torch.randn(16) - 0.5
    for name in ("chosen", "rejected"):
        found[f"reward_{name}"] = torch.randn(8) * 4
    for name in ("chosen", "rejected", "prompt", "reward_chosen", "reward_rejected"):
        found[name] = found[name].detach().requires_grad_()
    return found


def given_for(case: Case) -> dict[str, torch.Tensor]:
    """The tensors of a case."""
    return tensors(mild=case.mild)


def ours(options: dict[str, Any], given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Our loss of the batch, reduced as the loop does."""
    from rayonale import losses
    from rayonale.losses.spec import Scores

    settings = losses.parse(options)
    loss = losses.of(settings)
    names = ("chosen", "rejected", "prompt")
    logprob = {n: given[n].sum(1) for n in names}
    length = {n: given[f"{n}_mask"].sum(1).float() for n in names}
    reference = {n: given[f"ref_{n}"] for n in ("chosen", "rejected")}
    reward = {n: given[f"reward_{n}"] for n in ("chosen", "rejected")}
    rows = 8.0
    if loss.rows == "labelled":  # chosen responses as desired rows, rejected ones as undesired
        rows = 16.0
        for part in (logprob, length, reference):
            part["response"] = torch.cat([part["chosen"], part["rejected"]])
    scores = Scores(
        logprob=logprob,
        length=length,
        reference=reference,
        reward=reward,
        value={"label": (torch.arange(16) < 8).float()},
        mean={"kl": (given["mismatched"] - given["ref_mismatched"]).mean()},
    )
    counts = {"pairs": rows} | {n: float(x.sum()) for n, x in length.items()}
    return sum(
        (t.values.sum() / t.count(counts) for t in loss.terms(scores, settings).values()),
        start=torch.zeros(()),
    )


def measured(value: torch.Tensor, given: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A loss and the sizes of its gradients, as JSON."""
    names = ("chosen", "rejected", "prompt", "reward_chosen", "reward_rejected")
    gradients = torch.autograd.grad(value, [given[n] for n in names], allow_unused=True)
    sums = [
        0.0 if g is None else (g * given.get(f"{n}_mask", 1)).double().abs().sum().item()
        for n, g in zip(names, gradients, strict=True)
    ]
    return {"loss": value.item(), "gradient": sums}


def peer_main(version: str) -> None:
    """In the peer's process: print its values."""
    import trl_peer

    found = {}
    for name, case in CASES.items():
        if case.version == version:
            given = given_for(case)
            found[name] = measured(trl_peer.trl(case, given), given)
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
    print(f"{'loss':27} {'TRL':8} {'ours':>12} {'TRL’s':>12} {'difference':>11} {'gradient':>9}")
    worst = 0.0
    for name, case in CASES.items():
        given = given_for(case)
        mine, theirs = measured(ours(case.options, given), given), peers[name]
        loss = abs(mine["loss"] - theirs["loss"]) / max(1.0, abs(theirs["loss"]))
        pairs = zip(mine["gradient"], theirs["gradient"], strict=True)
        gradient = max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)
        worst = max(worst, loss, gradient)
        print(
            f"{name:27} {case.version:8} {mine['loss']:12.7f} {theirs['loss']:12.7f} {loss:11.1e} "
            f"{gradient:9.1e}"
        )
    for name, why in LACKING.items():
        print(f"{name:27} {'–':8} {why}")
    print(f"largest difference {worst:.1e}, tolerance {TOLERANCE:.0e}")
    if arguments.write:
        command = "python benchmarks/loss_parity.py --write"
        text = json.dumps({"command": command, "values": peers}, indent=2, ensure_ascii=False)
        GOLDEN.write_text(text + "\n", encoding="utf-8")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
