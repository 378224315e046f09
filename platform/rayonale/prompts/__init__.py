"""Prompts: one `.jinja` file each, and the one function that renders them.

A template is named either by a bare name (`rationale_general`: a file of this folder), by
`tinyworld/<name>` (the small world's short wordings), or by the path of a user's own file.
Rendering is strict: a variable that the template uses and the caller lacks is an error. Values
are inserted as plain text; they are never parsed as template code.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

_FOLDER = Path(__file__).parent
_NAMESPACES = {"tinyworld": _FOLDER.parent / "tinyworld" / "prompts"}

_environment = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined,
    autoescape=False,
    keep_trailing_newline=False,
    trim_blocks=True,
    lstrip_blocks=True,
)


def names() -> list[str]:
    """Names of all templates that ship with the package."""
    own = [p.stem for p in _FOLDER.glob("*.jinja")]
    spaced = [f"{space}/{p.stem}" for space, d in _NAMESPACES.items() for p in d.glob("*.jinja")]
    return sorted(own + spaced)


def path_of(name: str) -> Path:
    """File of a template.

    Raises:
        ValueError: no such template; the message lists the choices.
    """
    space, _, rest = name.rpartition("/")
    candidates = [Path(name)] if name.endswith(".jinja") else []
    if space in _NAMESPACES:
        candidates.append(_NAMESPACES[space] / f"{rest}.jinja")
    if not space:
        candidates.append(_FOLDER / f"{name}.jinja")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ValueError(
        f"no prompt template {name!r}: expected the path of a .jinja file or one of "
        f"{', '.join(names())}"
    )


def source(name: str) -> str:
    """Text of a template, as written."""
    return path_of(name).read_text(encoding="utf-8")


def fingerprint(name: str) -> str:
    """Hash of a template's text (16 hex digits): a changed wording is another prompt."""
    return hashlib.sha256(source(name).encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def _compiled(text: str) -> tuple[Template, frozenset[str]]:
    used = meta.find_undeclared_variables(_environment.parse(text))
    return _environment.from_string(text), frozenset(used)


def variables(name: str) -> frozenset[str]:
    """Variables that a template uses."""
    return variables_of(source(name))


def variables_of(text: str) -> frozenset[str]:
    """Variables that template text uses."""
    return _compiled(text)[1]


def render(name: str, /, **values: Any) -> str:
    """Render a template to the text of one message.

    Args:
        name: bare name, `tinyworld/<name>`, or the path of a `.jinja` file.
        **values: the template's variables; extra ones are allowed (a template need not
            show everything), missing ones are not.

    Raises:
        ValueError: unknown template, or a variable is missing; the message names both.
    """
    return render_text(source(name), where=str(path_of(name)), **values)


def render_text(text: str, /, *, where: str, **values: Any) -> str:
    """Render template text that is already in memory (actors get text, not paths)."""
    try:
        template, used = _compiled(text)
        missing = sorted(used - values.keys())
        if missing:
            raise ValueError(
                f"{where}: variable(s) {', '.join(missing)} missing; given: "
                f"{', '.join(sorted(values)) or 'none'}"
            )
        return template.render(**values).strip()
    except TemplateError as error:
        raise ValueError(f"{where}: {error}") from error
