"""Scoring: columns of every shape, ensembles, a rubric, implicit rewards, resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from rayonale import storage
from rayonale.enrich import rewards
from rayonale.enrich.reward_task import RewardTask, shapes_of
from rayonale.enrich.rewards import ScoreSettings
from rayonale.generate.rewards import of_label
from rayonale.generate.settings import Completion
from rayonale.generate.stream import Rejection
from rayonale.records import MESSAGES, PAIR
from rayonale.stages import StageContext, StageOutput
from rayonale.tinyworld.pairs import generate_pairs


def context(out: Path, rows: str, engines: Any = None, **inputs: Any) -> StageContext:
    run = SimpleNamespace(log_metrics=lambda values, step=None: None)
    reads = {"rows": StageOutput("rows", rows, "abc"), **inputs}
    return StageContext("score", str(out), reads, engines, "f" * 32, "c" * 32, run)  # type: ignore[arg-type]


def said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 pairs of the small world with their exact scores, in two files."""
    folder = str(tmp_path_factory.mktemp("pairs"))
    with storage.ParquetWriter(folder, PAIR, 25) as writer:
        for number, raw in enumerate(generate_pairs(40, seed=3)):
            first = raw["preferred"] == "a"
            better, worse = ("a", "b") if first else ("b", "a")
            writer.write(
                {
                    "id": f"{number:032x}",
                    "split": "test" if number % 4 == 3 else "train",
                    "source": "test",
                    "line": number,
                    "format": "tinyworld",
                    "annotator": raw["annotator"],
                    "occurrence": 0,
                    "prompt": said("user", raw["prompt"]),
                    "chosen": said("assistant", raw[f"response_{better}"]),
                    "rejected": said("assistant", raw[f"response_{worse}"]),
                    "score_chosen": raw[f"score_{better}"],
                    "score_rejected": raw[f"score_{worse}"],
                    "confidence": float(raw["confidence"]),
                    "metadata": "{}",
                }
            )
    return folder


# --- shapes and columns ----------------------------------------------------------------------


def test_shapes_of_columns() -> None:
    schema = pa.schema(
        [
            ("chosen", MESSAGES),
            ("responses", pa.list_(MESSAGES)),
            ("texts", pa.list_(pa.string())),
            ("text", pa.string()),
            ("score", pa.float64()),
        ]
    )
    names = ("chosen", "responses", "texts", "text")
    assert list(shapes_of(schema, names, "x").values()) == ["one", "list", "list", "one"]
    with pytest.raises(ValueError, match="x: 'score' is double; expected texts"):
        shapes_of(schema, ("score",), "x")
    with pytest.raises(ValueError, match="no column 'chosn'; found chosen, responses"):
        shapes_of(schema, ("chosn",), "x")


def test_an_ensemble_leaves_each_members_rewards_and_the_mean() -> None:
    task = RewardTask({"chosen": "one", "responses": "list"}, "reward", 2, "model=a;model=b")
    row = {"prompt": said("user", "p"), "chosen": said("assistant", "c"), "responses": ["x", "y"]}
    asked = task.requests(row)
    assert isinstance(asked, list) and [each.response for each in asked] == ["c", "x", "y"]
    rewards_of = lambda *values: [Completion(reward=value) for value in values]  # noqa: E731
    first = task.collect(row, rewards_of(1.0, 2.0, 3.0))
    assert isinstance(first, dict)
    last = task.of_member(1).collect({**row, **first}, rewards_of(3.0, 0.0, 5.0))
    assert last == {
        "rewards_chosen": [1.0, 3.0],
        "reward_chosen": 2.0,
        "rewards_responses": [[2.0, 0.0], [3.0, 5.0]],
        "reward_responses": [1.0, 4.0],
        "reward_scorer": "model=a;model=b",
    }
    assert set(task.of_member(1).adds.names) == set(last)
    assert set(task.gathered(1)) == set(first)


