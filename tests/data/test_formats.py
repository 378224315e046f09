"""Every format: its docstring's examples, detection, odd records, and fuzzing."""

import ast
import contextlib
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayonale.data import checks, formats, ids
from rayonale.data.fields import BadRow
from rayonale.data.formats.judged import named_only
from rayonale.records import RejectKind

BIRDS = [{"role": "user", "content": "Name two birds."}]
GOOD = [{"role": "assistant", "content": "robin, wren"}]
BAD = [{"role": "assistant", "content": "robin, oak"}]


def examples_of(layout):
    """(raw records, converted row or None) as drawn in a format's docstring."""
    text = layout.convert.__doc__
    before, after = text.split("Converted", 1)
    literal = {"true": True, "false": False, "null": None}

    def dicts(part):
        lines = [line[8:] for line in part.splitlines() if line.startswith("        ")]
        source = "[" + re.sub(r"\}\n\{", "},\n{", "\n".join(lines)) + "]"
        for word, value in literal.items():
            source = re.sub(rf"\b{word}\b", repr(value), source)
        return ast.literal_eval(source)

    converted = dicts(after)
    return dicts(before), converted[0] if converted else None


@pytest.mark.parametrize("name", formats.FORMATS)
def test_docstring_examples_are_true(name):
    layout = formats.FORMATS[name]
    raw, expected = examples_of(layout)
    assert raw
    for record in raw:
        row = layout.convert(record)
        if expected is None:  # "the same, with metadata"
            expected = {**record, "metadata": {}}
        if len(raw) > 1 and isinstance(record.get("rejected"), str) and name == "implicit_prompt":
            assert row["prompt"] == BIRDS
            assert row["rejected"] == [{"role": "assistant", "content": "crow, oak"}]
            continue
        assert {key: value for key, value in row.items() if value is not None} == expected
        checks.check_row(row, layout.row_type)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_docstring_examples_are_detected(name):
    if formats.FORMATS[name].matches is named_only:
        pytest.skip("a layout whose fields others have too")
    for record in examples_of(formats.FORMATS[name])[0]:
        assert formats.detect([record], "x.jsonl").name == name


def test_detection_passes_over_bad_records():
    records = [None, 3, {"chosen": None}, {"question": "q", "chosen": "a", "rejected": "b"}]
    assert formats.detect(records, "x.jsonl").name == "orca"


def test_detection_tells_what_it_found_and_the_choices():
    with pytest.raises(ValueError, match=r"x\.jsonl: found fields a, b: no known format"):
        formats.detect([{"a": 1, "b": 2}], "x.jsonl")
    with pytest.raises(ValueError, match="no JSON object"):
        formats.detect([], "x.jsonl")
    mixed = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"messages": [], "label": True}]
    with pytest.raises(ValueError, match="rows of different formats"):
        formats.detect(mixed, "x.jsonl")


def test_detection_of_an_ambiguous_record_lists_the_candidates():
    both = {
        "question": "q",
        "chosen": "a b",
        "rejected": "a c",
        "info": {},
        "summaries": [],
        "choice": 0,
    }
    with pytest.raises(ValueError, match=r"fits several formats: orca, tldr; set `format`"):
        formats.detect([both], "x.jsonl")


def test_unknown_format_lists_the_choices():
    with pytest.raises(ValueError, match="unknown format 'hh'; choices: auto, autoj, biggen"):
        formats.get("hh")


def convert(name, **raw):
    return formats.get(name).convert(raw)


def refused(name, **raw):
    layout = formats.get(name)
    with pytest.raises(BadRow) as caught:
        checks.check_row(layout.convert(raw), layout.row_type)
    return caught.value


def test_hh_rlhf_many_turns_and_odd_white_space():
    row = convert(
        "hh_rlhf",
        chosen="Human: a\n\nAssistant: b\n\nHuman:c \n\nAssistant:\n d\n\ne",
        rejected="\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: f",
    )
    assert [m["content"] for m in row["prompt"]] == ["a", "b", "c"]
    assert row["chosen"] == [{"role": "assistant", "content": "d\n\ne"}]


def test_hh_rlhf_refusals():
    one, other = "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: x\n\nAssistant: c"
    assert refused("hh_rlhf", chosen=one, rejected=other).reason == "prompts_differ"
    assert refused("hh_rlhf", chosen=one, rejected="just text").reason == "wrong_roles"
    twice = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c"
    assert refused("hh_rlhf", chosen=twice, rejected=twice + "d").reason == "wrong_roles"
    empty = "\n\nHuman: a\n\nAssistant:"
    assert refused("hh_rlhf", chosen=one, rejected=empty).reason == "empty_field"
    assert refused("hh_rlhf", chosen=one, rejected=one).reason == "chosen_equals_rejected"
    assert refused("hh_rlhf", chosen=one).reason == "missing_field"


def test_orca_without_system_text():
    for system in ({}, {"system": ""}, {"system": None}, {"system": "  "}):
        row = convert("orca", question="Name two birds.", chosen="a", rejected="b", **system)
        assert row["prompt"] == BIRDS


def test_ultrafeedback_conversations_must_share_the_prompt():
    other = [{"role": "user", "content": "Name two trees."}]
    bad = refused("ultrafeedback", prompt="x", chosen=BIRDS + GOOD, rejected=other + BAD)
    assert bad.reason == "prompts_differ"


def test_implicit_prompt_is_parted_at_white_space():
    row = convert("implicit_prompt", chosen="The sky is blue", rejected="The sky is black")
    assert row["prompt"] == [{"role": "user", "content": "The sky is"}]
    assert row["chosen"] == [{"role": "assistant", "content": "blue"}]
    assert refused("implicit_prompt", chosen="one", rejected="other").reason == "prompts_differ"
    same = refused("implicit_prompt", chosen="all the same", rejected="all the same")
    assert same.reason == "chosen_equals_rejected"


