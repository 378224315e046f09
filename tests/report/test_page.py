"""The page: whole, self-contained, and deaf to whatever its data says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.report.realistic import pair_rows, recipe, write_stage

from rayonale import storage
from rayonale.report.evidence import gather
from rayonale.report.sections import ORDER, sections
from rayonale.report.stage import ReportSettings, default_title, look, run
from rayonale.report.text import json_script, visible
from rayonale.stages import StageContext, StageOutput

VOID = {"meta", "input", "br", "hr", "img", "link"}
HOSTILE = (
    "</script><img src=x onerror=alert(1)><script>alert(2)</script><!-- </style> "
    "{{ 7 * 7 }} \x00\x1b[31m\x9f\u202e\u2028 &lt;b&gt; ${x} `y` ']]>"
)


class Page(HTMLParser):
    """Reads a page strictly: every element closed in order, every id once."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"left open: {self.open}"
        ids = [a["id"] for _, a in self.elements if "id" in a]
        assert len(ids) == len(set(ids)), "an id comes twice"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            name = self.elements[-1][1].get("id")
            self.scripts[name] = self.scripts.get(name, "") + data
        elif "style" not in self.open:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def sections(self) -> list[str | None]:
        return [attributes.get("id") for attributes in self.named("section")]


def report(folder: Path, stages: list[StageOutput], **settings: Any) -> tuple[Page, str]:
    where = StageContext(
        "report", str(folder / "report"), {"stages": stages}, None, "f" * 32, "c" * 32,
        run=None,  # type: ignore[arg-type]
    )  # fmt: skip
    result = run(where, ReportSettings(**settings))
    html = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert result.details["report"].endswith("report.html")
    return Page(html), html


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[StageOutput]:
    return recipe(tmp_path_factory.mktemp("stages"), pairs=400)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[StageOutput]:
    return recipe(tmp_path_factory.mktemp("hostile"), pairs=200, hostile=HOSTILE + "x" * 100_000)


def test_every_section_is_there_from_the_last_stages_alone(
    tmp_path: Path, stages: list[StageOutput]
) -> None:
    page, html = report(tmp_path, stages, title="Small world", description="What came of it.")
    assert page.sections() == [
        "result", "win-rates", "scores", "margins", "training", "lengths", "grades", "pairs",
        "answers", "judges", "rejects", "time", "lineage",
    ]  # fmt: skip
    others = {"study", "benchmarks", "oracles", "noise", "overoptimisation", "temperatures"}
    assert len(page.sections()) == len(set(ORDER) - others) == len(ORDER) - len(others)
    for name in ("sft", "dpo", "rdpo", "rdpo_third", "samples_rdpo", "win_rates"):
        assert f"stage-{name}" in {a.get("id") for a in page.named("details")}
    assert "Does rdpo_third, with 600 pairs, reach dpo, with 1,800?" in page.text
    assert "unparsable_line" in page.text and "low_grade" in page.text
    assert len(html) < 2_000_000


def test_links_lead_somewhere(tmp_path: Path, stages: list[StageOutput]) -> None:
    page, _ = report(tmp_path, stages)
    ids = {attributes.get("id") for _, attributes in page.elements}
    targets = [str(attributes["href"]) for attributes in page.named("a")]
    assert targets and all(t.startswith("#") and t[1:] in ids for t in targets)


