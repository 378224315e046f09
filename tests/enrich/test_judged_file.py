"""A judge that is trained here grades a published file, by an engine and behind an endpoint.

PandaLM's reasons ─ jobs/run_recipe.py ─► a judge ─┬─ jobs/judge_responses.py (vLLM on Ray Data)
                                                   └─ jobs/serve_models.py ◄─ HTTP ─ the same job
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.conftest import REPOSITORY
from tests.serve.service import free_port, wait_for

from rayonale import storage
from rayonale.enrich.judgement_prompts import fingerprint
from rayonale.evaluate.verdicts import REASONS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]

INPUTS = 419  # of LLMBar
CONTEXT = 2_048
TEMPLATES = {"pointwise": "tinyworld/judge_pointwise", "pairwise": "tinyworld/judge_pairwise"}
GREEDY = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 24}
IN_FLIGHT, PER_MINUTE = 6, 3_000
PRICES = {"input_price": 1.0, "output_price": 2.0}


def environment() -> dict[str, str]:
    path = f"{REPOSITORY / 'platform'}:{os.environ.get('PYTHONPATH', '')}"
    gone = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    return {**{k: v for k, v in os.environ.items() if k not in gone}, "PYTHONPATH": path}


def job(name: str, *arguments: str) -> list[str]:
    """What a job prints."""
    done = subprocess.run(
        [sys.executable, f"jobs/{name}.py", *arguments],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name}: {done.stdout[-1_000:]}\n{done.stderr[-3_000:]}"
    return done.stdout.splitlines()


def examples(source: Path, target: Path) -> None:
    """PandaLM's verdicts, with the first words of its reasons, as a Preference Collection."""
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    told = [
        {
            "orig_instruction": "\n".join(str(row[k]) for k in ("instruction", "input") if row[k]),
            "orig_response_A": row["response1"],
            "orig_response_B": row["response2"],
            "orig_criteria": "Which follows the instruction?",
            "orig_feedback": " ".join(row["pandalm_reason"].split()[:5]),
            "orig_preference": {"1": "A", "2": "B"}[str(row["pandalm_result"])],
        }
        for row in rows
        if str(row["pandalm_result"]) in "12" and row["pandalm_reason"]
    ]
    target.write_text("\n".join(map(json.dumps, told)), "utf-8")


@dataclass(frozen=True)
class Judge:
    """A trained judge, what it is to grade, and where outputs go."""

    folder: Path
    stage: str
    inputs: str

    def grades(self, name: str, **settings: Any) -> tuple[dict[str, Any], list[Any], list[Any]]:
        """Manifest, rows and rejects of `jobs/judge_responses.py` on the file."""
        told = {**TEMPLATES, "sampling": GREEDY, "max_unreadable": 1.0, **settings}
        flags = []
        for key, value in told.items():
            flags += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        where = ["--reads_rows", self.inputs, "--out", str(self.folder / "runs"), "--name", name]
        out = job("judge_responses", *where, *flags)[-1]
        manifest = json.loads(Path(out, "manifest.json").read_text("utf-8"))
        rows = list(storage.read_rows(f"{out}/rows"))
        return manifest, rows, list(storage.read_rows(f"{out}/rejects"))


