"""API keys: only hashes are kept, and what is revoked is refused without a restart."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from rayonale.serve import keys


def test_a_key_is_shown_once_and_kept_as_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    key = keys.add(file, "alice")
    other = keys.add(file, "bob")
    assert key.startswith("ray-") and len(key) > 40 and key != other
    assert key not in file.read_text()
    assert file.read_text().startswith(f"alice sha256:{keys.hash_of(key)}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    known = keys.Keys(str(file))
    assert known.name_of(key) == "alice" and known.name_of(other) == "bob"
    assert known.name_of("") is None and known.name_of(key + "x") is None
    assert known.name_of(keys.hash_of(key)) is None  # the hash itself opens nothing


def test_a_revoked_key_is_refused_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_LOOK_S", 0.0)
    file = tmp_path / "keys.txt"
    alice, bob = keys.add(file, "alice"), keys.add(file, "bob")
    known = keys.Keys(str(file))
    keys.revoke(file, "alice")
    assert known.name_of(alice) is None and known.name_of(bob) == "bob"
    carol = keys.add(file, "carol")
    assert known.name_of(carol) == "carol"
    file.write_text("broken\n")  # nobody is let in by a file that cannot be read
    assert known.name_of(bob) is None
    file.unlink()
    assert known.name_of(bob) is None


def test_what_is_wrong_with_a_keys_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    with pytest.raises(FileNotFoundError):
        keys.Keys(str(file))
    keys.add(file, "alice")
    with pytest.raises(ValueError, match="the name alice repeats"):
        keys.add(file, "alice")
    with pytest.raises(ValueError, match="expected `name sha256"):
        keys.add(file, "not a name")
    with pytest.raises(ValueError, match="no key named bob"):
        keys.revoke(file, "bob")
    assert list(keys.parse(file.read_text(), "")) == ["alice"]


def test_keys_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.new_key()
    line = f"ci sha256:{keys.hash_of(key)}"
    monkeypatch.setenv("SERVED_KEYS", f"{line},  # a note\n other sha256:{'0' * 64}")
    assert keys.Keys(env="SERVED_KEYS").name_of(key) == "ci"
    with pytest.raises(ValueError, match="no environment variable NONE_SUCH"):
        keys.Keys(env="NONE_SUCH")
