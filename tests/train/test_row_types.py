"""Labelled rows and lists: the same packing, references and normalisation as pairs."""

import hashlib
import math
import random
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from rayonale import losses, storage
from rayonale.enrich import reference
from rayonale.enrich.mismatched import with_mismatched
from rayonale.records import LABELLED_ROW, RANKED_LIST
from rayonale.stages import StageContext, StageOutput
from rayonale.train import references, scoring, shards, stage
from rayonale.train.batches import collate
from rayonale.train.examples import REFERENCE, Encoding, columns_of, encode, sequences_of
from rayonale.train.policy import Policy, check_forward, load_model
from rayonale.train.settings import TrainSettings
from rayonale.train.trees import REFERENCED, row_type_of

WORDS = ["robin", "wren", "oak", "elm", "crow", "swan", "pine", "fern", "gull", "hawk"]
CPU = torch.device("cpu")
COUNT = 11


def message(text: str, role: str = "assistant") -> list[dict]:
    return [{"role": role, "content": text}]


def make_rows(kind: str) -> list[dict]:
    draw = random.Random(kind)
    rows = []
    for number in range(COUNT):
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(2 + number % 4)]
        row = {
            "id": hashlib.md5(f"{kind}{number}".encode()).hexdigest(),
            "split": "train",
            "source": "test",
            "line": number,
            "format": "test",
            "annotator": None,
            "occurrence": 0,
            "prompt": message(" ".join(draw.choices(WORDS, k=5)), "user"),
            "metadata": "{}",
        }
        if kind == "labelled":
            row |= {"response": message(texts[0]), "label": number % 3 > 0, "score": None}
        else:
            scores = [float(draw.randint(1, 10)) for _ in texts]
            row |= {"responses": [message(text) for text in texts], "scores": scores}
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows of both types."""
    found = {}
    for kind, schema in (("labelled", LABELLED_ROW), ("ranked_list", RANKED_LIST)):
        found[kind] = str(tmp_path_factory.mktemp(kind))
        storage.write_rows(found[kind], iter(make_rows(kind)), schema)
    return found


@pytest.fixture(scope="module")
def model(micro_model: str):
    return load_model(micro_model, "float32", 2_048).eval()


@pytest.fixture(scope="module")
def referenced(folders: dict, micro_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Rows with their reference log-probabilities, as the stage's actors write them."""
    found = {}
    for kind, folder in folders.items():
        out = str(tmp_path_factory.mktemp(f"reference-{kind}"))
        job = reference.Job(
            encoding=Encoding(micro_model, REFERENCED[kind], fingerprint=True),
            shared_fingerprint=references.forward_fingerprint(micro_model, "float32"),
            dtype="float32",
            threads=1,
            use_gpu=False,
            micro_batch_tokens=300,
            out=out,
        )
        scorer = reference.Scorer(job)
        for chunk in shards.chunks_of(folder, 1_000):
            scorer.run(chunk)
        found[kind] = storage.join(out, storage.ROWS)
    return found


@pytest.fixture
def tokenised(referenced: dict, micro_model: str, tmp_path: Path):
    """(type of rows, loss options) → their token rows."""

    def of(kind: str, options: dict) -> shards.TokenRows:
        loss = losses.of(losses.parse(options))
        encoding = Encoding(
            micro_model,
            sequences_of(loss),
            values=(*columns_of(loss), *((REFERENCE,) if loss.reference else ())),
            fingerprint=loss.reference,
        )
        found = shards.tokenise(referenced[kind], "train", None, encoding, str(tmp_path))
        return shards.TokenRows(found, loss.sequences)

    return of


# --- mismatched responses --------------------------------------------------------------------


def test_mismatched_by_hand() -> None:
    def row(prompt: str, response: str, split: str = "train") -> dict:
        return {"prompt": message(prompt, "user"), "response": message(response), "split": split}

    rows = [row("a", "1"), row("a", "2"), row("v", "9", "test"), row("b", "3"), row("c", "4")]
    found = [r["mismatched"] and r["mismatched"][0]["content"] for r in with_mismatched(rows)]
    # Never of one's own prompt; of another split only where there is no other.
    assert found == ["3", "3", "3", "4", "1"]
    assert with_mismatched(rows[:2])[0]["mismatched"] is None


# --- layout ----------------------------------------------------------------------------------