@pytest.fixture(scope="module")
def judge(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """The embedded model after a short SFT on judgements of real responses."""
    folder = tmp_path_factory.mktemp("judged")
    examples(shared_data / "pandalm" / "pandalm7b_reasons_300.jsonl", folder / "examples.jsonl")
    given = {"uri": str(folder / "examples.jsonl"), "format": "preference_collection"}
    file = {"uri": str(shared_data / "llmbar" / "llmbar_419.jsonl"), "format": "llmbar_judged"}
    stages: dict[str, Any] = {
        "given": {
            "kind": "ingest",
            "sources": [given],
            "splits": {"train": 1.0, "validation": 0.0, "test": 0.0},
        },
        "examples": {
            "kind": "judgement_examples", "reads": {"rows": "given"}, **TEMPLATES, "show": [],
        },
        "judge": {
            "kind": "train", "reads": {"rows": "examples"}, "loss": {"name": "sft"}, "epochs": 1,
            "batch_pairs": 8, "learning_rate": 1e-3, "warmup_ratio": 0.1, "cpus_per_worker": 2,
        },
        "llmbar": {"kind": "ingest", "sources": [file]},
    }  # fmt: skip
    recipe = {"name": "judged", "runs": str(folder / "runs"), "stages": stages}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    printed = job("run_recipe", str(folder / "recipe.yaml"))
    where = dict(line.split(": ", 1) for line in printed if line.split(":")[0] in stages)
    return Judge(folder, where["judge"], where["llmbar"])


@contextmanager
def served(judge: Judge) -> Iterator[str]:
    """The judge behind `jobs/serve_models.py`, which lets in few requests at a time."""
    port = free_port()
    engine = {"max_model_len": CONTEXT, "threads": 1, "kv_cache_gib": 0.5}
    policy = {"name": "judge", "model": f"{judge.stage}/model", "engine": engine}
    limits = {"in_flight": IN_FLIGHT}
    args = {"policies": [policy], "access": {"open_on_loopback": True}, "limits": limits}
    app = {"name": "j", "import_path": "serve.policies:app", "route_prefix": "/", "args": args}
    file = judge.folder / "serve.yaml"
    deployed = {"http_options": {"host": "127.0.0.1"}, "applications": [app]}
    file.write_text(yaml.safe_dump(deployed))
    command = [sys.executable, "jobs/serve_models.py", str(file), "--port", str(port)]
    with (judge.folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(), stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, (judge.folder / "serve.log").read_text()[-3_000:]
        try:
            return httpx.get(f"{url}/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(ready, 300, "the judge is served")
        yield f"{url}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def check_accounts(manifest: dict[str, Any], rows: list[Any], rejects: list[Any]) -> None:
    """Every input is a row or a reject with its reason, every judgement whole and counted."""
    assert manifest["rows_in"] == INPUTS == len({row["id"] for row in [*rows, *rejects]})
    assert (manifest["rows_out"], len(rows) + len(rejects)) == (len(rows), INPUTS)
    assert manifest["rejects"] == {"limit": {"over_long": len(rejects)}} and rejects
    assert all(str(CONTEXT) in each["detail"] for each in rejects)
    verdicts: Counter[str] = Counter()
    for row in rows:
        shown = {each["order"]: each["text"] for each in row["judge_prompts"]}
        assert [each["order"] for each in row["judgements"]] == ["ab", "ba"] == list(shown)
        for each in row["judgements"]:
            assert each["prompt_fingerprint"] == fingerprint(shown[each["order"]])
            assert each["finish_reason"] in ("stop", "length") and each["tokens"] > 0
            assert each["seed"] is None  # greedy
            unreadable = each["verdict"] is None
            assert (each["status"] != "ok") == unreadable == (each["reason"] in REASONS)
            assert unreadable or each["text"].endswith(("[RESULT] 1", "[RESULT] 2"))
            verdicts[each["reason"] or f"{each['verdict']:g}"] += 1
    (table,) = manifest["details"]["judgements"]
    assert Counter(table["verdicts"]) + Counter(table["reasons"]) == verdicts
    metrics = manifest["metrics"]
    assert metrics["judgements"] == 2 * len(rows) == verdicts.total()
    assert metrics["judgements_unreadable"] == verdicts.total() - verdicts["1"] - verdicts["2"]
    assert verdicts["1"] + verdicts["2"] > 0.9 * verdicts.total()


def test_an_engine_and_an_endpoint_grade_a_published_file_alike(judge: Judge) -> None:
    own = judge.grades(
        "engine", reads_model=judge.stage, engine={"max_model_len": CONTEXT, "threads": 2}
    )
    check_accounts(*own)
    with served(judge) as url:
        endpoint = {"url": url, "served_model": "judge", "concurrency": 2 * IN_FLIGHT,
                    "requests_per_minute": PER_MINUTE, "backoff_s": 0.1, "retries": 20,
                    **PRICES}  # fmt: skip
        asked = judge.grades("endpoint", endpoint=endpoint)
    check_accounts(*asked)
    # what it took: all were asked, those that came while the service was full more than once
    metrics = asked[0]["metrics"]
    assert metrics["requests"] - metrics["retries"] == 2 * INPUTS
    assert metrics["retries"] > 0 and metrics["failed"] == metrics["unpriced"] == 0
    assert metrics["generation_seconds"] > (metrics["requests"] - 1) * 60 / PER_MINUTE
    given, made = metrics["prompt_tokens"], metrics["generated_tokens"]
    cost = given * PRICES["input_price"] + made * PRICES["output_price"]
    assert metrics["cost"] == pytest.approx(cost / 1e6)
    # and greedily it says the same, to the last character
    told = [
        {row["id"]: [each["text"] for each in row["judgements"]] for row in rows}
        for _, rows, _ in (own, asked)
    ]
    differ = [name for name in told[0] if told[0][name] != told[1][name]]
    print({key: own[0]["metrics"][key] for key in ("judgements", "generation_seconds")}, metrics)
    assert set(told[0]) == set(told[1]) and not differ
    assert {e["id"]: e["reason"] for e in own[2]} == {e["id"]: e["reason"] for e in asked[2]}
