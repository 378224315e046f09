"""ZeRO 0-3 on two processes: the same weights as a plain loop on one, and resuming to the digit."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rayonale import losses, storage
from rayonale.train import reward_head, scoring, shards
from rayonale.train.batches import collate
from rayonale.train.examples import Encoding, columns_of
from rayonale.train.plan import make_plan
from rayonale.train.policy import Policy, load_model
from rayonale.train.settings import RationalePrompt, TrainSettings

WORLD = 2
BASE = {
    "loss": {"name": "rdpo", "beta": 0.5, "gamma": 1.0, "form": "paper", "reduction": "token"},
    "batch_pairs": 15,
    "micro_batch_pairs": 4,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "clip": 0.5,
    "schedule": "linear",
}
RUNS = {
    **{f"zero{stage}": {**BASE, "zero_stage": stage} for stage in range(4)},
    "checkpointing": {**BASE, "zero_stage": 3, "gradient_checkpointing": True},
    "bfloat16": {**BASE, "zero_stage": 1, "dtype": "bfloat16"},
    # Looks ahead at the whole global batch: one more forward pass, on every worker alike.
    "kto": {**BASE, "zero_stage": 3, "loss": {"name": "kto", "beta": 0.5}},
    # With a reward head; the ensemble's oracles leave the language model's head without gradient.
    "drdo": {**BASE, "zero_stage": 3, "loss": {"name": "drdo"}, "reward_head": {"std": 0.3}},
    "oracle": {**BASE, "zero_stage": 2, "loss": {"name": "bradley_terry", "alpha": 0.0}},
}


@pytest.fixture(scope="module")
def shard(
    micro_model: str, rows: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """56 tokenised rows (so batches are ragged) with made-up reference log-probabilities."""
    prompt = RationalePrompt(template=template)
    encoding = Encoding(micro_model, ("chosen", "rejected", "rationale"), rationale=prompt)
    out = str(tmp_path_factory.mktemp("tokens"))
    (plain,) = shards.tokenise(rows, "train", None, encoding, out)
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(plain)).read_all()
    for place, name in enumerate(("reward_chosen", "reward_rejected")):
        values = [((7 * n) % 11 - 3 * place) / 4 for n in range(len(table))]
        table = table.append_column(name, pa.array(values, pa.float32()))
    return with_reference(table, ("chosen", "rejected"), storage.join(out, "pairs.arrow"))


def with_reference(table, sequences: tuple[str, ...], uri: str) -> str:
    """Add made-up reference log-probabilities and write the shard."""
    import pyarrow as pa

    for name in sequences:
        values = [-5.5 * n for n in table[f"{name}_tokens"].to_pylist()]
        table = table.append_column(f"ref_{name}_logprob", pa.array(values, pa.float32()))
    storage.write_bytes(uri, shards._ipc(table))
    return uri


@pytest.fixture(scope="module")
def labelled(shard: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same rows unpaired: every second chosen response desired, the others' rejected not."""
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(shard)).read_all()
    found = []
    for number, row in enumerate(table.to_pylist()):
        response, mismatched = (row["rejected"], row["chosen"])[:: 1 if number % 2 else -1]
        example = {"id": row["id"], "prompt": row["prompt"], "prompt_tokens": row["prompt_tokens"]}
        example |= {"response": response, "response_tokens": len(response)}
        example |= {"mismatched": mismatched, "mismatched_tokens": len(mismatched)}
        found.append({**example, "label": float(number % 2 == 0)})
    schema = Encoding("", ("response", "mismatched"), values=("label",)).schema()
    uri = str(tmp_path_factory.mktemp("labelled") / "labelled.arrow")
    rows = pa.Table.from_pylist(found, schema=schema)
    return with_reference(rows, ("response", "mismatched"), uri)