def test_a_list_by_hand() -> None:
    rows = [
        {"prompt": [1, 2], "responses": [[3, 4], [5], [6]], "scores": [1.0, 2.0, 3.0]},
        {"prompt": [7], "responses": [[8], [9, 9]], "scores": [5.0, 4.0]},
    ]
    batch = collate(rows, ("responses",), values=("scores",))
    assert batch.sequence["responses"].tolist() == [[0, 1, 2], [3, 4, -1]]
    assert batch.length["responses"].tolist() == [[2, 1, 1], [1, 2, 1]]
    assert batch.value["scores"].tolist() == [[1, 2, 3], [5, 4, 0]]
    assert batch.mask.tolist() == [[True] * 3, [True, True, False]]
    assert batch.inputs("cpu")["owners"].shape == (5,)
    assert sorted(batch.tokens[batch.tree >= 0].tolist()) == [1, 2, 3, 7, 9]


def test_prompt_tokens_as_a_sequence_by_hand() -> None:
    row = {"prompt": [1, 2, 3], "chosen": [4, 5], "rejected": [6]}
    batch = collate([row], ("chosen", "rejected", "prompt"))
    own = int(batch.sequence["prompt"][0])
    mine = batch.owner == own
    assert batch.target[mine].tolist() == [2, 3]  # nothing predicts the first
    assert batch.predictor[mine].tolist() == [0, 1]
    assert batch.length["prompt"].tolist() == [2]


@pytest.mark.parametrize("kind", ["labelled", "ranked_list"])
def test_packed_equals_alone(kind: str, tokenised, model) -> None:
    name = "kto" if kind == "labelled" else "infonca"
    rows = tokenised(kind, {"name": name})
    batch = collate(rows.take(range(len(rows))), REFERENCED[kind])
    check_forward(Policy(model), model, batch, "float32", "cpu")


def test_prompt_logprob_equals_the_models_own(model) -> None:
    prompt = [5, 17, 40, 33, 8]
    row = {"prompt": prompt, "chosen": [4, 5], "rejected": [6]}
    batch = collate([row, {**row, "prompt": prompt[::-1]}], ("chosen", "rejected", "prompt"))
    with torch.no_grad():
        found = Policy(model)(**batch.inputs("cpu"))[batch.sequence["prompt"]]
        logits = model(input_ids=torch.tensor([prompt, prompt[::-1]])).logits
        ids = torch.tensor([prompt, prompt[::-1]])[:, 1:, None]
        wanted = logits[:, :-1].log_softmax(2).gather(2, ids).sum((1, 2))
    assert torch.allclose(found, wanted, atol=1e-4)


MEAN_LOG_K = sum(math.log(len(row["responses"])) for row in make_rows("ranked_list")) / COUNT


# --- references ------------------------------------------------------------------------------


def test_reference_columns_of_each_type(referenced: dict) -> None:
    for row in storage.read_rows(referenced["labelled"]):
        assert row["ref_response_logprob"] < 0 > row["ref_mismatched_logprob"]
        assert row["mismatched"] != row["response"]
    for row in storage.read_rows(referenced["ranked_list"]):
        assert len(row["ref_responses_logprob"]) == len(row["responses"])
        assert max(row["ref_responses_logprob"]) < 0


@pytest.mark.parametrize(
    "case",
    [
        ("labelled", {"name": "kto"}, 0.5),
        ("ranked_list", {"name": "nca", "tau": 1.0}, 2 * math.log(2)),
        ("ranked_list", {"name": "infonca", "tau": 1.0}, MEAN_LOG_K),
    ],
)
def test_first_loss_at_the_reference(case, tokenised, micro_model, model) -> None:
    kind, options, first = case
    rows = tokenised(kind, options)
    references.check(rows, model=micro_model, dtype="float32", allow_other=False)
    value, _ = gradient(rows, model, TrainSettings(loss=options), world=1, max_rows=4)
    assert value == pytest.approx(first, abs=1e-5)


# --- normalisation ---------------------------------------------------------------------------

CASES = [
    ("labelled", {"name": "kto", "undesired_weight": 2.0}),
    ("labelled", {"name": "kto", "beta": 0.5}),
    ("ranked_list", {"name": "rrhf"}),
    ("ranked_list", {"name": "nca", "beta": 0.1, "tau": 1.0}),
    ("ranked_list", {"name": "infonca", "beta": 0.1, "tau": 1.0}),
]


def gradient(
    rows: shards.TokenRows, model, settings: TrainSettings, *, world: int, max_rows: int
) -> tuple[float, torch.Tensor]:
    """Loss and gradient of all rows, as `world` workers with small micro-batches get them."""
    loss, engine = losses.of(settings.loss), Policy(model)
    settings = settings.model_copy(update={"micro_batch_pairs": max_rows})
    numbers = list(range(len(rows)))
    model.zero_grad()
    ahead: dict[str, torch.Tensor] = {}
    for rank in range(world):  # what the workers' all-reduce adds up
        part = scoring.look_ahead(
            engine, rows, numbers, loss, settings, device=CPU, rank=rank, world=world
        )
        ahead = {name: ahead.get(name, 0) + value for name, value in part.items()}
    tally = scoring.Tally(rows.counts(numbers, loss.sequences))
    parts = scoring.split(
        rows, numbers, settings, sequences=loss.sequences, world=world, device=CPU
    )
    total = 0.0
    for micro in [m for mine in parts for m in mine]:
        batch = scoring.batch_of(rows, micro, loss, loss.sequences, settings=settings, device=CPU)
        value = tally.add(scoring.score(engine, batch, loss, CPU, ahead), batch, loss, settings)
        value.backward()
        total += value.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("split", [(1, 3), (2, 2), (3, 1), (16, 1)])  # 16 workers: fillers
