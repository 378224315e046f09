"""Names of models, and what identifies one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from rayonale import models


def model_folder(path: Path, weights: bytes = b"w") -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_folder_a_hub_name_and_what_is_neither(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    assert models.resolve(str(folder)) == str(folder)
    assert models.resolve("org/name") == "org/name"
    assert models.fingerprint("org/name@abc") == "hub:org/name@abc"
    assert models.revision("org/name@abc") == ("org/name", "abc")
    with pytest.raises(ValueError, match="no such folder"):
        models.resolve(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no config.json"):
        models.resolve(str(tmp_path / "empty"))


def test_the_fingerprint_is_the_content(tmp_path: Path) -> None:
    one, same = model_folder(tmp_path / "a"), model_folder(tmp_path / "b")
    other = model_folder(tmp_path / "c", b"v")
    assert models.fingerprint(str(one)) == models.fingerprint(str(same))
    assert models.fingerprint(str(one)) != models.fingerprint(str(other))
    (one / "README.md").write_text("a card says nothing about the weights")
    assert models.fingerprint(str(one)) == models.fingerprint(str(same))


def test_models_are_found_in_settings_at_any_depth() -> None:
    class Judge(BaseModel):
        model: str = "org/judge"

    class Settings(BaseModel):
        model: str | None = None
        judges: list[Judge] = [Judge(), Judge(model="tinyworld")]

    assert models.referenced(Settings()) == ["org/judge", "tinyworld"]


def test_chat_template_files_are_found_in_settings_and_hashed(tmp_path: Path) -> None:
    class Inner(BaseModel):
        chat_template: str | None = None

    class Outer(BaseModel):
        engine: Inner
        chat_template: str | None = None

    file = tmp_path / "t.jinja"
    file.write_text("{{ one }}")
    named = Outer(engine=Inner(chat_template=str(file)), chat_template="{{ inline }}")
    before = models.template_files(named)
    assert list(before) == [str(file)]
    file.write_text("{{ two }}")
    assert models.template_files(named) != before