@pytest.mark.parametrize("bad", [None, [], [*said("assistant", "a"), *said("user", "b")]])
def test_what_is_no_response_is_rejected(bad: Any) -> None:
    task = RewardTask({"chosen": "one"}, "reward", 1, "x")
    found = task.requests({"prompt": said("user", "p"), "chosen": bad})
    assert isinstance(found, Rejection) and found.reason == "no_chosen"


# --- the rubric ------------------------------------------------------------------------------


def test_the_rubric_gives_the_exact_scores(tiny_pairs: str, tmp_path: Path) -> None:
    settings = ScoreSettings(scorer={"kind": "rubric"}, prefix="true", splits=("test",))
    result = rewards.run(context(tmp_path, tiny_pairs), settings)
    found = list(storage.read_rows(str(tmp_path / "rows")))
    assert len(found) == result.rows_out == 10
    for row in found:
        assert row["true_chosen"] == row["score_chosen"]
        assert row["trues_rejected"] == [row["score_rejected"]]
        assert row["true_scorer"] == "rubric=tinyworld_rubric"


def test_texts_that_cannot_be_scored_are_rejects(tiny_pairs: str, tmp_path: Path) -> None:
    rows = list(storage.read_rows(tiny_pairs))[:3]
    rows[1]["prompt"] = said("user", "What is the time?")
    folder = str(tmp_path / "in")
    storage.write_rows(folder, rows, PAIR)
    result = rewards.run(context(tmp_path, folder), ScoreSettings(scorer={"kind": "rubric"}))
    assert (result.rows_in, result.rows_out) == (3, 2)
    assert result.rejects == {"invalid": {"not_scorable": 1}}


# --- reward models ---------------------------------------------------------------------------


