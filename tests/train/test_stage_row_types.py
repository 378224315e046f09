"""From pairs to a trained model through labelled rows and lists: the stages, on Ray."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from rayonale import storage
from rayonale.data import reshape
from rayonale.enrich import reference
from rayonale.records import PAIR
from rayonale.stages import StageContext, StageOutput
from rayonale.train import stage
from rayonale.train.settings import TrainSettings


def context(name: str, out: Path, rows: str) -> StageContext:
    run = SimpleNamespace(log_metrics=lambda values, step=None: None)
    inputs = {"rows": StageOutput("rows", rows, "abc")}
    return StageContext(name, str(out), inputs, None, "f" * 32, "c" * 32, run)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scored(rows: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pairs with scores."""
    folder = str(tmp_path_factory.mktemp("scored"))
    found = [{**row, "score_chosen": 8.0, "score_rejected": 3.0} for row in storage.read_rows(rows)]
    storage.write_rows(folder, ({n: row[n] for n in PAIR.names} for row in found), PAIR)
    return folder


@pytest.mark.parametrize(
    "case",
    [
        ({"name": "kto"}, {"to": "labelled"}, 0.5),
        ({"name": "infonca"}, {"to": "ranked_list", "scores": "stored"}, 0.6931472),
    ],
)
def test_from_pairs_to_a_model(case, scored, ray_session, micro_model, tmp_path):
    options, to, first = case
    reshape.run(context("reshape", tmp_path / "a", scored), reshape.ReshapeSettings(**to))
    settings = reference.ReferenceSettings(model=micro_model, rows_per_chunk=50)
    result = reference.run(context("reference", tmp_path / "b", str(tmp_path / "a/rows")), settings)
    assert result.rows_out == result.rows_in
    trained = stage.run(
        context("train", tmp_path / "c", str(tmp_path / "b/rows")),
        TrainSettings(
            model=micro_model, loss=options, max_steps=4, batch_pairs=16, learning_rate=1e-3
        ),
    )
    curves = trained.details["curves"]
    assert curves["loss"][0] == pytest.approx(first, abs=1e-5)
    assert curves["loss"][-1] < curves["loss"][0]
    assert curves["validation/step"] == [3]
    assert (tmp_path / "c/model/model.safetensors").exists()
    if options["name"] == "kto":
        assert curves["kl"][0] == pytest.approx(0, abs=1e-3)
        assert {"rewards/response", "rewards/accuracy"} <= curves.keys()
