"""Hashes of what a result depends on: values, code, prompts, files.

The code version of a stage is the hash of its own source modules, followed through imports
inside the package, and of the modules and prompts that its settings choose. Comments,
docstrings and formatting do not count, so that editing them voids no figure.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec

PACKAGE = "rayonale"
# The frame around stages: it decides whether they run, not what they give.
FRAME = ("stages", "recipe", "execution", "command", "cluster", "lineage", "report", "models")

_CHUNK = 1 << 22  # bytes


def of(value: Any) -> str:
    """Hash of a JSON-able value, whatever the order of its keys (32 hex digits)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def of_code(module: str, extra: Iterable[str] = ()) -> str:
    """Hash of a module, of what it imports from this package, and of extras.

    Args:
        module: dotted name.
        extra: `module:<dotted name>` or `prompt:<template name>`.
    """
    from rayonale import prompts

    found = set(modules_of(module))
    texts: dict[str, str] = {}
    for entry in extra:
        what, _, name = entry.partition(":")
        if what == "module":
            found.update(modules_of(name))
        elif what == "prompt":
            texts[entry] = prompts.source(name)
        else:
            raise ValueError(f"source {entry!r}: expected module:<name> or prompt:<name>")
    return of({**{name: _code_hash(name) for name in sorted(found)}, **texts})


@lru_cache(maxsize=512)
def modules_of(module: str) -> frozenset[str]:
    """A module and everything it imports from this package, the frame left out."""
    found, stack = set(), [module]
    while stack:
        name = stack.pop()
        if name in found:
            continue
        found.add(name)
        for imported in _imports(name):
            second = imported.split(".")[1] if "." in imported else ""
            in_own_frame = module.split(".")[1:2] == [second]
            if second and (second not in FRAME or in_own_frame):
                stack.append(imported)
    return frozenset(found)


@lru_cache(maxsize=1_024)
def _imports(module: str) -> frozenset[str]:
    """Modules of this package that a module imports, anywhere in its source."""
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names if a.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if _is_module(inner) else node.module)
    return frozenset(found)


@lru_cache(maxsize=1_024)
def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@lru_cache(maxsize=1_024)
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"module {module!r} has no source file")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


@lru_cache(maxsize=1_024)
def _code_hash(module: str) -> str:
    tree = ast.parse(ast.unparse(_tree(module)))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(node, body[0]):
            body[0] = ast.Pass()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_docstring(node: ast.AST, first: ast.AST) -> bool:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return (
        isinstance(node, holders)
        and isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


def of_prompts(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Template name → its fingerprint and text."""
    from rayonale import prompts

    return {
        name: {"fingerprint": prompts.fingerprint(name), "text": prompts.source(name)}
        for name in sorted(set(names))
    }


def of_file(uri: str) -> dict[str, Any]:
    """Size and SHA-256 of a file at any URI, streamed."""
    digest, size = hashlib.sha256(), 0
    with fsspec.open(uri, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"uri": uri, "bytes": size, "sha256": digest.hexdigest()}


def of_folder(uri: str) -> str:
    """Hash of all files in a folder: names and content (32 hex digits)."""
    fs, path = fsspec.core.url_to_fs(uri)
    files: Mapping[str, Any] = {
        name.removeprefix(path): of_file(fs.unstrip_protocol(name))["sha256"]
        for name in sorted(fs.find(path))
    }
    return of(files)