def test_sharegpt_roles():
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "u"}]
    row = convert(
        "sharegpt",
        conversations=turns,
        chosen={"from": "gpt", "value": "a"},
        rejected={"from": "gpt", "value": "b"},
    )
    assert [m["role"] for m in row["prompt"]] == ["system", "user"]
    tool = [{"from": "observation", "value": "o"}]
    bad = refused(
        "sharegpt",
        conversations=tool,
        chosen={"from": "gpt", "value": "a"},
        rejected={"from": "gpt", "value": "b"},
    )
    assert bad.reason == "wrong_roles"
    assert "conversations[0].from: found text 'observation'" in bad.detail


def test_kto_labels():
    assert convert("kto", messages=BIRDS + GOOD, label=1)["label"] is True
    assert convert("kto", prompt=BIRDS, completion=GOOD, label=0)["label"] is False
    for label in ("true", 2, None, float("nan"), []):
        assert refused("kto", messages=BIRDS + GOOD, label=label).kind == RejectKind.INVALID


def test_tldr_article_and_choice():
    summaries = [{"text": " a"}, {"text": " b"}]
    info = {"title": "T", "article": "Long."}
    row = convert("tldr", info=info, summaries=summaries, choice=1, extra={"confidence": None})
    assert row["prompt"][0]["content"] == "TITLE: T\n\nARTICLE: Long.\n\nTL;DR:"
    assert row["chosen"][0]["content"] == "b"
    assert row["confidence"] is None and row["annotator"] is None
    for choice in (2, -1, None, True, "0"):
        bad = refused("tldr", info=info, summaries=summaries, choice=choice)
        assert bad.reason == "unknown_choice"
    assert refused("tldr", info=info, summaries=summaries[:1], choice=0).reason == "wrong_type"


def test_webgpt_order_and_ties():
    texts = ["## Human:\nq\n\n## Assistant:\na", "## Human:\nq\n\n## Assistant:\nb"]
    row = convert("webgpt", text=texts, score=[0.5, 1.5])
    assert row["chosen"][0]["content"] == "b" and row["score_chosen"] == 1.5
    tie = refused("webgpt", text=texts, score=[1, 1])
    assert (tie.reason, tie.kind) == ("equal_scores", RejectKind.FILTERED)


def test_scores():
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    row = convert("ultrafeedback", **pair, score_chosen=3, score_rejected=None)
    assert (row["score_chosen"], row["score_rejected"]) == (3.0, None)
    for score in (math.nan, math.inf, -math.inf, 10**400):
        bad = refused("ultrafeedback", **pair, score_chosen=score)
        assert bad.reason == "non_finite_score"
    assert refused("ultrafeedback", **pair, score_chosen="N/A").reason == "wrong_type"
    assert refused("ultrafeedback", **pair, score_chosen=True).reason == "wrong_type"


def test_what_is_not_converted_is_kept():
    row = convert("trl_standard", prompt="p", chosen="a", rejected="b", source="web", n=3)
    assert row["metadata"] == {"source": "web", "n": 3}


# ---- fuzzing: whatever JSON holds, the only exception is BadRow -----------------------------

TEXT = st.text(max_size=8) | st.sampled_from(
    [
        "user",
        "assistant",
        "human",
        "\n\nHuman: a\n\nAssistant: b",
        "a",
        "b",
        "",
        " ",
        "\ud800",
        "## Human:\na\n## Assistant:\nb",
        "Human:",
    ]
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
KEYS = st.sampled_from(
    [
        "role",
        "content",
        "from",
        "value",
        "text",
        "title",
        "post",
        "article",
        "confidence",
        "score_chosen",
        "policy",
        "id",
    ]
) | st.text(max_size=3)
JSON = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": TEXT, "content": TEXT, "from": TEXT, "value": TEXT}
)
VALUE = JSON | st.lists(MESSAGE, max_size=4)
FIELDS = [
    "prompt",
    "chosen",
    "rejected",
    "question",
    "system",
    "conversations",
    "messages",
    "completion",
    "label",
    "info",
    "summaries",
    "choice",
    "worker",
    "extra",
    "text",
    "score",
    "metadata",
    "score_chosen",
    "score_rejected",
    "response_a",
    "response_b",
    "preferred",
    "score_a",
    "score_b",
    "attributes_a",
    "confidence",
    "annotator",
]
RAW = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), VALUE, max_size=8)


@settings(max_examples=400, deadline=None)
@given(RAW)
def test_any_record_converts_or_is_refused(raw):
    for layout in formats.FORMATS.values():
        layout.matches(raw)
        try:
            row = layout.convert(raw)
            checks.check_row(row, layout.row_type)
            checks.check_scores(row)
        except BadRow as bad:
            assert re.fullmatch(r"[a-z0-9_]+", bad.reason) and bad.detail
            continue
        assert isinstance(row["metadata"], dict)
        assert row["prompt"][-1]["role"] == "user"
        try:
            assert len(ids.content_key(row, layout.row_type)) == 16
        except UnicodeEncodeError:
            assert "\\ud" in ascii(row)


@pytest.mark.parametrize("name", formats.FORMATS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_good_record_with_one_field_replaced(name, data):
    layout = formats.FORMATS[name]
    raw = dict(data.draw(st.sampled_from(examples_of(layout)[0])))
    key = data.draw(st.sampled_from(sorted(raw)))
    raw[key] = data.draw(VALUE)
    layout.matches(raw)
    with contextlib.suppress(BadRow):
        checks.check_row(layout.convert(raw), layout.row_type)
