"""Hashes that decide whether something is still the same: values, code, prompts, files."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec

_CHUNK = 1 << 22  # bytes read at a time
_PARSING = threading.Lock()

# What runs stages, and cannot change what a stage computes: edits here void no figures. Modules
# whose names end with `estimates` are left out, too: they tell what a stage will take.
_ESTIMATES = "estimates"
INFRASTRUCTURE = (
    "rayonale.stages",
    "rayonale.recipe",
    "rayonale.execution",
    "rayonale.command",
    "rayonale.cluster",
    "rayonale.lineage",
    "rayonale.report",
    "rayonale.planning",
)


def of(value: Any) -> str:
    """Hash of a JSON-able value, whatever the order of its keys (32 hex digits).

    Raises:
        TypeError: the value is not JSON-able.
        ValueError: it holds NaN or infinity, which are not JSON.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def of_code(module: str, extra: Iterable[str] = ()) -> str:
    """Hash of a stage's own code: its module and all modules of the package it imports.

    Imports are followed at module level and inside functions. Comments, docstrings and
    formatting do not count, so that explaining code better voids no figures. What runs stages
    (`INFRASTRUCTURE`) is left out, unless the stage itself lives there.

    Args:
        module: where to start, such as "rayonale.train.stage".
        extra: further things that the result depends on, which imports do not show:
            "module:rayonale.losses.dpo" or "prompt:rationale_general".

    Raises:
        ValueError: an entry of `extra` has another form, or names no module or prompt.
    """
    starts, prompts = [module], set[str]()
    for entry in extra:
        kind, _, name = entry.partition(":")
        if kind == "module" and name:
            starts.append(name)
        elif kind == "prompt" and name:
            prompts.add(name)
        else:
            raise ValueError(
                f"source {entry!r}: expected 'module:<dotted name>' or 'prompt:<template>'"
            )
    return of(
        {
            "modules": {name: _parsed(name)[0] for name in modules_of(starts)},
            "prompts": {name: p["fingerprint"] for name, p in of_prompts(prompts).items()},
        }
    )


def modules_of(starts: Iterable[str]) -> list[str]:
    """The modules that `of_code` hashes, in name order.

    Raises:
        ValueError: a start is no module.
    """
    stack = list(starts)
    for start in stack:
        if _file_of(start) is None:
            raise ValueError(f"source module {start!r}: no such module")
    kept = tuple(i for i in INFRASTRUCTURE if any(_within(start, i) for start in stack))
    left_out = tuple(i for i in INFRASTRUCTURE if i not in kept)
    found = set(stack)
    while stack:
        for name in _parsed(stack.pop())[1]:
            if name in found or name.endswith(_ESTIMATES):
                continue
            if not any(_within(name, i) for i in left_out):
                found.add(name)
                stack.append(name)
    return sorted(found)


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@lru_cache(maxsize=4_096)
def _file_of(module: str) -> Path | None:
    """Source file of a module, found without importing it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root, *rest)
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file() and (rest or candidate.name == "__init__.py"):
                return candidate
    return None


@lru_cache(maxsize=4_096)
def _parsed(module: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a module's code and the modules of its package that it imports.

    Cached for the life of the process: it is the code that was there when it was imported.
    """
    file = _file_of(module)
    assert file is not None, module
    tree = syntax_tree(file)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    imported = tuple(sorted(set(_imports(tree, package))))
    for node in ast.walk(tree):
        _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:32], imported


def syntax_tree(file: Path) -> ast.Module:
    """A source file, parsed.

    One at a time: Python 3.11 counts the depth of all threads' trees in one place, and fails with a
    SystemError where two are built at once, as by stages that run beside each other.
    """
    text = file.read_text(encoding="utf-8")
    with _PARSING:
        return ast.parse(text, str(file))


def _drop_docstring(node: ast.AST) -> None:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Modules of `package`'s top package that a module imports, anywhere in it."""
    top = package.partition(".")[0]
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack.extend(node.orelse)  # imported for annotations only
            continue
        stack.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            # `from a.b import c`: c is a module of its own, or a name defined in a.b
            names = (
                [full if _file_of(full := f"{base}.{alias.name}") else base for alias in node.names]
                if _within(base, top)
                else []
            )
        else:
            continue
        for name in names:
            if _within(name, top) and name != top and _file_of(name):
                yield name


def of_prompts(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Fingerprint and text of prompt templates, by name.

    Raises:
        ValueError: no such template.
    """
    from rayonale import prompts

    return {
        name: {"fingerprint": prompts.fingerprint(name), "text": prompts.source(name)}
        for name in sorted(set(names))
    }


def of_file(uri: str) -> dict[str, Any]:
    """Size and hash of a file's content: `{"uri":, "bytes":, "sha256":}`; streamed.

    Raises:
        OSError: the file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with fsspec.open(uri, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"uri": uri, "bytes": size, "sha256": digest.hexdigest()}


def of_folder(uri: str) -> str:
    """Hash of every file's path and content in a folder, or of one file (32 hex digits).

    Hidden files (and files in hidden folders) do not count.

    Raises:
        ValueError: there is nothing there.
    """
    fs, root = fsspec.core.url_to_fs(uri)
    root = root.rstrip("/")
    contents: dict[str, str] = {}
    for path in sorted(fs.find(root)):
        relative = path[len(root) :].lstrip("/")
        if not any(part.startswith(".") for part in relative.split("/")):
            digest = hashlib.sha256()
            with fs.open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            contents[relative] = digest.hexdigest()
    if not contents:
        raise ValueError(f"{uri}: no such file or folder, or an empty one")
    return of(contents)
