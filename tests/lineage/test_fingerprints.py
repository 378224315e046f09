"""Fingerprints: equal for equal things, different for what can change a result, and no more."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayonale.lineage import fingerprints

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), JSON, min_size=2))
def test_order_of_keys_does_not_count(value: dict[str, object]) -> None:
    assert fingerprints.of(value) == fingerprints.of(dict(reversed(value.items())))


def test_values_that_look_alike_differ() -> None:
    found = {fingerprints.of(v) for v in (1, "1", [1], None, "null", True, 1.5, {}, [])}
    assert len(found) == 9


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprints.of({"beta": float("nan")})


def test_known_hash() -> None:
    expected = hashlib.sha256(b'{"a":1,"b":[1.5,"\xc3\xa9"]}').hexdigest()[:32]
    assert fingerprints.of({"b": [1.5, "é"], "a": 1}) == expected


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package: stage → maths, and lazy from inside a function; nothing uses `alone`."""
    folder = tmp_path / "tinypkg"
    (folder / "sub").mkdir(parents=True)
    lazily = "def run():\n    from .sub import lazy\n    return 1\n"
    typed = "if TYPE_CHECKING:\n    from tinypkg import alone\nT = int\n"
    for name, text in {
        "__init__.py": "",
        "stage.py": f"from tinypkg import maths\n\n{lazily}",
        "maths.py": '"""Sums."""\n\ndef add(a, b):\n    """Add."""\n    return a + b\n',
        "sub/__init__.py": "",
        "sub/lazy.py": "from ..typed import T\nX = 1\n",
        "typed.py": f"from typing import TYPE_CHECKING\n{typed}",
        "alone.py": "Y = 1\n",
    }.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    _forget()
    yield folder
    sys.modules.pop("tinypkg", None)
    _forget()


def _forget() -> None:
    fingerprints._parsed.cache_clear()
    fingerprints._file_of.cache_clear()


def _version(extra: tuple[str, ...] = ()) -> str:
    _forget()
    return fingerprints.of_code("tinypkg.stage", extra)


def test_imports_are_followed_at_any_depth_but_not_those_for_types(package: Path) -> None:
    assert fingerprints.modules_of(["tinypkg.stage"]) == [
        "tinypkg.maths",
        "tinypkg.stage",
        "tinypkg.sub.lazy",
        "tinypkg.typed",
    ]


@pytest.mark.parametrize("file", ["stage.py", "maths.py", "sub/lazy.py"])
def test_a_change_of_code_counts(package: Path, file: str) -> None:
    before = _version()
    (package / file).write_text((package / file).read_text() + "\nZ = 2\n")
    assert _version() != before


def test_comments_docstrings_and_unused_modules_do_not_count(package: Path) -> None:
    before = _version()
    (package / "maths.py").write_text(
        '"""Other words."""\n\n\ndef add(a,  b):  # why\n    """Sum of two."""\n    return a+b\n'
    )
    (package / "alone.py").write_text("Y = 2\n")
    assert _version() == before


def test_extra_modules_and_prompts_count(package: Path) -> None:
    template = package / "own.jinja"
    template.write_text("Why {{ prompt }}?")
    extra = ("module:tinypkg.alone", f"prompt:{template}")
    before = _version(extra)
    assert before != _version()
    template.write_text("Why, {{ prompt }}?")
    assert _version(extra) != before


def test_wrong_extras_are_refused(package: Path) -> None:
    with pytest.raises(ValueError, match=r"'losses\.dpo': expected 'module:"):
        _version(("losses.dpo",))
    with pytest.raises(ValueError, match=r"tinypkg\.nothing.*no such module"):
        _version(("module:tinypkg.nothing",))


def test_stages_do_not_depend_on_what_runs_them() -> None:
    found = fingerprints.modules_of(["rayonale.train.stage"])
    assert "rayonale.train.loop" in found
    assert not any(name.startswith("rayonale.lineage") for name in found)
    assert "rayonale.stages" not in found


def test_the_report_depends_on_its_own_code() -> None:
    assert "rayonale.report.page" in fingerprints.modules_of(["rayonale.report.stage"])


def test_a_file_is_hashed_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000  # more than two chunks
    (tmp_path / "raw.jsonl").write_bytes(data)
    uri = str(tmp_path / "raw.jsonl")
    expected = {"uri": uri, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert fingerprints.of_file(uri) == expected


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a" / "sub").mkdir(parents=True)
    (tmp_path / "a" / "sub" / "x").write_text("1")
    before = fingerprints.of_folder(str(tmp_path / "a"))
    (tmp_path / "a" / ".hidden").write_text("2")
    assert fingerprints.of_folder(f"{tmp_path}/a/") == before
    (tmp_path / "a" / "sub" / "x").rename(tmp_path / "a" / "sub" / "y")
    assert fingerprints.of_folder(str(tmp_path / "a")) != before
    with pytest.raises(ValueError, match="no such file or folder"):
        fingerprints.of_folder(str(tmp_path / "b"))


def test_code_is_parsed_by_several_threads() -> None:
    """Stages beside each other take fingerprints at once; Python 3.11 cannot parse at once."""
    module = next(Path(fingerprints.__file__).parents[1].rglob("stages.py"))
    with ThreadPoolExecutor(4) as pool:
        trees = list(pool.map(fingerprints.syntax_tree, [module] * 60))
    assert len({ast.dump(tree) for tree in trees}) == 1
