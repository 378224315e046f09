"""How a goal is told: written, put in its place, kept with a model, asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.generate.rows import pairs

from rayonale import prompts, storage
from rayonale.enrich import goal_prompt
from rayonale.enrich.goal_prompt import GoalPrompt
from rayonale.enrich.samples import SampleSettings, SampleTask, asked_of
from rayonale.evaluate.answers import TurnTask
from rayonale.evaluate.harness import HarnessSettings, system_message
from rayonale.lineage import registered_models
from rayonale.stages import StageContext, StageOutput

OVERALL: dict[str, Any] = {
    "template": "goal_system", "text": prompts.source("goal_system"), "place": "system",
    "low": 1, "high": 10,
}  # fmt: skip
ATTRIBUTES = {
    **OVERALL, "template": "goal_attributes", "text": prompts.source("goal_attributes"),
    "high": 5, "attributes": ("tone", "order"),
}  # fmt: skip


def test_the_texts() -> None:
    told = GoalPrompt(**OVERALL)
    assert (
        told.sentence(8.0)
        == "Aim at an overall score of 8 on a scale from 1 (poor) to 10 (excellent)."
    )
    assert [told.told(score) for score in (8.04, 7.25, 10.0, -0.04)] == ["8", "7.3", "10", "0"]
    assert GoalPrompt(**ATTRIBUTES).sentence({"order": 1.0, "tone": 4.5}) == (
        "Aim at these scores, each on a scale from 1 (poor) to 5 (excellent):\n"
        "- tone: 4.5\n- order: 1"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "Do well."}, "does not tell 'goal'"),
        ({"attributes": ("tone",)}, "does not tell 'goals'"),
        ({"low": 10}, "found 10 to 10, expected low < high"),
    ],
)
def test_prompts_that_tell_no_goal(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GoalPrompt(**(OVERALL | change))


role = st.sampled_from(["system", "user", "assistant"])
turns = st.lists(st.builds(lambda r, c: {"role": r, "content": c}, role, st.text()), min_size=1)


@given(turns, st.sampled_from(["system", "user"]), st.floats(1, 10))
def test_what_is_told_can_be_taken_back(prompt: list, place: str, goal: float) -> None:
    told = GoalPrompt(**(OVERALL | {"place": place}))
    prompt = [*prompt, {"role": "user", "content": "Name a bird."}]
    assert told.take_back(told.put(prompt, goal), goal) == prompt
    with pytest.raises(ValueError, match="is not told in"):
        told.take_back(prompt, goal)


def test_goals_that_cannot_be_asked_for() -> None:
    overall, attributes = GoalPrompt(**OVERALL), GoalPrompt(**ATTRIBUTES)
    assert (overall.top, attributes.top) == (10, {"tone": 5, "order": 5})
    assert attributes.checked({"order": 1}, "at") == {"tone": 5, "order": 1}
    for told, goal, message in (
        (overall, 11.0, "the goal is 11, off the scale of 1 to 10"),
        (overall, {"tone": 3.0}, "expected a number"),
        (attributes, 3.0, "expected scores of tone, order"),
        (attributes, {"wit": 3.0}, "unknown wit; attributes: tone, order"),
    ):
        with pytest.raises(ValueError, match=message):
            told.checked(goal, "at")


@pytest.fixture()
def model(tmp_path: Path) -> str:
    """A model's folder with a goal prompt, as far as it is looked at."""
    folder = tmp_path / "model"
    storage.write_json(str(folder / "config.json"), {})
    goal_prompt.save(GoalPrompt(**OVERALL), str(folder))
    return str(folder)


def test_a_model_is_asked_in_the_words_of_its_training(model: str) -> None:
    told = GoalPrompt(**OVERALL)
    assert goal_prompt.of_model(model) == told
    assert goal_prompt.asked(None, model, None, "at") == (told, 10)
    assert goal_prompt.asked(8.0, model, None, "at") == (told, 8)
    assert goal_prompt.asked("none", model, None, "at") is None
    assert goal_prompt.asked(None, "tinyworld", None, "at") is None
    assert goal_prompt.asked(8.0, "tinyworld", model, "at") == (told, 8)
    for wanted in (8.0, "none"):
        with pytest.raises(ValueError, match="tinyworld was not trained with goals"):
            goal_prompt.asked(wanted, "tinyworld", None, "at")