def test_gradient_does_not_depend_on_the_split(case, split, tokenised, model) -> None:
    (kind, options), (world, max_rows) = case, split
    rows = tokenised(kind, options)
    if "ref_mismatched_logprob" in rows._table.column_names:
        shift(rows)
    settings = TrainSettings(loss=options)
    value, wanted = gradient(rows, model, settings, world=1, max_rows=COUNT)
    other, found = gradient(rows, model, settings, world=world, max_rows=max_rows)
    assert other == pytest.approx(value, rel=1e-5)
    assert (found - wanted).norm() < 1e-4 * wanted.norm()


def shift(rows: shards.TokenRows) -> None:
    """Make KTO's estimate differ from row to row: at the reference it is 0 for all."""
    column = rows._table.schema.get_field_index("ref_mismatched_logprob")
    old = rows._table["ref_mismatched_logprob"].to_numpy()
    new = pa.array([x - 3.0 * i for i, x in enumerate(old)], pa.float32())
    rows._table = rows._table.set_column(column, "ref_mismatched_logprob", new)


def test_ktos_estimate_is_of_the_whole_batch(tokenised, model) -> None:
    rows = tokenised("labelled", {"name": "kto"})
    shift(rows)
    settings = TrainSettings(loss="kto", micro_batch_pairs=2)
    loss = losses.of(settings.loss)
    found = scoring.look_ahead(
        Policy(model), rows, [2, 5, 9], loss, settings, device=CPU, rank=0, world=1
    )
    assert found["kl"].item() == pytest.approx((3 * 2 + 3 * 5 + 3 * 9) / 3, abs=1e-3)


# --- rows that are left out ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"responses": [message("one")], "scores": [1.0]}, "fewer_than_two_responses"),
        ({"scores": [1.0]}, "lists_differ"),
        ({"scores": [1.0, None]}, "no_scores"),
        ({"scores": None}, "no_scores"),
        ({"responses": [message("a"), message("long " * 200)], "scores": [1.0, 2.0]}, "over_long"),
    ],
)
def test_lists_that_cannot_be_used(change: dict, reason: str, micro_model: str) -> None:
    row = {**make_rows("ranked_list")[0], **change}
    encoding = Encoding(micro_model, ("responses",), values=("scores",), max_length=300)
    example, left_out = encode(encoding.tokenizer(), row, encoding)
    assert example is None
    assert left_out["reason"] == reason


def test_a_row_without_a_partner_is_left_out(micro_model: str) -> None:
    row = with_mismatched(make_rows("labelled")[:1])[0]
    encoding = Encoding(micro_model, ("response", "mismatched"))
    _, left_out = encode(encoding.tokenizer(), row, encoding)
    assert (left_out["kind"], left_out["reason"]) == ("invalid", "no_mismatched")


def test_row_types_are_told_by_their_columns() -> None:
    assert row_type_of(["id", "prompt", "chosen", "rejected"]) == "pair"
    assert row_type_of(["id", "prompt", "response", "label"]) == "labelled"
    assert row_type_of(["id", "prompt", "responses"]) == "ranked_list"
    with pytest.raises(ValueError, match=r"expected chosen and rejected \(pair\).*found: id, text"):
        row_type_of(["id", "text"])


@pytest.mark.parametrize(
    ("loss", "kind", "told"),
    [
        ("dpo", "labelled", "reads rows of type 'pair', and chosen, rejected is not in"),
        ("infonca", "labelled", "reads rows of type 'ranked_list', and responses is not in"),
        ("kto", "ranked_list", "A reshape stage turns pairs into labelled rows and lists"),
        ("kto", "labelled", r"mismatched \(a reference_logprobs stage adds it\)"),
        ("conditioned_sft", "labelled", r"goal \(a goals stage adds it\)"),
    ],
)
def test_rows_of_another_type_are_refused(loss: str, kind: str, told: str, folders: dict) -> None:
    inputs = {"rows": StageOutput("rows", folders[kind], "abc")}
    context = StageContext("it", "out", inputs, None, "f", "c", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=told):
        stage.require_columns(context, TrainSettings(loss=loss))
