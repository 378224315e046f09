"""What the service keeps has the layout of the platform's rows."""

from __future__ import annotations

import json
from pathlib import Path

from rayonale import storage
from rayonale.records import PAIR, RANKED_LIST
from rayonale.serve import kept
from rayonale.serve.protocol import ChatRequest, PickRequest
from rayonale.serve.settings import Sampled

PICK = PickRequest.model_validate(
    {
        "messages": [{"role": "user", "content": "Name two birds."}],
        "chosen": {"content": "robin, wren", "model": "a", "version": "a/2:00", "reward": 1.5},
        "rejected": {"content": "robin, oak", "model": "b"},
    }
)


def test_a_pick_is_a_preference_pair(tmp_path: Path) -> None:
    row = kept.picked_row(PICK, "alice")
    for _ in range(2):  # the same pick again is the same row, not a second one
        kept.write_pick(str(tmp_path), row)
    assert storage.schema(str(tmp_path)).remove_metadata() == PAIR
    (found,) = storage.read_rows(str(tmp_path))
    assert found["chosen"] == [{"role": "assistant", "content": "robin, wren"}]
    assert found["rejected"] == [{"role": "assistant", "content": "robin, oak"}]
    assert found["prompt"] == [{"role": "user", "content": "Name two birds."}]
    assert (found["score_chosen"], found["score_rejected"]) == (1.5, None)
    assert found["annotator"] == "alice" and found["split"] in ("train", "validation", "test")
    assert json.loads(found["metadata"])["chosen"] == {"model": "a", "version": "a/2:00"}
    assert len(found["id"]) == 32


def test_sampled_requests_are_ranked_lists_with_their_version(tmp_path: Path) -> None:
    keeper = kept.Keeper(Sampled(folder=str(tmp_path)))
    request = ChatRequest.model_validate(
        {"model": "a", "messages": [{"role": "user", "content": "Hi"}], "seed": 3}
    )
    keeper.keep(request, ["x", "y"], None, "a/2:00")
    keeper.keep(request, ["z"], [0.5], "a/2:00")
    keeper.write()
    assert storage.schema(str(tmp_path)).remove_metadata() == RANKED_LIST
    first, second = storage.read_rows(str(tmp_path))
    assert [said[0]["content"] for said in first["responses"]] == ["x", "y"]
    assert first["scores"] is None and second["scores"] == [0.5]
    about = json.loads(first["metadata"])
    assert about["version"] == "a/2:00" and about["sampling"]["seed"] == 3


def test_picks_are_read_as_preference_data(tmp_path: Path) -> None:
    from rayonale.data.formats.trl_conversational import FORMAT

    kept.write_pick(str(tmp_path), kept.picked_row(PICK, "alice"))
    (raw,) = storage.read_rows(str(tmp_path))
    assert FORMAT.matches(raw)
    found = FORMAT.convert(raw)
    assert [found[name][0]["content"] for name in ("prompt", "chosen", "rejected")] == [
        "Name two birds.",
        "robin, wren",
        "robin, oak",
    ]
    assert found["score_chosen"] == 1.5 and found["score_rejected"] is None
