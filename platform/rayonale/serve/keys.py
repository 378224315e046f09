"""API keys: 256 random bits, kept as hashes, compared in constant time, revoked without restart.

A keys file has one line a key::

    alice sha256:3f0c…      # the name is for logs; the hash is that of the whole key

A key is random and as long as the hash, so a plain hash is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

from rayonale import storage

PREFIX = "ray-"
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._@-]{1,64})\s+sha256:(?P<hash>[0-9a-f]{64})$")
_LOOK_S = 1.0  # a revoked key is refused after this time at most


def new_key() -> str:
    """A fresh key; it is shown once and kept nowhere."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse(text: str, where: str) -> dict[str, str]:
    """Name → hash of a keys file's lines; blank lines and what follows `#` count as nothing.

    Raises:
        ValueError: a line is not of that form, or a name repeats.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        kept = line.split("#")[0].strip()
        if not kept:
            continue
        match = _LINE.match(kept)
        if not match:
            raise ValueError(f"{where}:{number}: expected `name sha256:<64 hex digits>`")
        if match["name"] in found:
            raise ValueError(f"{where}:{number}: the name {match['name']} repeats")
        found[match["name"]] = match["hash"]
    return found


def add(file: Path, name: str) -> str:
    """Make a key, add its hash to a keys file (mode 600), and return the key.

    Raises:
        ValueError: the name is there already or is not a name.
    """
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    key = new_key()
    if text and not text.endswith("\n"):
        text += "\n"
    text += f"{name} sha256:{hash_of(key)}\n"
    parse(text, str(file))
    _write(file, text)
    return key


def revoke(file: Path, name: str) -> None:
    """Take a key's line out of a keys file.

    Raises:
        ValueError: there is no such name.
    """
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.split("#")[0].split()[:1] != [name]]
    if len(kept) == len(lines):
        raise ValueError(f"{file}: no key named {name}")
    _write(file, "".join(kept))


def _write(file: Path, text: str) -> None:
    storage.write_bytes(str(file), text.encode())
    file.chmod(0o600)


class Keys:
    """The keys that are valid now.

    Args:
        file: keys file; looked at again every second.
        env: environment variable with such lines, separated by commas.

    Raises:
        ValueError: no file, no variable, or a line in it is wrong.
    """

    def __init__(self, file: str | None = None, env: str | None = None) -> None:
        self._file = Path(file) if file else None
        self._fixed: dict[str, str] = {}
        if env is not None:
            if env not in os.environ:
                raise ValueError(f"access.keys_env: no environment variable {env}")
            self._fixed = parse(os.environ[env].replace(",", "\n"), env)
        self._looked = 0.0
        self._stamp: tuple[int, int, int] | None = None
        self._read: dict[str, str] = {}
        if self._file is not None:
            self._look()

    def name_of(self, key: str) -> str | None:
        """Whose key it is; None when it is nobody's (any more)."""
        if self._file is not None and time.monotonic() - self._looked > _LOOK_S:
            self._look()
        asked = hash_of(key)
        found = None
        # Every hash is compared, in constant time: how long it takes tells nothing.
        for name, known in [*self._fixed.items(), *self._read.items()]:
            if hmac.compare_digest(asked, known):
                found = name
        return found

    def _look(self) -> None:
        assert self._file is not None
        self._looked = time.monotonic()
        first = self._stamp is None
        try:
            stat = self._file.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._read = parse(self._file.read_text(encoding="utf-8"), str(self._file))
                self._stamp = stamp
        except (OSError, ValueError):
            if first:
                raise
            self._read, self._stamp = {}, (0, 0, 0)  # an unreadable file lets nobody in