def test_nothing_is_loaded_from_anywhere(tmp_path: Path, hostile: list[StageOutput]) -> None:
    page, html = report(tmp_path, hostile)
    for tag, attributes in page.elements:
        assert tag not in ("img", "link", "iframe", "object", "embed", "base", "form"), tag
        assert "src" not in attributes and "onerror" not in attributes
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style
    (policy,) = [a["content"] for a in page.named("meta") if a.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'; ")
    assert "script-src 'sha256-" in str(policy)


def test_hostile_texts_stay_texts(tmp_path: Path, hostile: list[StageOutput]) -> None:
    page, html = report(tmp_path, hostile)
    # the page's own script and the two data blocks, nothing that came in through data
    assert set(page.scripts) == {"data-pairs", "data-answers", None}
    assert "alert" not in page.scripts[None]
    cards = json.loads(page.scripts["data-pairs"])
    assert any("</script><img" in text["text"] for c in cards for text in c["texts"])
    answers = json.loads(page.scripts["data-answers"])
    assert any("</script><img" in text["text"] for c in answers for text in c["texts"])
    assert "</script><img src=x onerror" in page.text  # the reject's row, as text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)


def test_long_texts_are_cut_and_say_so(tmp_path: Path, hostile: list[StageOutput]) -> None:
    page, html = report(tmp_path, hostile, text_characters=500)
    assert len(html) < 2_000_000
    cards = json.loads(page.scripts["data-pairs"])
    longest = max((text["text"] for card in cards for text in card["texts"]), key=len)
    assert len(longest) < 600 and longest.endswith("more characters)")


def test_sections_without_evidence_are_left_out(tmp_path: Path) -> None:
    bare = write_stage(tmp_path, "only", "train", rows_in=10, rows_out=10)
    page, _ = report(tmp_path, [bare])
    assert page.sections() == ["training", "rejects", "time", "lineage"]
    external = StageOutput("mine", str(tmp_path / "nowhere"), "0" * 32)
    page, _ = report(tmp_path, [external])
    assert page.sections() == ["lineage"]


@pytest.mark.parametrize(
    "kind", ["win_rates", "margins", "grade_rationales", "rationales", "train"]
)
def test_a_stage_that_reports_nothing_breaks_nothing(tmp_path: Path, kind: str) -> None:
    stage = write_stage(tmp_path, "empty", kind, details={}, metrics={})
    page, _ = report(tmp_path, [stage])
    assert "lineage" in page.sections()


def test_a_judge_that_read_nothing_is_told_of(tmp_path: Path) -> None:
    details = {"win_rates": [], "judges": [{"judge": "tiny", "kind": "llm"}]}
    stage = write_stage(tmp_path, "compared", "win_rates", rows_in=9, rows_out=0, details=details)
    page, html = report(tmp_path, [stage])
    assert page.sections()[0] == "result" and "answers" not in page.sections()
    assert "There is no win rate: no comparison has a verdict of tiny that can be read." in html
    assert "whole interval" not in html


def test_dropped_rationales_are_counted_with_the_kept_ones(
    tmp_path: Path, stages: list[StageOutput]
) -> None:
    report(tmp_path, stages)
    (block,) = storage.read_json(str(tmp_path / "report" / "report.json"))["sections"]["grades"]
    graded = stages[2]
    assert (block["kept"], block["dropped"]) == (
        graded.manifest["rows_out"], graded.manifest["rejects"]["filtered"]["low_grade"],
    )  # fmt: skip
    assert block["dropped"] > 5


def test_stages_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first = write_stage(tmp_path / "one", "sft", "train", rows_in=10, rows_out=10)
    second = write_stage(tmp_path / "two", "sft", "train", {"model": first}, rows_out=20)
    page, _ = report(tmp_path, [second])
    names = [a["id"] for a in page.named("details") if a.get("class") == "stage"]
    assert names == ["stage-sft", "stage-sft.20.282.29"]
    assert gather([second], "t").reads(gather([second], "t").outputs[1]) == {"model": ["sft"]}


def test_pairs_with_rationales_are_shown_first(tmp_path: Path) -> None:
    from rayonale.report.evidence import sample

    schema = pa.schema([("id", pa.string()), ("rationales", pa.list_(pa.string()))])
    rows = [{"id": f"{k:02d}", "rationales": ["r"] if k > 15 else []} for k in range(20)]
    stage = write_stage(tmp_path, "graded", "grade_rationales", rows=(rows, schema))
    shown = sample(stage, 6, ("id", "rationales"), prefer="rationales")
    assert [row["id"] for row in shown] == ["16", "17", "18", "19", "00", "01"]


def test_colours_follow_the_policy(stages: list[StageOutput]) -> None:
    evidence = gather(stages, "t")
    assert [evidence.colour(name) for name in ("sft", "dpo", "rdpo", "rdpo_third")] == [
        "s1", "s2", "s3", "s4",
    ]  # fmt: skip
    assert evidence.colour("unknown") == "s0"


def test_the_same_rows_are_shown_every_time(stages: list[StageOutput]) -> None:
    first, second = (sections(gather(stages, "t")) for _ in range(2))
    assert [section.data for section in first] == [section.data for section in second]


def test_numbers_are_in_the_json_too(tmp_path: Path, stages: list[StageOutput]) -> None:
    report(tmp_path, stages)
    found = storage.read_json(str(tmp_path / "report" / "report.json"))
    assert {entry["judge"] for entry in found["sections"]["win-rates"]} == {
        "tinyworld_rubric", "tinyworld",
    }  # fmt: skip
    for claim in found["sections"]["result"]:
        assert claim["answer"] in ("yes", "no", "cannot tell")
    rates = {e["stage"]: e for e in found["sections"]["time"]["stages"]}
    assert rates["rationales"]["rates"] == ["11 rows/s", "3,210 tokens/s"]


def test_every_table_has_headers_and_every_plot_a_name(
    tmp_path: Path, stages: list[StageOutput]
) -> None:
    page, html = report(tmp_path, stages)
    for table in re.findall(r"<table.*?</table>", html, re.S):
        assert 'scope="col"' in table and 'scope="row"' in table
    for drawing in page.named("svg"):
        assert drawing.get("role") == "img"
        assert drawing.get("aria-labelledby") or drawing.get("aria-label")


@pytest.mark.parametrize(
    ("out", "title"),
    [("runs/rdpo-tinyworld/page/0123abcd", "rdpo-tinyworld"), ("/tmp/x", "page"), ("x", "page")],
)
def test_the_title_is_the_recipes_name(out: str, title: str) -> None:
    where = StageContext("page", out, {}, None, "f", "c", run=None)  # type: ignore[arg-type]
    assert default_title(where) == title


def test_a_changed_look_is_a_changed_report() -> None:
    assert look(ReportSettings()) == look(ReportSettings())
    assert len(look(ReportSettings())["look"]) == 16


def test_json_in_a_script_cannot_end_it() -> None:
    told = str(json_script({"x": "</script><!--\u2028&"}))
    assert "<" not in told and "&" not in told and "\u2028" not in told
    assert json.loads(told) == {"x": "</script><!--\u2028&"}


def test_control_characters_are_made_visible() -> None:
    assert visible("a\x00b\x1b[0m\r\n\tc\x7f\x85") == "a␀b␛[0m\n\tc␡\ufffd"
    assert visible("abc" * 10, limit=4) == "abca … (26 more characters)"
    assert visible(None) == ""


def test_curves_are_smoothed_by_the_size_of_their_steps() -> None:
    from rayonale.report.sections.training import smoothed

    values = [1.0] * 39 + [100.0]
    assert smoothed(values[:20]) == values[:20]  # too short
    assert smoothed(values)[0] == 1.0
    assert smoothed(values)[-1] == pytest.approx((4 + 100) / 5)
    weights = [100.0] * 39 + [1.0]  # a last batch of one row
    assert smoothed(values, weights)[-1] == pytest.approx((400 + 100) / 401)
    assert smoothed([None, *values])[0] is None


def test_slope_where_margins_cross_zero() -> None:
    from rayonale.report.sections.margins import slope_at_zero

    # 100 points, 0.5 nats apart: 0.5 nats per 1 % of pairs, wherever it crosses
    assert slope_at_zero([0.5 * k - 20 for k in range(100)]) == pytest.approx(0.5)
    assert slope_at_zero([float(k) for k in range(1, 50)]) is None
    assert slope_at_zero([-1.0, 1.0]) is None


def test_pairs_of_many_rows_are_streamed(tmp_path: Path) -> None:
    from rayonale.records import PAIR
    from rayonale.report.evidence import sample

    stage = write_stage(tmp_path, "pairs", "ingest", rows=(pair_rows(500), PAIR))
    rows = sample(stage, 10, ("id", "prompt"))
    everything = sorted(row["id"] for row in storage.read_rows(stage.rows))
    assert [row["id"] for row in rows] == everything[:10]
