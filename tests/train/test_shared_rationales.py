"""A rationale that goes on from the chosen response shares its tokens, and nothing else changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from rayonale import losses, storage
from rayonale.tinyworld import base_model_path, generate_pairs
from rayonale.train import attention, batches, reward_head, scoring, shards
from rayonale.train.batches import ALIGN, Batch, collate
from rayonale.train.examples import Encoding, columns_of, encode
from rayonale.train.policy import Policy, check_forward, load_model, sequences_alone
from rayonale.train.settings import RationalePrompt, RewardHeadSettings, TrainSettings
from rayonale.train.trees import shared_tokens, tree_length

PAIR = ("chosen", "rejected")
ALL = (*PAIR, "rationale")
# x = 1 2, y_w = 3 4 5, y_l = 6 7; the rationale 9 10 11 after x, y_w and 8.
ROW = {
    "prompt": [1, 2],
    "chosen": [3, 4, 5],
    "rejected": [6, 7],
    "rationale_prompt": [1, 2, 3, 4, 5, 8],
    "rationale": [9, 10, 11],
}


@pytest.fixture(scope="module")
def follow_up(tmp_path_factory: pytest.TempPathFactory) -> RationalePrompt:
    """Goes on from the chosen response, in few bytes."""
    file: Path = tmp_path_factory.mktemp("templates") / "other.jinja"
    file.write_text("B: {{ rejected }} Why A?")
    return RationalePrompt(follows="chosen", template=str(file))


@pytest.fixture(scope="module")
def encoded(micro_model: str, rows: str) -> Callable[[RationalePrompt], list[dict[str, Any]]]:
    """All rows' token lists with a rationale's prompt."""

    def of(prompt: RationalePrompt) -> list[dict[str, Any]]:
        encoding = Encoding(micro_model, ALL, rationale=prompt)
        tokenizer = encoding.tokenizer()
        found = [encode(tokenizer, row, encoding)[0] for row in storage.read_rows(rows)]
        assert all(found)
        return [example for example in found if example is not None]

    return of


@pytest.fixture(scope="module")
def examples(encoded, follow_up: RationalePrompt, template: str) -> list[dict[str, Any]]:
    """Ten rows; every third has a rationale with a conversation of its own."""
    shared, apart = encoded(follow_up), encoded(RationalePrompt(template=template))
    found = [(apart if n % 3 == 2 else shared)[n] for n in range(10)]
    assert [bool(row["shared_tokens"]) for row in found] == [n % 3 != 2 for n in range(10)]
    return found


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Batch]:
    """`collate` with every rationale in a tree of its own."""

    def lay_out(*given: Any, **named: Any) -> Batch:
        with monkeypatch.context() as patch:
            patch.setattr(batches, "shared_tokens", lambda row: 0)
            return collate(*given, **named)

    return lay_out


# --- layout ----------------------------------------------------------------------------------


def test_layout_by_hand() -> None:
    """x x | c c (5 stays out) | r | then 5 after all, the rest of the prompt, rationale."""
    batch = collate([ROW], ALL)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 6, 5, 8, 9, 10]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 2, 4, 5, 6, 7]]
    assert batch.segment.tolist() == [[0, 0, 1, 1, 2, 1, 1, 1, 1]]
    assert batch.tree.tolist() == [[0] * 9]
    assert batch.target.tolist() == [3, 4, 5, 6, 7, 9, 10, 11]
    assert batch.predictor.tolist() == [1, 2, 3, 1, 4, 6, 7, 8]
    assert batch.owner.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert {name: int(index) for name, index in batch.sequence.items()} == {
        "chosen": 0, "rejected": 1, "rationale": 2
    }  # fmt: skip
    assert tree_length(2, [3, 2], continuation=1 + 3) == 9
    # The pair lies as it does alone.
    assert collate([ROW], PAIR).tokens[0].tolist() == batch.tokens[0, :5].tolist()


def test_layout_of_whole_responses_by_hand() -> None:
    """Chosen's last token is in chosen's run, for its reward; the rationale's goes in, too."""
    batch = collate([ROW], ALL, whole=True)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 2, 3, 5, 6, 7, 8]]
    assert batch.segment.tolist() == [[0, 0, 1, 1, 1, 2, 2, 1, 1, 1, 1]]
    assert batch.predictor.tolist() == [1, 2, 3, 1, 5, 7, 8, 9]
    assert batch.last is not None and batch.last.tolist() == [4, 6, 10]
    assert tree_length(2, [3, 2], whole=True, continuation=1 + 3) == 11