@pytest.fixture(scope="module")
def trained(
    micro_model: str, shard: str, labelled: str, tmp_path_factory: pytest.TempPathFactory
) -> dict:
    """What the two processes leave, by run."""
    out = tmp_path_factory.mktemp("zero")
    spec = out / "spec.json"
    spec.write_text(
        json.dumps({"runs": RUNS, "shards": shards_of(shard, labelled), "model": micro_model})
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(Path(__file__).parent / "zero_worker.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(WORLD), str(port), str(spec), str(out)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    told = [worker.communicate(timeout=200)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told[0][-3_000:] + told[1][-3_000:]
    return {name: torch.load(out / f"{name}.pt") for name in RUNS}


def shards_of(shard: str, labelled: str) -> dict[str, str]:
    """Loss → the rows that it reads."""
    return {"rdpo": shard, "drdo": shard, "bradley_terry": shard, "kto": labelled}


@pytest.fixture(scope="module")
def plain(micro_model: str, shard: str) -> dict:
    """The same run in plain PyTorch."""
    return train_plainly(micro_model, shard, BASE)


def train_plainly(micro_model: str, shard: str, options: dict) -> dict:
    """One process, no micro-batches, no DeepSpeed."""
    settings = TrainSettings(**{**options, "zero_stage": 0, "micro_batch_pairs": 1_000})
    loss, device = losses.of(settings.loss), torch.device("cpu")
    rows = shards.TokenRows([shard], loss.sequences, bool(loss.rewards))
    plan = make_plan(len(rows), settings.batch_pairs, epochs=None, max_steps=6, seed=0)
    model, wanted = load_model(micro_model, "float32", 2_048), settings.head()
    head = reward_head.make(model, wanted, 0, micro_model) if wanted else None
    policy = Policy(model, head=head)
    groups = [
        {"params": [p for p in policy.parameters() if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in policy.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    found: dict = {"losses": [], "norms": []}
    for step in range(plan.steps):
        numbers = plan.global_batch(step)
        rate = 1e-3 * (1 - step / (4 if step < 4 else 6))  # the worker's runs end at 4, then at 6
        for group in optimizer.param_groups:
            group["lr"] = rate
        ahead = scoring.look_ahead(
            policy, rows, numbers, loss, settings, device=device, rank=0, world=1
        )
        batch = collate(
            rows.take(numbers),
            loss.sequences,
            values=columns_of(loss, loss.sequences),
            whole=bool(loss.rewards),
        )
        scores = scoring.score(policy, batch, loss, device, ahead)
        value = scoring.Tally(rows.counts(numbers)).add(scores, batch, loss, settings)
        optimizer.zero_grad()
        value.backward()
        found["norms"].append(torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5).item())
        found["losses"].append(value.item())
        optimizer.step()
    found["weights"] = {n: p.detach() for n, p in policy.model.named_parameters()}
    if head is not None:
        found["weights"] |= reward_head.named({"weight": head.weight.detach()})
    return found


@pytest.mark.parametrize("name", ["kto", "drdo", "oracle"])
def test_looking_ahead_and_reward_heads(
    trained: dict, micro_model: str, shard: str, labelled: str, name: str
) -> None:
    rows = shards_of(shard, labelled)[RUNS[name]["loss"]["name"]]
    plain = train_plainly(micro_model, rows, RUNS[name])
    assert trained[name]["losses"][:6] == pytest.approx(plain["losses"], rel=1e-4)
    assert trained[name]["weights"].keys() >= plain["weights"].keys()
    for parameter, wanted in plain["weights"].items():
        assert torch.allclose(trained[name]["weights"][parameter], wanted, atol=2e-4), parameter


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "checkpointing"])
def test_equals_plain_pytorch(trained: dict, plain: dict, name: str) -> None:
    found = trained[name]
    assert found["losses"][:6] == pytest.approx(plain["losses"], rel=1e-4)
    assert found["norms"][:6] == pytest.approx(plain["norms"], rel=1e-3)
    for parameter, wanted in plain["weights"].items():
        assert torch.allclose(found["weights"][parameter], wanted, atol=2e-4), parameter


@pytest.mark.parametrize("name", RUNS)
def test_resumes_to_the_digit(trained: dict, name: str) -> None:
    found = trained[name]
    assert found["losses"][4:6] == found["losses"][6:8]
    for parameter, weights in found["weights"].items():
        assert torch.equal(weights, found["resumed"][parameter]), parameter


def test_bfloat16_stays_near(trained: dict, plain: dict) -> None:
    assert trained["bfloat16"]["losses"][:6] == pytest.approx(plain["losses"], rel=2e-2)
    assert trained["bfloat16"]["weights"]["model.norm.weight"].dtype == torch.bfloat16
