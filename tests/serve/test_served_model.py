"""Which version may take another's place in a running engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.serve import models

from rayonale.serve import served_model


def copied(base: Path, folder: Path) -> Path:
    """A copy of the embedded model to spoil."""
    return Path(shutil.copytree(base, folder))


def test_other_weights_of_the_same_shape_fit(tinyworld_model: Path, tmp_path: Path) -> None:
    other = models.make_policy(tinyworld_model, tmp_path / "other", 1.5)
    old = served_model.resolve("tinyworld")
    new = served_model.resolve(str(other))
    assert served_model.fits(old, new) is None
    assert old.fingerprint != new.fingerprint
    assert new.told == f"model:{new.fingerprint[:16]}" and new.version is None


def test_what_does_not_fit_is_told_before_the_engine_is_touched(
    tinyworld_model: Path, tmp_path: Path
) -> None:
    old = served_model.resolve("tinyworld")
    odd = copied(tinyworld_model, tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    assert "architecture" in str(served_model.fits(old, served_model.resolve(str(odd))))
    cut = copied(tinyworld_model, tmp_path / "cut")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[:-100])
    assert "cut off" in str(served_model.fits(old, served_model.resolve(str(cut))))
    (cut / "model.safetensors").write_bytes(b"\xff" * 64)
    assert "cannot be read" in str(served_model.fits(old, served_model.resolve(str(cut))))
    served_model.require_safetensors(str(cut))
    (cut / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="pickled_weights: true"):
        served_model.require_safetensors(str(cut))
    assert "differ" in str(served_model.fits(old, served_model.resolve(str(cut))))


def test_only_aliases_move() -> None:
    assert served_model.follows("models:/dpo@champion")
    assert not served_model.follows("models:/dpo/3")
    assert not served_model.follows("org/name@revision")
