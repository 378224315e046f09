"""From the live engine to a plain Hugging Face folder, compared with the live model before use.

A *snapshot* is the full weights plus the log-probabilities that the live policy gives a few probe
rows. The folder is read back from disk and must hold the same tensors and give the same
log-probabilities; only then does it get its final name.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rayonale import models, storage
from rayonale.data import tokens
from rayonale.train import adapters, classifier, reward_head
from rayonale.train import engine as engines
from rayonale.train.batches import Batch
from rayonale.train.policy import DTYPES, Policy, load_model
from rayonale.train.settings import LoRA, RewardHeadSettings


@dataclass(frozen=True)
class Snapshot:
    """Weights by name (without the wrapper's prefix) and [S] log-probabilities of the probe.

    With adapters in the model, `weights` are the adapters'. With a reward head its weight is
    among them, and the probe is [2, S]: log-probabilities and rewards.
    """

    weights: dict[str, Tensor]
    probe: Tensor

    def save(self, uri: str) -> None:
        """Write as one safetensors file, whole or not at all."""
        with tempfile.TemporaryDirectory(prefix="rayonale-snapshot-") as folder:
            file = Path(folder) / "snapshot.safetensors"
            save_file({**self.weights, "probe": self.probe}, file)
            put(file, uri)

    @staticmethod
    def load(uri: str) -> Snapshot:
        """Read back what `save` wrote."""
        with tempfile.TemporaryDirectory(prefix="rayonale-snapshot-") as folder:
            fs, path = storage.filesystem(uri)
            local = str(Path(folder) / "snapshot.safetensors")
            fs.get(path, local)
            weights = load_file(local)
        return Snapshot({n: t for n, t in weights.items() if n != "probe"}, weights["probe"])


@torch.no_grad()
def take(engine: Any, probe: Batch, *, rank: int, device: torch.device) -> Snapshot | None:
    """The live model; every worker calls it, the first one gets it."""
    engine.eval()
    logprob = engine(**probe.inputs(device)).float().cpu()
    weights = engines.gathered(engine.module.model, keep=rank == 0)
    if any(adapters.is_adapter(name) for name in weights):  # the rest is as it was at the start
        weights = {name: t for name, t in weights.items() if adapters.is_adapter(name)}
    if engine.module.head is not None:
        weights |= reward_head.named(engines.gathered(engine.module.head, keep=rank == 0))
    return Snapshot(weights, logprob) if rank == 0 else None


def export(
    snapshot: Snapshot,
    *,
    start: str,
    chat_template: str | None,
    dtype: str,
    lora: LoRA | None = None,
    head: RewardHeadSettings | None = None,
    probe: Batch,
    card: str,
    uri: str,
) -> None:
    """Write `uri` as a Hugging Face folder: weights, config, tokenizer, template, model card.

    Adapters are added to the start's weights; they lie by themselves in `adapter/`. A reward head
    that is kept lies in `reward_head/`, and in `classifier/` with the same backbone.

    Args:
        start: folder or hub name that training started from (config and tokenizer).
        head: what becomes of the reward head, where there is one.
        probe: the rows of `snapshot.probe`.

    Raises:
        RuntimeError: what was read back differs from the live model.
    """
    with tempfile.TemporaryDirectory(prefix="rayonale-export-") as folder:
        path = Path(folder) / "model"
        weights, reward = reward_head.split(snapshot.weights)
        if lora is not None:
            adapters.save(weights, lora, start, path / adapters.FOLDER)
            plain = load_model(start, dtype, max_length=probe.tokens.shape[1])
            weights = adapters.merged(plain, path / adapters.FOLDER)
        snapshot = Snapshot(weights, snapshot.probe)
        _write(weights, start, chat_template, dtype, path)
        if reward is not None and head is not None and head.keep:
            reward_head.save(reward, path)
            if head.classifier:
                classifier.write(path, reward, path / classifier.FOLDER)
        (path / "README.md").write_text(card, encoding="utf-8")
        # 4-bit weights under the adapters are not those that the adapter is added to here.
        verify(path, snapshot, dtype, probe, live=lora is None or lora.quantize is None)
        put(path, uri)


def _write(
    weights: Mapping[str, Tensor], start: str, chat_template: str | None, dtype: str, path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    name, revision = models.pinned(start)
    config = AutoConfig.from_pretrained(name, revision=revision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    missing, unexpected = model.load_state_dict(dict(weights), strict=False, assign=True)
    model.tie_weights()
    still = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if unexpected or still:
        raise RuntimeError(
            f"export: weights do not fit the config: {unexpected or still or missing}"
        )
    with suppress(OSError):  # the start has none: transformers derives one from the config
        model.generation_config = GenerationConfig.from_pretrained(name, revision=revision)
    model.save_pretrained(path)
    tokens.load_tokenizer(start, chat_template).save_pretrained(path)


@torch.no_grad()
def verify(path: Path, snapshot: Snapshot, dtype: str, probe: Batch, live: bool = True) -> None:
    """Refuse a folder that does not give the live model back: all tensors, and log-probs.

    Args:
        live: compare the log-probabilities too.
    """
    model = load_model(str(path), dtype, max_length=probe.tokens.shape[1])
    found = dict(model.named_parameters())
    for name, tensor in snapshot.weights.items():
        if name in found and not torch.equal(found[name].cpu(), tensor.to(found[name].dtype)):
            raise RuntimeError(f"export: {name} read back from {path} differs from the live model")
    if missing := found.keys() - snapshot.weights.keys():
        raise RuntimeError(f"export: {sorted(missing)} were not gathered from the live model")
    if not live:
        return
    head = reward_head.load(path) if reward_head.has_head(path) else None
    logprob = Policy(model, head=head).eval()(**probe.inputs("cpu")).float()
    tolerance = 1e-4 if dtype == "float32" else 2e-2
    expected = snapshot.probe
    if expected.dim() == 2 and head is None:  # the head is dropped
        expected = expected[0]
    if not torch.allclose(logprob, expected, rtol=tolerance, atol=tolerance * 10):
        raise RuntimeError(
            f"export: log-probabilities of the exported model {logprob.tolist()} differ from the "
            f"live model's {expected.tolist()}"
        )


def put(local: Path, uri: str) -> None:
    """Copy a file or folder to its place: under a temporary name, then moved."""
    fs, path = storage.filesystem(uri)
    parent, _, name = path.rstrip("/").rpartition("/")
    temporary = f"{parent}/.{name}.incoming"
    fs.makedirs(parent, exist_ok=True)
    for old in (temporary, path):
        if fs.exists(old):
            fs.rm(old, recursive=True)
    if "local" in str(getattr(fs, "protocol", "")) or "file" in fs.protocol:
        copy = shutil.copytree if local.is_dir() else shutil.copyfile
        copy(local, temporary)
        Path(temporary).rename(path)
    else:
        fs.put(str(local), temporary, recursive=local.is_dir())
        fs.mv(temporary, path, recursive=local.is_dir())