@pytest.mark.parametrize(("whole", "first"), [(False, 5), (True, 4)])
def test_a_prompt_that_ends_with_chosen(whole: bool, first: int) -> None:
    """Then chosen's last token predicts the rationale's first, wherever it lies."""
    batch = collate([{**ROW, "rationale_prompt": [1, 2, 3, 4, 5]}], ALL, whole=whole)
    place = int(batch.predictor[batch.owner == 2][0])
    assert (place, int(batch.tokens[0, place])) == (first, 5)
    assert sequences_alone(batch)[2] == ([1, 2, 3, 4, 5, 9, 10, 11], 3)


def test_responses_of_one_token_by_hand() -> None:
    """Nothing of them lies between prompt and rationale, whose run is chosen's only one."""
    row = {**ROW, "chosen": [3], "rejected": [6], "rationale_prompt": [1, 2, 3, 8]}
    batch = collate([row], ALL)
    assert batch.tokens.tolist() == [[1, 2, 3, 8, 9, 10]]
    assert batch.segment.tolist() == [[0, 0, 1, 1, 1, 1]]
    assert batch.predictor.tolist() == [1, 1, 3, 4, 5]


def test_another_prompt_is_a_tree_of_its_own() -> None:
    """One token differs; or the loss asks for no pair."""
    other = {**ROW, "rationale_prompt": [1, 2, 3, 4, 0, 8]}
    assert (shared_tokens(ROW), shared_tokens(other)) == (5, 0)
    assert int(collate([other], ALL).tree.max()) == 1
    alone = collate([ROW], ("rationale",))
    assert alone.tokens.tolist() == [[1, 2, 3, 4, 5, 8, 9, 10]]


def test_order_of_sequences_does_not_matter() -> None:
    batch = collate([ROW], ("rationale", "rejected", "chosen"))
    assert batch.tokens.tolist() == [[1, 2, 6, 3, 4, 5, 8, 9, 10]]
    assert batch.segment.tolist() == [[0, 0, 1, 2, 2, 2, 2, 2, 2]]
    names = {int(index): name for name, index in batch.sequence.items()}
    for number, (tokens, length) in sequences_alone(batch).items():
        name = names[number]
        above = ROW["rationale_prompt" if name == "rationale" else "prompt"]
        assert (tokens, length) == (above + ROW[name], len(ROW[name]))


def test_the_prompts_own_tokens_beside_it() -> None:
    batch = collate([ROW], (*ALL, "prompt"), whole=True)
    assert sequences_alone(batch)[int(batch.sequence["prompt"])] == ([1, 2], 1)
    assert batch.last is not None and batch.last.tolist() == [4, 6, 1, 10]


def test_sequences_are_read_back(examples) -> None:
    for whole in (False, True):
        batch = collate(examples, ALL, align=16, whole=whole)
        found = sequences_alone(batch)
        for place, row in enumerate(examples):
            for name in ALL:
                above = row["rationale_prompt" if name == "rationale" else "prompt"]
                expected = (above + row[name], len(row[name]))
                assert found[int(batch.sequence[name][place])] == expected


# --- the same numbers ------------------------------------------------------------------------