def test_where_the_reward_models_come_from_is_clear(tiny_pairs: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stages.score: expected the reward models either"):
        rewards.run(context(tmp_path, tiny_pairs), ScoreSettings())


def test_a_model_without_rewards_is_refused(tinyworld_model: Path) -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM without a reward head"):
        rewards.source_of(str(tinyworld_model))


@pytest.fixture(scope="module")
def oracles(tinyworld_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two oracles on the small model: heads of two seeds, large enough to tell rewards apart."""
    import shutil

    from rayonale.train import classifier, reward_head
    from rayonale.train.policy import load_model
    from rayonale.train.settings import RewardHeadSettings

    found = []
    model = load_model(str(tinyworld_model), "float32", 2_048)
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("oracle") / "model"
        shutil.copytree(tinyworld_model, folder)
        head = reward_head.make(model, RewardHeadSettings(std=0.3, seed=seed), 0, "")
        reward_head.save(head.weight.detach(), folder)
        classifier.write(folder, head.weight.detach(), folder / classifier.FOLDER)
        found.append(str(folder))
    return found


def expected_rewards(oracle: str, rows: list[dict[str, Any]]) -> list[list[float]]:
    """By the trainer's own packed forward: [chosen, rejected] of each row."""
    import torch

    from rayonale.train import reward_head
    from rayonale.train.batches import collate
    from rayonale.train.examples import Encoding, encode
    from rayonale.train.policy import Policy, load_model

    encoding = Encoding(oracle, ("chosen", "rejected"))
    tokenizer = encoding.tokenizer()
    examples = [encode(tokenizer, row, encoding)[0] for row in rows]
    policy = Policy(load_model(oracle, "float32", 2_048), head=reward_head.load(oracle)).eval()
    batch = collate(examples, encoding.sequences, whole=True)  # type: ignore[arg-type]
    with torch.no_grad():
        _, reward = policy(**batch.inputs("cpu"))
    both = [reward[batch.sequence[name]].tolist() for name in encoding.sequences]
    return [list(pair) for pair in zip(*both, strict=True)]


@pytest.mark.parametrize("backend", ["vllm", "transformers"])
def test_an_ensemble_gives_the_trainers_rewards(
    engines: Any, oracles: list[str], tiny_pairs: str, tmp_path: Path, backend: str
) -> None:
    """vLLM's pooling engine (whose weights are exchanged between members), and Transformers."""
    scorer = {
        "kind": "oracles",
        "oracles": [{"model": oracle} for oracle in oracles],
        "backend": backend,
        "engine": {"threads": 1, "kv_cache_gib": 0.1} if backend == "vllm" else {"threads": 1},
    }
    settings = ScoreSettings(scorer=scorer, splits=("test",), unit_rows=4)
    result = rewards.run(context(tmp_path, tiny_pairs, engines), settings)
    found = list(storage.read_rows(str(tmp_path / "rows")))
    assert result.rows_out == len(found) == 10
    members = [expected_rewards(oracle, found) for oracle in oracles]
    for number, row in enumerate(found):
        for place, column in enumerate(("chosen", "rejected")):
            wanted = [member[number][place] for member in members]
            assert row[f"rewards_{column}"] == pytest.approx(wanted, abs=1e-4)
            assert row[f"reward_{column}"] == pytest.approx(sum(wanted) / 2, abs=1e-4)
        assert row["reward_scorer"].count("model=") == 2
    again = rewards.run(context(tmp_path, tiny_pairs, engines), settings)  # resumes: nothing to do
    assert again.metrics["rows_resumed"] == 20


@pytest.mark.slow
def test_a_killed_job_goes_on_where_it_was(
    oracles: list[str], tiny_pairs: str, tmp_path: Path
) -> None:
    """The job killed between units, and started again: the rows of a run that was not killed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started(tiny_pairs, oracles[0], whole).communicate(timeout=240)
    job = started(tiny_pairs, oracles[0], killed)
    deadline = time.monotonic() + 180
    while len(units := list(killed.glob("**/units-0/**/*.parquet"))) < 3:
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not list(killed.glob("**/manifest.json"))
    times = {unit: unit.stat().st_mtime_ns for unit in units}
    time.sleep(5)  # its Ray session ends with it
    again = started(tiny_pairs, oracles[0], killed)
    done = set()
    while again.poll() is None:
        done |= {unit for unit in units if unit.exists() and unit.stat().st_mtime_ns != times[unit]}
        time.sleep(0.01)
    assert again.returncode == 0
    assert not done  # no unit was done twice
    found = [
        {row["id"]: (row["reward_chosen"], row["reward_rejected"])
         for row in storage.read_rows(str(next(folder.glob("**/rows"))))}
        for folder in (whole, killed)
    ]  # fmt: skip
    assert len(found[0]) == 40
    assert found[0] == found[1]


def started(rows: str, oracle: str, out: Path) -> subprocess.Popen[bytes]:
    """The job as a process of its own, with small units."""
    repository = Path(__file__).resolve().parents[2]
    scorer = {"kind": "oracles", "oracles": [{"model": oracle}], "backend": "transformers",
              "engine": {"threads": 1}}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(repository / "jobs" / "score_responses.py"), "--reads_rows", rows,
         "--scorer", json.dumps(scorer), "--unit_rows", "1", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(repository / "platform")},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_label_that_is_the_reward() -> None:
    """A classifier with a label for each attribute: each member asks for its own."""
    task = RewardTask({"chosen": "one"}, "tone", 2, "x", labels=(3, None))
    row = {"prompt": [], "chosen": [{"role": "assistant", "content": "a"}]}
    asked = [task.of_member(number).requests(row) for number in (0, 1)]
    assert [requests[0].label for requests in asked] == [3, None]  # type: ignore[index]
    assert of_label(5, [0.5, 2.0], 1).reward == 2.0
    assert of_label(5, [0.5], None).reward == 0.5
    with pytest.raises(ValueError, match="gives 2 labels; expected one"):
        of_label(5, [0.5, 2.0], None)
    with pytest.raises(ValueError, match="label: found 2, but the reward model gives 2"):
        of_label(5, [0.5, 2.0], 2)
