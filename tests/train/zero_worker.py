"""What test_zero.py starts: two processes that train with every ZeRO stage, without Ray.

zero_worker.py <rank> <world> <port> <spec.json> <out folder>
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path


def main() -> None:
    rank, world, port = (int(value) for value in sys.argv[1:4])
    spec, out = json.loads(Path(sys.argv[4]).read_text()), Path(sys.argv[5])
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    from rayonale.train import engine

    device = engine.prepare_process(0, rank, use_gpu=False, threads=1)
    import torch

    torch.distributed.init_process_group("gloo")
    for name, options in spec["runs"].items():
        result = run(options, spec, rank, world, device)
        if rank == 0:
            torch.save(result, out / f"{name}.pt")
    torch.distributed.destroy_process_group()


def run(options, spec, rank, world, device):
    from rayonale.train import batches, checkpoints, engine, export, loop, reward_head
    from rayonale.train.plan import make_plan
    from rayonale.train.policy import Policy, load_model
    from rayonale.train.settings import TrainSettings
    from rayonale.train.shards import TokenRows

    settings = TrainSettings(**options)
    loss = loop.losses.of(settings.loss)
    sequences, whole = loss.sequences, bool(loss.rewards)
    rows = TokenRows([spec["shards"][settings.loss.name]], sequences, whole)
    plan = make_plan(len(rows), settings.batch_pairs, epochs=None, max_steps=6, seed=0)
    entries = []
    hooks = loop.Hooks(entries.append, lambda now: None, lambda now: None)

    def start():
        model = load_model(spec["model"], settings.dtype, settings.max_length)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        wanted = settings.head()
        head = reward_head.make(model, wanted, 0, spec["model"]) if wanted else None
        return engine.start(Policy(model, head=head), settings, world)

    def go(live, progress, steps):
        return loop.train(
            live,
            rows,
            None,
            settings=settings,
            plan=replace(plan, steps=steps),
            hooks=hooks,
            progress=progress,
            device=device,
            rank=rank,
            world=world,
        )

    live = start()
    progress = go(live, loop.Progress(), 4)
    probe = batches.collate(rows.take([0, 1]), sequences, whole=whole)
    with tempfile.TemporaryDirectory() as folder:
        folders = [folder]
        torch_broadcast(folders)
        checkpoints.write(live, progress, folders[0], rank=rank, world=world)
        torch_barrier()
        go(live, progress, 6)
        through = export.take(live, probe, rank=rank, device=device)
        again = start()  # as after a kill: a new engine, the rest from the checkpoint
        assert checkpoints.read(again, folders[0], rank=rank, world=world).step == 4
        go(again, progress, 6)
        resumed = export.take(again, probe, rank=rank, device=device)
        torch_barrier()
    if rank != 0:
        return None
    return {
        "losses": [e["loss"] for e in entries],
        "norms": [e["grad_norm"] for e in entries],
        "weights": through.weights,
        "resumed": resumed.weights,
        "probe": through.probe,
    }


def torch_broadcast(values):
    import torch

    torch.distributed.broadcast_object_list(values, src=0)


def torch_barrier():
    import torch

    torch.distributed.barrier()


if __name__ == "__main__":
    main()
