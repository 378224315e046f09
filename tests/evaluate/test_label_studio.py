"""Blind tasks through a real Label Studio: two people label in a browser, their export comes back.

export_rationale_tasks ─► Label Studio ◄─ Chromium ─► its own export ─► import_rationale_votes

Label Studio has an environment of its own, `.label_studio` (requirements/label_studio.txt) or where
RAYONALE_LABEL_STUDIO says.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import REPOSITORY
from tests.evaluate.test_rationale_votes import FIRST, SECOND, TIE, judge
from tests.serve import browser
from tests.serve.service import free_port, wait_for

from rayonale import storage
from rayonale.command import run_from_flags
from rayonale.evaluate.label_studio import PREFERENCES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POOR = "Tie: both are poor"
SPECIFIC, MATTERS = "more specific", "finds what matters"
TOKEN = "0123456789abcdef" * 2 + "01234567"
PASSWORD = "only-for-this-test"


@dataclass(frozen=True)
class Said:
    """What a person does with a task; no preference is the button "Skip"."""

    preference: str | None
    reasons: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True)
class Studio:
    """A running Label Studio with one project."""

    url: str
    http: httpx.Client
    folder: Path  # for screenshots

    def call(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of an answer that must be good."""
        answer = self.http.request(method, path, **more)
        assert answer.is_success, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def command() -> Path:
    """Label Studio's own command; the test is skipped where it is not installed."""
    where = os.environ.get("RAYONALE_LABEL_STUDIO", REPOSITORY / ".label_studio")
    found = Path(where) / "bin" / "label-studio"
    if not found.is_file():
        pytest.skip(f"no {found}; requirements/label_studio.txt says how to install it")
    return found


