"""What kind of machine this is, as a name under which rates are kept: "2 x Intel Xeon …"."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections import Counter
from functools import lru_cache
from pathlib import Path


def kind() -> str:
    """GPUs where there are any (of the whole cluster once it is connected to), else the CPU."""
    found = gpus()
    if not found:
        return f"{os.cpu_count()} x {_cpu()}"
    return " + ".join(f"{count} x {name}" for name, count in sorted(found.items()))


def gpus() -> dict[str, int]:
    """Model → number of GPUs."""
    return _of_cluster() or dict(Counter(_local_gpus()))


def _of_cluster() -> dict[str, int]:
    import ray

    if not ray.is_initialized():
        return {}
    counted: Counter[str] = Counter()
    for node in ray.nodes():
        number = int(node["Resources"].get("GPU", 0)) if node["Alive"] else 0
        names = [k for k in node["Resources"] if k.startswith("accelerator_type:")]
        if number:
            counted[names[0].partition(":")[2] if names else "GPU"] += number
    return dict(counted)


@lru_cache(maxsize=1)
def _local_gpus() -> tuple[str, ...]:
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    # Ray's names, so that a cluster's and a machine's are one: "NVIDIA H100 80GB HBM3" → "H100".
    return tuple(_short(line) for line in told.splitlines() if line.strip())


def _short(name: str) -> str:
    words = name.replace("NVIDIA", "").replace("Tesla", "").replace("-", " ").split()
    return words[0] if words else name.strip()


@lru_cache(maxsize=1)
def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()
