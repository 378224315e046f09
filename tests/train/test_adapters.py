"""LoRA: only adapters learn, the merged export is the live model, the reference is adapter off."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from rayonale import losses, storage
from rayonale.train import adapters, export, loop, shards
from rayonale.train.batches import collate
from rayonale.train.examples import Encoding
from rayonale.train.plan import make_plan
from rayonale.train.policy import Policy, load_model
from rayonale.train.settings import LoRA, TrainSettings

LORA = LoRA(r=4, alpha=16)


@pytest.fixture(scope="module")
def token_rows(
    micro_model: str, rows: str, tmp_path_factory: pytest.TempPathFactory
) -> shards.TokenRows:
    out = str(tmp_path_factory.mktemp("tokens"))
    encoding = Encoding(micro_model, ("chosen", "rejected"))
    return shards.TokenRows(
        shards.tokenise(rows, "train", None, encoding, out), ("chosen", "rejected")
    )


class PlainEngine:
    """What the loop asks of DeepSpeed, in plain PyTorch."""

    def __init__(self, policy: Policy) -> None:
        self.module = policy
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-2)

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.module(**inputs)

    def train(self) -> None:
        self.module.train()

    def eval(self) -> None:
        self.module.eval()

    def backward(self, loss: torch.Tensor, scale_wrt_gas: bool) -> None:
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_global_grad_norm(self) -> float:
        return 0.0


@pytest.fixture(scope="module", params=["cpo", "simpo"])
def trained(request: pytest.FixtureRequest, micro_model: str, token_rows: shards.TokenRows):
    """An engine after four steps, by a loss; and the batch that is compared on."""
    model = load_model(micro_model, "float32", 2_048)
    adapters.attach(model, LORA, seed=0)
    engine = PlainEngine(Policy(model))
    settings = TrainSettings(
        loss=losses.parse(LOSSES[request.param]), lora=LORA, learning_rate=1e-2, batch_pairs=14
    )
    loop.train(
        engine,
        token_rows,
        None,
        settings=settings,
        plan=make_plan(len(token_rows), 14, epochs=None, max_steps=4, seed=0),
        hooks=loop.Hooks(lambda entry: None, lambda now: None, lambda now: None),
        progress=loop.Progress(),
        device=torch.device("cpu"),
        rank=0,
        world=1,
    )
    engine.eval()
    return engine, collate(token_rows.take([0, 1, 2]), ("chosen", "rejected"))


LOSSES = {
    "cpo": {"name": "cpo"},
    "simpo": {"name": "simpo", "beta": 2.0},
}


@torch.no_grad()
def logprob(policy: Policy, batch) -> torch.Tensor:
    return policy.eval()(**batch.inputs("cpu"))


def test_only_adapters_learn(trained, micro_model: str) -> None:
    engine, _ = trained
    start = dict(load_model(micro_model, "float32", 2_048).named_parameters())
    learnt = 0
    for name, parameter in engine.module.model.named_parameters():
        assert parameter.requires_grad == adapters.is_adapter(name)
        if adapters.is_adapter(name):
            learnt += parameter.numel()
        else:
            assert torch.equal(parameter, start[name.replace(".base_layer", "")]), name
    # Llama's seven linear layers, two matrices of rank 4 each, two layers deep.
    shapes = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 160), (64, 160), (160, 64)]
    assert learnt == 2 * sum(4 * (a + b) for a, b in shapes)


def test_the_reference_is_adapter_off(trained, micro_model: str) -> None:
    engine, batch = trained
    start = logprob(Policy(load_model(micro_model, "float32", 2_048)), batch)
    live = logprob(engine.module, batch)
    assert not torch.allclose(live, start, atol=1e-2)
    with adapters.off(engine.module):
        assert torch.equal(logprob(engine.module, batch), start)
    assert torch.equal(logprob(engine.module, batch), live)


def test_merged_export_and_adapter(trained, micro_model: str, tmp_path: Path) -> None:
    from peft import PeftModel

    engine, batch = trained
    snapshot = export.take(engine, batch, rank=0, device=torch.device("cpu"))
    assert snapshot is not None and all(adapters.is_adapter(name) for name in snapshot.weights)
    out = tmp_path / "model"
    export.export(
        snapshot,
        start=micro_model,
        chat_template=None,
        dtype="float32",
        lora=LORA,
        probe=batch,
        card="",
        uri=str(out),
    )
    live = logprob(engine.module, batch)
    merged = logprob(Policy(load_model(str(out), "float32", 2_048)), batch)
    assert torch.allclose(merged, live, rtol=1e-4)
    assert not any("lora" in name for name in load_file(out / "model.safetensors"))
    beside = PeftModel.from_pretrained(load_model(micro_model, "float32", 2_048), out / "adapter")
    assert torch.allclose(logprob(Policy(beside.get_base_model()), batch), live, rtol=1e-5)


def test_an_export_that_differs_from_the_live_model_is_refused(
    trained, micro_model: str, tmp_path: Path
) -> None:
    engine, batch = trained
    snapshot = export.take(engine, batch, rank=0, device=torch.device("cpu"))
    assert snapshot is not None
    spoilt = {name: torch.zeros_like(tensor) for name, tensor in snapshot.weights.items()}
    with pytest.raises(RuntimeError, match="differ from the live model's"):
        export.export(
            export.Snapshot(spoilt, snapshot.probe),
            start=micro_model,
            chat_template=None,
            dtype="float32",
            lora=LORA,
            probe=batch,
            card="",
            uri=str(tmp_path / "model"),
        )
    assert not storage.exists(str(tmp_path / "model"))


def test_adapters_begin_as_nothing_and_alike(micro_model: str) -> None:
    found = []
    for _ in range(2):
        model = load_model(micro_model, "float32", 2_048)
        adapters.attach(model, LORA, seed=3)
        found.append({n: p for n, p in model.named_parameters() if adapters.is_adapter(n)})
    for name, parameter in found[0].items():
        assert torch.equal(parameter, found[1][name])
        assert (parameter == 0).all() == ("lora_B" in name)


def test_unknown_target(micro_model: str) -> None:
    model = load_model(micro_model, "float32", 2_048)
    with pytest.raises(ValueError, match="found query; expected linear layers .* q_proj, up_proj"):
        adapters.attach(model, LoRA(targets=("q_proj", "query")), seed=0)


def test_named_targets(micro_model: str) -> None:
    model = load_model(micro_model, "float32", 2_048)
    adapters.attach(model, LoRA(targets=("q_proj",)), seed=0)
    assert all("q_proj" in n for n, p in model.named_parameters() if p.requires_grad)


def test_4_bits_need_a_gpu_and_bitsandbytes() -> None:
    quantised = LoRA(quantize="nf4")
    assert adapters.quantisation(LORA, torch.device("cpu")) is None
    with pytest.raises(ValueError, match=r"a CUDA device \(found cpu\)"):
        adapters.quantisation(quantised, torch.device("cpu"))
    with pytest.raises(ValidationError, match="nf4 needs a CUDA device, found use_gpu: false"):
        TrainSettings(loss="sft", lora=quantised, use_gpu=False)
    with pytest.raises(ValidationError, match="zero_stage 3 cannot split 4-bit weights"):
        TrainSettings(loss="sft", lora=quantised, zero_stage=3)