@contextmanager
def running(command: Path, folder: Path, config: Path) -> Iterator[Studio]:
    """Label Studio with a first person, and a project with our labelling interface."""
    port = free_port()
    arguments = [
        "start", "rationales", "--init", "--no-browser", "--label-config", str(config),
        "--data-dir", str(folder / "studio"), "--internal-host", "127.0.0.1", "--port", str(port),
        "--username", "anna@example.org", "--password", PASSWORD, "--user-token", TOKEN,
        "--enable-legacy-api-token",
    ]  # fmt: skip
    quiet = {"COLLECT_ANALYTICS": "False", "LATEST_VERSION_CHECK": "False"}
    gone = ("PYTHONPATH", "VIRTUAL_ENV")
    inherited = {key: value for key, value in os.environ.items() if key not in gone}
    with (folder / "studio.log").open("w") as log:
        process = subprocess.Popen(
            [str(command), *arguments], env=inherited | quiet, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(
            base_url=url, headers={"authorization": f"Token {TOKEN}"}, timeout=60
        ) as http:

            def answers() -> bool:
                assert process.poll() is None, (folder / "studio.log").read_text()[-3_000:]
                try:
                    return http.get("/api/projects").is_success
                except httpx.TransportError:
                    return False

            wait_for(answers, 300, "Label Studio answers")
            yield Studio(url, http, folder)
    finally:
        process.terminate()
        process.wait(30)


def label(
    studio: Studio, person: str, form: str, tasks: Sequence[Any], says: Sequence[Said]
) -> None:
    """Sign up or in and go through the tasks that the project gives this person."""
    with browser.opened() as page:
        page.resize(1_300, 1_300)
        page.go(f"{studio.url}/user/{form}")
        page.write("//input[@name='email']", person)
        page.write("//input[@name='password']", PASSWORD)
        page.press("//form//button[@type='submit']")
        wait_for(lambda: "/user/" not in page.run("return location.pathname"), 60, "signed in")
        page.go(f"{studio.url}/projects/1/data?labeling=1")
        for number in range(len(says)):
            task = wait_for(lambda: _shown(page, tasks), 60, f"task {number}")
            told = says[tasks.index(task)]
            if number == 0:
                _check_page(page, task)
                page.screenshot(studio.folder / f"{form}.png")
            _answer(page, told)
            wait_for(lambda last=task: _shown(page, tasks) != last, 60, "it is sent")


def _shown(page: browser.Page, tasks: Sequence[Any]) -> Any:
    """The task on the page, known by its two rationales; None while there is none."""
    script = "return [...document.querySelectorAll('.lsf-htx-richtext')].map(e => e.innerText)"
    texts = [text.strip() for text in page.run(script)]
    for task in tasks:
        if texts[-2:] == [task["data"]["rationale_1"], task["data"]["rationale_2"]]:
            return task
    return None


def _check_page(page: browser.Page, task: Any) -> None:
    """Everything is shown, no judge is named, and the rationales stand side by side."""
    text = page.run("return document.body.innerText")
    for name, value in task["data"].items():
        assert name == "task" or value in text
    assert "better-judge" not in text and "worse-judge" not in text
    left, right = page.run(
        "return [...document.querySelectorAll('.lsf-htx-richtext')].slice(-2)"
        ".map(e => e.getBoundingClientRect().toJSON())"
    )
    assert left["top"] == right["top"] and left["right"] <= right["left"]
    assert page.run("return document.querySelectorAll('input[type=radio]').length") == 4


def _answer(page: browser.Page, told: Said) -> None:
    if told.preference is None:
        page.press("//button[@aria-label='skip-task']")
        return
    for choice in (told.preference, *told.reasons):
        page.press(f"//label[.//input[@name='{choice}']]")
    if told.comment:
        page.write("//textarea[@name='comment']", told.comment)  # and not the button "Add"
    page.press("//button[@name='submit']")


def test_people_label_in_label_studio_and_their_votes_come_back(
    ray_session: None, command: Path, tmp_path: Path
) -> None:
    """Five tasks; Anna skips one; they agree on two of the other four."""
    folders = {
        name: judge(tmp_path, f"{name}-judge", [(3.0, f"{word} <b>&</b> {n}") for n in range(8)])
        for name, word in (("better", "good"), ("worse", "poor"))
    }
    flags = ["--reads_a", folders["better"].uri, "--reads_b", folders["worse"].uri]
    runs = ["--out", str(tmp_path / "runs")]
    exported = run_from_flags("rationale_tasks", [*flags, "--limit", "5", *runs])
    tasks = json.loads(Path(exported.uri, "tasks.json").read_text("utf-8"))
    key = {row["id"]: row for row in storage.read_rows(exported.rows)}

    def favours(task: Any, judge_: str) -> str:
        return FIRST if key[task["data"]["task"]]["judge_1"] == judge_ else SECOND

    better = [favours(task, "better-judge") for task in tasks]
    worse = [favours(task, "worse-judge") for task in tasks]
    anna = [Said(better[0], (SPECIFIC, MATTERS), "Names both birds."), Said(better[1]),
            Said(TIE), Said(POOR, (MATTERS,)), Said(None)]  # fmt: skip
    ben = [Said(better[0], (SPECIFIC,)), Said(worse[1]), Said(TIE), Said(better[3]),
           Said(worse[4])]  # fmt: skip
    with running(command, tmp_path, Path(exported.uri, "config.xml")) as studio:
        config = Path(exported.uri, "config.xml").read_text("utf-8")
        studio.call("POST", "/api/projects/1/validate", json={"label_config": config})
        told = studio.call("POST", "/api/projects/1/import", json=tasks)
        assert told["task_count"] == 5
        studio.call("PATCH", "/api/projects/1", json={"maximum_annotations": 2})
        label(studio, "anna@example.org", "login", tasks, anna)
        label(studio, "ben@example.org", "signup", tasks, ben)
        export = studio.call("GET", "/api/projects/1/export?exportType=JSON")
    file = tmp_path / "export.json"
    file.write_text(json.dumps(export), "utf-8")
    flags = ["--reads_rows", exported.uri, "--export", str(file), "--of", "better-judge"]
    result = run_from_flags("rationale_votes", [*flags, *runs])
    found = result.manifest["details"]
    print(json.dumps({name: found[name] for name in found}, indent=1))

    # Anna: 1, 1, ½, ½; Ben: 1, 0, ½, 1, 0
    assert (found["wins"], found["ties"], found["losses"]) == (4, 3, 2)
    assert result.manifest["rejects"] == {"invalid": {"cancelled": 1}}
    assert found["win_rate"]["value"] == pytest.approx((1 + 0.5 + 0.5 + 0.75 + 0) / 5)
    assert found["win_rate"]["low"] < found["win_rate"]["value"] < found["win_rate"]["high"]
    assert found["annotators"] == 2 and found["tasks_of_all"] == 4
    # they agree on 2 of 4; by chance: wins 2·2, ties 2·1, losses 0·1, of 16
    (pair,) = found["cohen_kappa"]
    assert pair["agreed"] == 0.5
    assert pair["kappa"] == pytest.approx((1 / 2 - 6 / 16) / (1 - 6 / 16))
    chance = (4 / 8) ** 2 + (3 / 8) ** 2 + (1 / 8) ** 2
    assert found["fleiss_kappa"] == pytest.approx((1 / 2 - chance) / (1 - chance))
    assert found["reasons"] == {SPECIFIC: 2, MATTERS: 2}
    votes = list(storage.read_rows(result.rows))
    assert [vote["comment"] for vote in votes if vote["comment"]] == ["Names both birds."]
    assert {each.preference for each in anna} - {None} <= set(PREFERENCES)
