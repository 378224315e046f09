"""An ancestry as a tree on the terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from rayonale.lineage.ancestry import Ancestor
from rayonale.lineage.record import flat


def tree_of(ancestor: Ancestor, settings: bool = True) -> Tree:
    """The tree; `settings` shows every setting of every stage."""
    tree = Tree(_title(ancestor))
    _fill(tree, ancestor, settings)
    return tree


def _title(ancestor: Ancestor) -> str:
    role = f"[dim]{ancestor.role}:[/] " if ancestor.role else ""
    title = f"{role}[bold]{escape(ancestor.name)}[/] ({escape(ancestor.kind)})"
    if ancestor.registered_model:
        title += f" [green]model {escape(ancestor.registered_model)}[/]"
    return title + (f" [yellow]{escape(ancestor.note)}[/]" if ancestor.note else "")


def _fill(tree: Tree, ancestor: Ancestor, settings: bool) -> None:
    if ancestor.note == "shown above":
        return
    tree.add(f"[dim]{escape(ancestor.uri)}[/]")
    told = {
        "fingerprint": ancestor.fingerprint,
        "code": ancestor.code_version,
        "MLflow run": ancestor.mlflow_run_id,
        "counts": _counts(ancestor.counts),
        "settings": _settings(ancestor.settings) if settings else "",
    }
    for name, value in told.items():
        if value:
            tree.add(f"[dim]{name}[/] {escape(str(value))}")
    for prompt, about in ancestor.prompts.items():
        tree.add(f"[cyan]prompt[/] {escape(prompt)} [dim]{about['fingerprint']}[/]")
    for file in ancestor.raw_inputs:
        tree.add(
            f"[magenta]raw file[/] {escape(str(file['uri']))} [dim]{file.get('bytes', '?')} bytes, "
            f"sha256 {file.get('sha256', '?')}[/]"
        )
    for name, value in ancestor.external.items():
        tree.add(f"[magenta]from outside[/] {escape(name)} [dim]{escape(str(value))}[/]")
    for parent in ancestor.parents:
        _fill(tree.add(_title(parent)), parent, settings)


def _counts(counts: Any) -> str:
    if not counts:
        return ""
    told = [f"{counts.get('rows_in', '?')} rows in", f"{counts.get('rows_out', '?')} out"]
    for kind, reasons in (counts.get("rejects") or {}).items():
        if reasons:
            told.append(f"{kind} {sum(reasons.values())} {json.dumps(reasons)}")
    if "seconds" in counts:
        told.append(f"{counts['seconds']} s")
    return ", ".join(told)


def _settings(settings: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in flat(settings).items())