def test_rows_that_tell_a_goal_themselves(model: str) -> None:
    """The policy is asked once, and in no other words than those it knows."""

    def asked(told: GoalPrompt, policy: str, **settings: Any) -> Any:
        manifest = {"details": {"goal_prompt": told.model_dump(mode="json")}}
        rows = StageOutput("rows", "r", "f", "goals", manifest)
        context = StageContext("it", "o", {"rows": rows}, None, "f", "c", None)  # type: ignore[arg-type]
        return asked_of(context, SampleSettings(model=policy, **settings))

    same, other = GoalPrompt(**OVERALL), GoalPrompt(**(OVERALL | {"place": "user"}))
    assert asked(same, model) is None
    assert asked(other, "tinyworld") is None  # knows no words of its own
    with pytest.raises(ValueError, match="with place 'user', but the model was trained with 'sys"):
        asked(other, model)
    with pytest.raises(ValueError, match="the rows' prompts tell a goal already"):
        asked(same, model, goal=8.0)


def test_samples_and_answers_tell_the_goal_and_keep_the_prompt() -> None:
    settings, told = SampleSettings(n=2), GoalPrompt(**OVERALL)
    row = pairs(1)[0]
    asked = SampleTask(settings, settings.sampling, asked=(told, 8.0)).requests(row)
    assert isinstance(asked, list)
    sentence = {"role": "system", "content": told.sentence(8.0)}
    assert [request.messages for request in asked] == [[sentence, *row["prompt"]]] * 2
    question = {"id": "1", "category": "x", "turns": ["Hi.", "And?"], "answers": ["Hello."]}
    task = TurnTask(1, {}, settings.sampling, 0, asked=(told, 8.0))
    (request,) = task.requests(question)  # type: ignore[misc]
    assert [m["content"] for m in request.messages] == [told.sentence(8.0), "Hi.", "Hello.", "And?"]


def test_found_through_the_manifests(tmp_path: Path) -> None:
    told = GoalPrompt(**OVERALL)
    storage.write_json(
        str(tmp_path / "manifest.json"), {"details": {"goal_prompt": told.model_dump(mode="json")}}
    )
    reads = {"rows": {"uri": str(tmp_path), "kind": "relabel"}}
    assert goal_prompt.of_rows({"inputs": reads}) == told
    assert goal_prompt.of_rows({"inputs": {"rows": {"uri": "x", "kind": "external"}}}) is None
    assert goal_prompt.of_rows({}) is None


def test_a_registered_model_tells_its_goal_prompt() -> None:
    """The tag is on the version: what serves it needs no file of ours."""
    seen: dict[str, Any] = {}

    class Client:
        """What registration asks of MLflow's client."""

        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **given: Any) -> Any:
                seen[name] = given
                found = {"search_registered_models": []}.get(name)
                return (
                    found
                    if found is not None
                    else type("It", (), {"model_id": "m", "version": 1})()
                )

            return call

    manifest = {
        "mlflow_run_id": "r", "fingerprint": "f", "code_version": "c", "name": "ra",
        "kind": "train", "details": {"goal_prompt": OVERALL},
    }  # fmt: skip
    registered_models.register(Client(), "ra", "runs/ra/model", "1", manifest)
    assert "Aim at" in seen["create_model_version"]["tags"]["rayonale.goal_prompt"]


def test_the_harness_tells_it_in_the_system_message(model: str) -> None:
    told, tasks = GoalPrompt(**OVERALL), [{"benchmark": "gsm8k"}]
    chat = HarnessSettings(tasks=tasks, chat=True)
    assert system_message(model, chat) == told.sentence(10.0)
    assert system_message(model, HarnessSettings(tasks=tasks)) is None
    assert system_message(model, HarnessSettings(tasks=tasks, chat=True, goal="none")) is None
    with pytest.raises(ValueError, match="expected chat: true"):
        HarnessSettings(tasks=tasks, goal=8.0)
    goal_prompt.save(GoalPrompt(**(OVERALL | {"place": "user"})), model)
    with pytest.raises(ValueError, match="in the user's turn, where the harness cannot put it"):
        system_message(model, chat)


@pytest.mark.parametrize(
    ("score", "digits", "wanted"),
    [(7.5, 0, 8.0), (8.5, 0, 9.0), (8.49, 0, 8.0), (-0.4, 0, 0.0), (0.15, 1, 0.2), (9.95, 1, 10.0),
     (1e30, 6, 1e30), (float("-inf"), 0, float("-inf"))],
)  # fmt: skip
def test_halves_are_rounded_up(score: float, digits: int, wanted: float) -> None:
    """With `round` 7.5, 8 and 8.5 would all be told as 8, and 9 alone as 9."""
    assert goal_prompt.rounded(score, digits) == wanted
