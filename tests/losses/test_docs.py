"""docs/losses.md shows every registered loss, with the options and defaults that it has."""

import re
from pathlib import Path

import pytest

from rayonale import losses

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([\w]+)` \|(.*)$", TEXT, re.MULTILINE))


def test_every_registered_loss_has_a_row_and_no_other() -> None:
    assert ROWS.keys() == losses.REGISTRY.keys()


@pytest.mark.parametrize("name", sorted(losses.REGISTRY))
def test_rows_and_reference_are_as_in_the_code(name: str) -> None:
    loss = losses.get(name)
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", ROWS[name])]
    kind = {"pair": "pair", "labelled": "labelled", "ranked_list": "list"}[loss.rows]
    assert cells[1].startswith(kind)
    assert cells[2] == ("yes" if loss.reference else "no")
    assert ("rationales" in cells[1]) == ("rationale" in loss.sequences)


def test_names_in_the_text_exist() -> None:
    """Options and losses that are named somewhere are ones that a recipe can have."""
    options = {
        field for name in losses.REGISTRY for field in losses.get(name).settings.model_fields
    }
    for option in re.findall(r"`(\w+): \w+`", TEXT):
        assert option in options | {"loss"}, option


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("dpo", {"beta": 0.1, "label_smoothing": 0.0}),
        ("ipo", {"tau": 0.1, "length": "normalised"}),
        ("kto", {"beta": 0.1, "desired_weight": 1.0, "undesired_weight": 1.0}),
        ("slic", {"delta": 1.0, "nll_weight": 0.1}),
        ("rrhf", {"nll_weight": 1.0, "nll": "sum"}),
        ("orpo", {"odds_weight": 0.1, "nll_over": "response"}),
        ("cpo", {"beta": 0.1, "nll_weight": 1.0}),
        ("length_dpo", {"beta": 0.1, "alpha": 0.01}),
        ("rpo", {"beta": 0.2, "eta": 1.0, "distance": "bwd_kl"}),
        ("sppo", {"eta": 1000.0, "probability": "hard"}),
        ("nca", {"beta": 0.01, "tau": 1e-4}),
        ("bradley_terry", {"alpha": 0.01, "margin": 0.0, "centring": 0.0, "nll": "sum"}),
        ("drdo", {"alpha": 0.1, "gamma": 2.0, "z": "sum", "detach_focal": False}),
        ("e_dpo", {"beta": 0.1, "ensemble": "mean_of_squares"}),
    ],
)
def test_defaults_are_the_documented_ones(name: str, defaults: dict) -> None:
    found = losses.parse(name).model_dump()
    assert {key: found[key] for key in defaults} == defaults