def forward(policy: Policy, batch: Batch, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Log-probabilities [S], and the gradient of their weighed sum."""
    policy.zero_grad()
    found = policy(**batch.inputs("cpu"))
    (found * weights).sum().backward()
    return found.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()])


@pytest.mark.parametrize("kernel", ["trees", "sdpa"])
def test_sharing_changes_no_value_and_no_gradient(
    micro_model: str, examples, apart, kernel: attention.Kernel
) -> None:
    """Float32; a weight for each sequence, so that no error hides in a sum."""
    policy = Policy(load_model(micro_model, "float32", 2_048, kernel))
    together, alone = (
        lay_out(examples, ALL, one_row=kernel == "trees") for lay_out in (collate, apart)
    )
    assert together.padding[1] < alone.padding[1]
    weights = torch.randn(30, generator=torch.Generator().manual_seed(0))
    found, gradient = forward(policy, together, weights)
    expected, wanted = forward(policy, alone, weights)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-3)
    assert (gradient - wanted).norm() < 1e-4 * wanted.norm()
    check_forward(policy, policy.model, together, "float32", "cpu")


def test_whole_responses_have_the_same_rewards(micro_model: str, examples, apart) -> None:
    model = load_model(micro_model, "float32", 2_048).eval()
    head = reward_head.make(model, RewardHeadSettings(std=0.3, seed=5), 0, "")
    policy = Policy(model, head=head)
    with torch.no_grad():
        found, expected = (
            policy(**lay_out(examples, ALL, whole=True).inputs("cpu"))
            for lay_out in (collate, apart)
        )
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kernel", ["trees", "sdpa"])
def test_the_rationale_does_not_see_rejected(
    micro_model: str, examples, kernel: attention.Kernel
) -> None:
    """Other tokens of rejected, as many: only its own log-probability changes."""
    policy = Policy(load_model(micro_model, "float32", 2_048, kernel)).eval()
    shared = [row for row in examples if row["shared_tokens"]]
    other = [{**row, "rejected": [9 + n % 50 for n in row["rejected"]]} for row in shared]
    with torch.no_grad():
        before, after = (
            {name: policy(**batch.inputs("cpu"))[batch.sequence[name]] for name in ALL}
            for batch in (collate(shared, ALL), collate(other, ALL))
        )
    for name in ("chosen", "rationale"):
        assert torch.allclose(before[name], after[name], rtol=1e-6), name
    assert not torch.isclose(before["rejected"], after["rejected"]).any()


def test_the_rationale_sees_chosen(micro_model: str, examples) -> None:
    """Another first token of chosen, in both places: the rationale's log-probability follows."""
    policy = Policy(load_model(micro_model, "float32", 2_048)).eval()
    row = examples[0]
    place = len(row["prompt"])
    changed = [*row["rationale_prompt"]]
    changed[place] = 9 + row["chosen"][0] % 50
    other = {**row, "chosen": [changed[place], *row["chosen"][1:]], "rationale_prompt": changed}
    assert shared_tokens(other) == row["shared_tokens"]
    with torch.no_grad():
        found = [policy(**collate([each], ALL).inputs("cpu"))[2].item() for each in (row, other)]
    assert abs(found[0] - found[1]) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_first_preference_is_ln2(micro_model: str, encoded, dtype: str, tmp_path: Path) -> None:
    """The reference saw pairs without rationales: theirs must not move a digit of them."""
    file = tmp_path / "long.jinja"
    file.write_text("{{ rejected }} " + "and so on " * 40 + "Why?")  # blocks of queries get longer
    rows = encoded(RationalePrompt(follows="chosen", template=str(file)))[:8]
    options = {"name": "rdpo", "gamma": 1.0, "form": "paper", "reduction": "mean"}
    loss, settings = losses.get("rdpo"), TrainSettings(loss=options, dtype=dtype)
    cpu, align = torch.device("cpu"), ALIGN[dtype]
    engine = Policy(load_model(micro_model, dtype, 2_048).eval())
    known = []
    for row in rows:
        with torch.no_grad():
            pair = engine(**collate([row], PAIR, align=align, one_row=True).inputs(cpu)).tolist()
        known.append(row | dict(zip(columns_of(loss, PAIR), pair, strict=True)))
    batch = collate(known, ALL, values=columns_of(loss), align=align, one_row=True)
    scores = scoring.score(engine, batch, loss, cpu)
    first = loss.terms(scores, settings.loss)["preference"].values
    assert first.tolist() == pytest.approx([0.6931472] * 8, abs=1e-5)


# --- that it happens, and is counted ---------------------------------------------------------


def world_rows(count: int) -> list[dict[str, Any]]:
    """Pairs of the small world with a rationale."""

    def say(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    rationale = {"text": "Response B keeps to the request.", "chosen_first": False}
    return [
        {"id": str(n), "prompt": say("user", row["prompt"]), "rationales": [rationale],
         "chosen": say("assistant", row["response_a"]),
         "rejected": say("assistant", row["response_b"])}
        for n, row in enumerate(generate_pairs(count, 0))
    ]  # fmt: skip


def test_the_packages_own_model_shares() -> None:
    """Its chat template, the packaged prompt: x and y_w of every row are computed once."""
    prompt = RationalePrompt(follows="chosen")
    encoding = Encoding(str(base_model_path()), ALL, rationale=prompt)
    tokenizer = encoding.tokenizer()
    for row in world_rows(20):
        example, left_out = encode(tokenizer, row, encoding)
        assert example is not None, left_out
        above = len(example["prompt"]) + len(example["chosen"])
        assert example["shared_tokens"] == above > 0
        pair, alone, both = (
            collate([example], names, one_row=True).tokens.numel()
            for names in (PAIR, ("rationale",), ALL)
        )
        assert both == pair + alone - (above - 1)


def test_a_template_that_ends_turns_otherwise_shares_nothing(
    micro_model: str, rows: str, follow_up: RationalePrompt
) -> None:
    """It shows only the last turn: right, and no tokens are saved."""
    last_turn = (
        "{{ bos_token }}{{ '<|user|>' + messages[-1]['content'] + '<|end|>' if "
        "messages[-1]['role'] == 'user' else '<|user|>' + messages[-2]['content'] + '<|end|>"
        "<|assistant|>' + messages[-1]['content'] + '<|end|>' }}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    encoding = Encoding(micro_model, ALL, chat_template=last_turn, rationale=follow_up)
    tokenizer = encoding.tokenizer()
    made = [encode(tokenizer, row, encoding)[0] for row in storage.read_rows(rows)]
    found = [row for row in made if row is not None][:4]
    assert [row["shared_tokens"] for row in found] == [0] * 4
    assert sorted(set(collate(found, ALL).tree.flatten().tolist()) - {-1}) == list(range(8))


@pytest.mark.parametrize("whole", [False, True])
def test_costs_are_the_tokens_that_go_in(
    examples, micro_model: str, tmp_path: Path, whole: bool
) -> None:
    schema = Encoding(micro_model, ALL).schema()
    assert "shared_tokens" in schema.names
    assert "shared_tokens" not in Encoding(micro_model, PAIR).schema().names
    table = pa.Table.from_pylist(examples, schema=schema)
    for name, drop in (("new", []), ("old", ["shared_tokens"])):
        (tmp_path / name).write_bytes(shards._ipc(table.drop_columns(drop)))
    rows = shards.TokenRows([str(tmp_path / "new")], ALL, whole)
    for sequences in (ALL, PAIR, ("rationale",), ("chosen", "rationale")):
        counted = [
            collate([row], sequences, one_row=True, whole=whole).tokens.numel() for row in examples
        ]
        assert rows.costs(range(10), sequences) == counted
    # A shard of before is read; its rationales had conversations of their own.
    old = shards.TokenRows([str(tmp_path / "old")], ALL, whole)
    assert old.costs([2, 5, 8]) == rows.costs([2, 5, 8])
    assert rows.counts(range(10)) == old.counts(range(10))
