"""Names of models: what a recipe writes → the folder (or hub name) that libraries load.

tinyworld                   the embedded base model
runs/…/model, /data/llama   a local Hugging Face folder
models:/name/3, models:/name@alias   a registered MLflow model
org/name, org/name@revision          a model of the Hugging Face hub
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash
from pydantic import BaseModel

_CHUNK = 1 << 24  # bytes


def resolve(ref: str) -> str:
    """Folder or hub name of a model.

    Raises:
        ValueError: `ref` looks like a folder that is not there, or lacks a `config.json`.
    """
    if ref == "tinyworld":
        from rayonale import tinyworld

        return str(tinyworld.base_model_path())
    if ref.startswith("models:/"):
        from rayonale.lineage import tracking

        return tracking.registered_model_folder(ref)
    path = Path(ref).expanduser()
    looks_local = path.is_absolute() or ref.startswith((".", "~")) or ref.count("/") != 1
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(
                f"model {ref!r}: {path} has no config.json; expected a Hugging Face model folder"
            )
        return str(path.resolve())
    if looks_local:
        raise ValueError(
            f"model {ref!r}: no such folder; expected 'tinyworld', a Hugging Face model folder, "
            "a hub name 'org/name', or 'models:/name/version'"
        )
    return ref


def revision(ref: str) -> tuple[str, str | None]:
    """Split a hub name `org/name@revision` into name and revision."""
    name, _, found = ref.partition("@")
    return name, found or None


def fingerprint(ref: str) -> str:
    """What identifies a model: a hash of all its files' content (32 hex digits).

    A hub name is not downloaded for it: its fingerprint is `hub:<name>`; pin a revision
    (`org/name@revision`) to make it exact.
    """
    found = resolve(ref)
    path = Path(found)
    if not path.is_dir():
        return f"hub:{found}"
    digest = xxhash.xxh3_128()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p.name != "README.md"):
        stat = file.stat()
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        digest.update(_file_hash(str(file), stat.st_size, stat.st_mtime_ns).encode())
    return digest.hexdigest()


@lru_cache(maxsize=4_096)
def _file_hash(path: str, size: int, mtime_ns: int) -> str:
    """Hash of a file's content; cached by size and time of change."""
    digest = xxhash.xxh3_128()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def referenced(settings: BaseModel) -> list[str]:
    """Every model named in settings: values of fields called `model`, at any depth."""
    return sorted(set(_values_of(settings.model_dump(mode="json"), ("model", "model_path"))))


def template_files(settings: BaseModel) -> dict[str, str]:
    """Chat-template files named in settings, with a hash of their content.

    Templates in a model's own folder are part of its fingerprint.
    """
    named = set(_values_of(settings.model_dump(mode="json"), ("chat_template",)))
    texts = {name for name in named if "{{" in name or "{%" in name}
    return {
        name: xxhash.xxh3_128_hexdigest(Path(name).read_bytes())
        for name in sorted(named - texts)
        if Path(name).is_file()
    }


def _values_of(value: Any, keys: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in keys and isinstance(item, str) and item:
                yield item
            else:
                yield from _values_of(item, keys)
    elif isinstance(value, list):
        for item in value:
            yield from _values_of(item, keys)


def pinned(ref: str) -> tuple[str, str | None]:
    """What Transformers' `from_pretrained` takes: a folder, or a hub name and its revision."""
    found = ref if Path(ref).is_dir() else resolve(ref)  # a tokenizer's folder has no config.json
    return (found, None) if Path(found).is_dir() else revision(found)
