"""Reference log-probabilities and training on Ray, end to end: kills, the exported model."""

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from rayonale import storage
from rayonale.enrich import reference
from rayonale.stages import StageContext, StageOutput
from rayonale.train import history, stage
from rayonale.train.settings import TrainSettings

LN2 = 0.6931472


def context(name: str, out: Path | str, rows: str, logged: list | None = None) -> StageContext:
    logged = [] if logged is None else logged
    run = SimpleNamespace(log_metrics=lambda values, step=None: logged.append((step, values)))
    inputs = {"rows": StageOutput("rows", rows, "abc")}
    return StageContext(name, str(out), inputs, None, "f" * 32, "c" * 32, run)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def referenced(
    ray_session: None, micro_model: str, rows: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Rows with reference log-probabilities; scored in chunks, of which one is there already."""
    out = tmp_path_factory.mktemp("reference")
    settings = reference.ReferenceSettings(model=micro_model, rows_per_chunk=20)
    result = reference.run(context("reference", out, rows), settings)
    assert (result.rows_in, result.rows_out, result.rejects) == (64, 64, {})
    return str(out / "rows")


def train(out: Path, rows: str, logged: list | None = None, **options: Any) -> Any:
    base = {"batch_pairs": 14, "learning_rate": 1e-3, "checkpoint_every": 4}
    return stage.run(context("train", out, rows, logged), TrainSettings(**(base | options)))


def test_reference_columns(referenced: str, rows: str) -> None:
    found = list(storage.read_rows(referenced))
    assert [row["id"] for row in found] == [row["id"] for row in storage.read_rows(rows)]
    assert all(row["ref_chosen_logprob"] < 0 > row["ref_rejected_logprob"] for row in found)
    parts = {row["reference_fingerprint"].rpartition(";tokens=")[0] for row in found}
    assert len(parts) == 1
    assert len({row["reference_fingerprint"] for row in found}) == 64


def test_reference_goes_on_where_it_was_killed(
    ray_session: None, micro_model: str, rows: str, referenced: str, tmp_path: Path
) -> None:
    """Two finished chunks of four are taken as they are, marked so that it can be seen."""
    for number, place in ((0, "rows"), (1, "work/rows")):
        name = f"part-{number:05d}.parquet"
        done = next(iter(storage.dataset(referenced).files[number : number + 1]))
        table = storage.dataset(str(Path(done).parent)).to_table().slice(number * 20, 20)
        marked = table.set_column(
            table.schema.get_field_index("source"), "source", [["finished before"] * len(table)]
        )
        storage.write_table(str(tmp_path / place / name), marked)
    settings = reference.ReferenceSettings(model=micro_model, rows_per_chunk=20)
    result = reference.run(context("reference", tmp_path, rows), settings)
    found = list(storage.read_rows(str(tmp_path / "rows")))
    assert result.rows_out == len(found) == 64
    assert [row["source"] for row in found] == ["finished before"] * 40 + ["test"] * 24
    assert [r["id"] for r in found] == [r["id"] for r in storage.read_rows(referenced)]
    wanted = [row["ref_chosen_logprob"] for row in storage.read_rows(referenced)]
    assert [row["ref_chosen_logprob"] for row in found] == pytest.approx(wanted, abs=1e-4)


@pytest.fixture(scope="module")
def rdpo(
    referenced: str, micro_model: str, why: dict, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """An uninterrupted run: 12 steps, three epochs."""
    out, logged = tmp_path_factory.mktemp("rdpo"), []
    result = train(
        out, referenced, logged, model=micro_model, max_steps=12, loss=RDPO, rationale=why
    )
    return SimpleNamespace(out=out, result=result, logged=logged)


@pytest.fixture(scope="module")
def why(template: str) -> dict:
    """The rationale's prompt."""
    return {"template": template}


RDPO = {"name": "rdpo", "gamma": 0.5, "form": "paper", "reduction": "mean"}


def test_first_loss_is_ln2_and_training_lowers_it(rdpo: Any) -> None:
    curves = rdpo.result.details["curves"]
    assert curves["step"] == list(range(12))
    assert curves["terms/preference"][0] == pytest.approx(LN2, abs=1e-5)
    assert curves["rewards/accuracy"][0] < 1  # rounding only: there is no margin yet
    assert curves["loss"][-1] < curves["loss"][0]
    total = [
        a + b for a, b in zip(curves["terms/preference"], curves["terms/rationale"], strict=True)
    ]
    assert curves["loss"] == pytest.approx(total)
    assert curves["validation/step"] == [3, 7, 11]  # after each epoch


def test_a_rationale_that_follows_chosen(referenced: str, micro_model: str, tmp_path: Path) -> None:
    """An epoch computes x and y_w of each row once; the preference starts at ln 2 all the same."""
    options = {"rationale": {"follows": "chosen"}, "loss": RDPO, "max_steps": 4}
    result = train(tmp_path, referenced, model=micro_model, **options)
    curves = result.details["curves"]
    assert curves["terms/preference"][0] == pytest.approx(LN2, abs=1e-5)
    assert result.prompts == ["rationale_follow_up"]
    shards = [str(file) for file in (tmp_path / "work" / "tokens").glob("train-*.arrow")]
    rows = stage.shards.TokenRows(shards, ("chosen", "rejected", "rationale"))
    numbers = range(len(rows))
    apart = rows.costs(numbers, ("chosen", "rejected")), rows.costs(numbers, ("rationale",))
    above = rows.lengths["prompt"] + rows.lengths["chosen"]
    assert sum(curves["tokens"]) == sum(map(sum, apart)) - sum(above - 1)


def test_every_step_is_logged_once(rdpo: Any) -> None:
    assert [step for step, _ in rdpo.logged] == list(range(12))
    names = set(rdpo.logged[0][1])
    assert names >= {
        "loss",
        "terms/preference",
        "terms/rationale",
        "rewards/margin",
        "rewards/accuracy",
        "logprob/chosen",
        "logprob/rejected",
        "logprob/rationale",
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
        "pairs_per_second",
        "padding_share",
        "memory_gib",
    }


def test_model_folder_is_plain_hugging_face(rdpo: Any, micro_model: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = rdpo.out / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    start = AutoModelForCausalLM.from_pretrained(micro_model, dtype="float32")
    changed = [
        (n, p)
        for (n, p), q in zip(model.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(p, q)
    ]
    assert len(changed) == len(list(model.parameters()))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(micro_model).chat_template
    card = (folder / "README.md").read_text()
    for fact in ("rdpo", '"gamma": 0.5', "rows (abc)", "f" * 32):
        assert fact in card
    assert not list(rdpo.out.glob(".*"))


def test_finished_training_is_not_done_again(
    rdpo: Any, referenced: str, micro_model: str, why: dict
) -> None:
    started = time.monotonic()
    again = train(rdpo.out, referenced, model=micro_model, max_steps=12, loss=RDPO, rationale=why)
    assert time.monotonic() - started < 5
    assert again.metrics == rdpo.result.metrics


def test_killed_worker_goes_on_onto_the_same_curve(
    rdpo: Any, referenced: str, micro_model: str, why: dict, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_after_first_checkpoint() -> None:
        while not killed:
            time.sleep(0.02)
            if list(tmp_path.glob("work/seed-0/checkpoints/checkpoint_*")):
                workers = [
                    p
                    for p in psutil.Process().children(recursive=True)
                    if "RayTrainWorker" in " ".join(p.cmdline())
                ]
                for process in workers[:1]:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)

    thread = threading.Thread(target=kill_after_first_checkpoint, daemon=True)
    thread.start()
    result = train(tmp_path, referenced, model=micro_model, max_steps=12, loss=RDPO, rationale=why)
    thread.join(5)
    assert killed
    entries = history.read(str(tmp_path / "work/seed-0/metrics.jsonl"))
    assert [entry["step"] for entry in entries] == list(range(12))
    for name in ("loss", "grad_norm", "terms/rationale", "learning_rate", "rewards/margin"):
        assert result.details["curves"][name] == rdpo.result.details["curves"][name], name
    one, other = (
        (folder / "model/model.safetensors").read_bytes() for folder in (tmp_path, rdpo.out)
    )
    assert one == other


def test_a_loss_that_is_not_finite_names_step_and_remedy(
    ray_session: None, rows: str, micro_model: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="step [0-9]+: the .* is (nan|inf).*Remedies: a lower"):
        train(tmp_path, rows, model=micro_model, loss="sft", learning_rate=1e30, clip=None)
    kept = sorted(tmp_path.glob("work/seed-0/checkpoints/checkpoint_*"))
    assert len(kept) <= 2
    assert not (tmp_path / "model").exists()


def test_stale_reference_is_refused(referenced: str, micro_model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stale .*dtype: float32 stored, bfloat16 now"):
        train(tmp_path / "a", referenced, model=micro_model, loss="dpo", dtype="bfloat16")
    with pytest.raises(ValueError, match="stale .*tokens: "):
        template = (
            "{% for m in messages %}{{ m['role'] + m['content'] + '<|end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
        )
        train(tmp_path / "b", referenced, model=micro_model, loss="dpo", chat_template=template)


def test_missing_columns_name_the_stage_that_adds_them(
    ray_session: None, rows: str, micro_model: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"ref_chosen_logprob \(a reference_logprobs stage adds"):
        train(tmp_path, rows, model=micro_model, loss="dpo")


def test_over_long_rows_are_left_out_and_counted(
    ray_session: None, rows: str, micro_model: str, template: str, tmp_path: Path
) -> None:
    context_ = context("train", tmp_path, rows)
    settings = TrainSettings(model=micro_model, loss=RDPO, max_length=150)
    encoding = stage.encoding_of(settings, micro_model, stage.RationalePrompt(template=template))
    encoding = type(encoding)(**{**encoding.__dict__, "values": (), "fingerprint": False})
    out = str(tmp_path / "tokens")
    (shard,) = stage.shards.tokenise(context_.rows(), "train", None, encoding, out)
    kept = stage.shards.TokenRows([shard], encoding.sequences)
    rejects = list(stage.shards.rejects_of(out))
    assert len(kept) + len(rejects) == 56
    assert {(r["kind"], r["reason"]) for r in rejects} == {("limit", "rationale_over_long")}
    assert "at most 150 allowed" in rejects[0]["detail"]
    for prompt, response in (("prompt", "chosen"), ("rationale_prompt", "rationale")):
        assert max(kept.lengths[prompt] + kept.lengths[response]) <= 150


def test_a_smaller_limit_is_a_subset(
    ray_session: None, rows: str, micro_model: str, tmp_path: Path
) -> None:
    encoding = stage.encoding_of(
        TrainSettings(model=micro_model, loss="sft"), micro_model, stage.RationalePrompt()
    )
    ids = {}
    for limit in (8, 0.5, None):
        out = str(tmp_path / str(limit))
        (shard,) = stage.shards.tokenise(rows, "train", limit, encoding, out)
        ids[limit] = set(stage.shards.TokenRows([shard], ("chosen",)).column("id"))
    assert [len(ids[limit]) for limit in (8, 0.5, None)] == [8, 28, 56]
    assert ids[8] < ids[0.5] < ids[None]


def test_another_seed_of_the_limit_takes_other_rows(
    ray_session: None, rows: str, micro_model: str, tmp_path: Path
) -> None:
    encoding = stage.encoding_of(
        TrainSettings(model=micro_model, loss="sft"), micro_model, stage.RationalePrompt()
    )
    ids = {}
    for seed, limit in ((1, 14), (1, 28), (2, 14), (None, 14)):
        out = str(tmp_path / f"{seed}-{limit}")
        (shard,) = stage.shards.tokenise(rows, "train", limit, encoding, out, seed=seed)
        ids[seed, limit] = set(stage.shards.TokenRows([shard], ("chosen",)).column("id"))
        assert len(ids[seed, limit]) == limit
    assert ids[1, 14] < ids[1, 28]
    # of 56 rows two draws of 14 share 3.5 on average
    assert len(ids[1, 14] & ids[2, 14]) < 9 and len(ids[1, 14] & ids[None, 14]) < 9


def test_more_scorers_than_the_machine_holds_are_refused(
    ray_session: None, micro_model: str, rows: str, tmp_path: Path
) -> None:
    """Work given to a scorer that is never placed would wait for ever."""
    settings = reference.ReferenceSettings(model=micro_model, rows_per_chunk=10, workers=5)
    with pytest.raises(ValueError, match="5 x 1 CPU asked for, 2 there"):
        reference.run(context("reference", tmp_path, rows), settings)
