"""Rendering is strict, and data is never template code."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale import prompts


@pytest.fixture
def template(tmp_path: Path) -> str:
    path = tmp_path / "mine.jinja"
    path.write_text("Q: {{ prompt }}\n{% if chosen_first %}A: {{ chosen }}{% endif %}\n")
    return str(path)


def test_literal_text(template: str) -> None:
    text = prompts.render(template, prompt="Name a bird.", chosen="wren", chosen_first=True)
    assert text == "Q: Name a bird.\nA: wren"


def test_a_missing_variable_is_an_error_even_in_a_branch_not_taken(template: str) -> None:
    with pytest.raises(ValueError, match=r"mine\.jinja: variable\(s\) chosen missing"):
        prompts.render(template, prompt="x", chosen_first=False)


@given(st.text())
def test_data_is_never_template_code(text: str) -> None:
    hostile = "{{ 7 * 7 }}{% for x in ().__class__ %}" + text
    rendered = prompts.render_text("[{{ prompt }}]", where="test", prompt=hostile)
    assert rendered == f"[{hostile}]"


def test_a_template_cannot_reach_into_python(tmp_path: Path) -> None:
    path = tmp_path / "bad.jinja"
    path.write_text("{{ prompt.__class__.__mro__ }}")
    with pytest.raises(ValueError, match=r"bad\.jinja"):
        prompts.render(str(path), prompt="x")


def test_an_unknown_template_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="no prompt template 'rationale_genral'.*rationale_gen"):
        prompts.render("rationale_genral")


def test_the_fingerprint_follows_the_wording(template: str) -> None:
    before = prompts.fingerprint(template)
    Path(template).write_text("other {{ prompt }}")
    assert prompts.fingerprint(template) != before
    assert prompts.variables(template) == {"prompt"}


def test_every_shipped_template_parses() -> None:
    for name in prompts.names():
        assert prompts.variables(name), name
