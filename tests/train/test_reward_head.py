"""One response, one reward: alone, in a batch, padded on either side, packed, and after export."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_adapters import LORA, PlainEngine

from rayonale import storage
from rayonale.data import tokens
from rayonale.train import adapters, classifier, export, loop, reward_head, shards
from rayonale.train.batches import collate
from rayonale.train.examples import Encoding, encode
from rayonale.train.plan import make_plan
from rayonale.train.policy import Policy, load_model
from rayonale.train.reward_head import RewardHead
from rayonale.train.settings import RewardHeadSettings, TrainSettings
from rayonale.train.trees import tree_length

PAIR = ("chosen", "rejected")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model(micro_model: str) -> Any:
    return load_model(micro_model, "float32", 2_048).eval()


@pytest.fixture(scope="module")
def head(model: Any) -> RewardHead:
    """Weights of a size that makes rewards of a size."""
    return reward_head.make(model, RewardHeadSettings(std=0.3, seed=5), 0, "")


@pytest.fixture(scope="module")
def examples(micro_model: str, rows: str) -> list[dict]:
    encoding = Encoding(micro_model, PAIR)
    tokenizer = encoding.tokenizer()
    return [encode(tokenizer, row, encoding)[0] for row in storage.read_rows(rows)][:12]


@torch.no_grad()
def packed(model: Any, head: RewardHead, examples: list[dict]) -> torch.Tensor:
    """[P, 2] rewards of pairs laid out together."""
    batch = collate(examples, PAIR, whole=True)
    _, reward = Policy(model, head=head)(**batch.inputs("cpu"))
    return torch.stack([reward[batch.sequence[name]] for name in PAIR], 1)


def conversations(examples: list[dict]) -> list[list[int]]:
    return [example["prompt"] + example[name] for example in examples for name in PAIR]


@torch.no_grad()
def alone(model: Any, head: RewardHead, ids: list[int]) -> float:
    """The plain model on one conversation, the head on its last token."""
    states = model.get_decoder()(input_ids=torch.tensor([ids])).last_hidden_state
    return head(states[:, -1]).item()


def test_layout_by_hand() -> None:
    row = {"prompt": [1, 2], "chosen": [3, 4, 5], "rejected": [6]}
    batch = collate([row], PAIR, whole=True)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 2]]
    assert batch.segment.tolist() == [[0, 0, 1, 1, 1, 2]]
    assert batch.target.tolist() == [3, 4, 5, 6]
    assert batch.predictor.tolist() == [1, 2, 3, 1]
    assert batch.last is not None and batch.last.tolist() == [4, 5]
    assert tree_length(2, [3, 1], whole=True) == 6


def test_last_tokens_change_no_log_probability(model: Any, head: RewardHead, examples) -> None:
    without = Policy(model)(**collate(examples, PAIR).inputs("cpu"))
    with_head, _ = Policy(model, head=head)(**collate(examples, PAIR, whole=True).inputs("cpu"))
    assert torch.allclose(without, with_head, atol=1e-4)


def test_packed_equals_alone(model: Any, head: RewardHead, examples) -> None:
    wanted = torch.tensor([alone(model, head, ids) for ids in conversations(examples)])
    assert wanted.std() > 0.5  # rewards that differ, so that the comparison says something
    together = packed(model, head, examples).flatten()
    one_by_one = torch.cat([packed(model, head, [e]).flatten() for e in examples])
    assert torch.allclose(together, wanted, atol=TOLERANCE)
    assert torch.allclose(one_by_one, wanted, atol=TOLERANCE)


@pytest.mark.parametrize("pad", ["own", "eos"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model: Any, head: RewardHead, examples, side, pad) -> None:
    """Padded rows in plain Transformers, read at their last real token, whatever pads them."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype="float32")
    padded = plain.get_decoder()
    listed = conversations(examples)
    filler = model.config.eos_token_id if pad == "eos" else 0
    longest = max(map(len, listed))
    ids, seen, last = [], [], []
    for each in listed:
        gap = longest - len(each)
        real, empty = [1] * len(each), [0] * gap
        ids.append([filler] * gap + each if side == "left" else each + [filler] * gap)
        seen.append(empty + real if side == "left" else real + empty)
        last.append(longest - 1 if side == "left" else len(each) - 1)
    mask = torch.tensor(seen)
    with torch.no_grad():
        states = padded(
            input_ids=torch.tensor(ids),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        ).last_hidden_state
        found = head(states[torch.arange(len(ids)), torch.tensor(last)])
    wanted = packed(model, head, examples).flatten()
    # Of the largest reward (7.5): left padding shifts positions, whose angles then round otherwise.
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_rewards_are_float32_in_bfloat16(micro_model: str, head: RewardHead, examples) -> None:
    found = Policy(load_model(micro_model, "bfloat16", 2_048).eval(), head=head)(
        **collate(examples, PAIR, whole=True).inputs("cpu")
    )
    assert found.dtype == torch.float32


def test_heads_differ_by_seed_alone(model: Any) -> None:
    settings = RewardHeadSettings()
    first, again, other = (
        reward_head.make(model, settings.model_copy(update={"seed": seed}), 9, "").weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(reward_head.make(model, settings, 1, "").weight, first)  # the run's seed


def test_what_a_head_is_for() -> None:
    assert TrainSettings(loss="dpo").head() is None
    assert TrainSettings(loss="bradley_terry").head().keep
    assert not TrainSettings(loss="drdo").head().keep
    assert TrainSettings(loss="drdo", reward_head={"keep": True}).head().keep
    with pytest.raises(ValueError, match="reward_head: loss 'dpo' reads no rewards"):
        TrainSettings(loss="dpo", reward_head={})


def test_a_model_without_a_head_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no reward head"):
        reward_head.load(tmp_path)


# --- the classifier --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["own pad", "pad = eos"])
def exported(request, micro_model: str, head: RewardHead, tmp_path_factory) -> Path:
    """A classifier written from a model whose tokenizer pads with its own token, or with eos."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = tmp_path_factory.mktemp("source")
    tokenizer = AutoTokenizer.from_pretrained(micro_model)
    if request.param == "pad = eos":
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(source)
    AutoModelForCausalLM.from_pretrained(micro_model).save_pretrained(source)
    reward_head.save(head.weight.detach(), source)
    classifier.write(source, head.weight.detach(), source / classifier.FOLDER)
    return source / classifier.FOLDER


@pytest.mark.parametrize("side", ["left", "right"])
def test_transformers_gives_the_same_rewards(exported: Path, model, head, examples, side) -> None:
    from transformers import AutoModelForSequenceClassification

    tokenizer = tokens.load_tokenizer(str(exported))
    tokenizer.padding_side = side
    network = AutoModelForSequenceClassification.from_pretrained(exported, dtype="float32").eval()
    assert network.config.num_labels == 1
    assert network.config.pad_token_id not in tokens.stop_token_ids(tokenizer)
    batch = tokenizer.pad({"input_ids": conversations(examples)}, return_tensors="pt")
    with torch.no_grad():
        found = network(**batch).logits[:, 0]
    wanted = packed(model, head, examples).flatten()
    # Of the largest reward (7.5): left padding shifts positions, whose angles then round otherwise.
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_a_head_comes_back_from_its_folder(exported: Path, head: RewardHead) -> None:
    assert torch.equal(reward_head.load(exported.parent).weight, head.weight)
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]


def test_ensembles_of_two_sizes_are_refused() -> None:
    from types import SimpleNamespace

    from rayonale.train import stage

    rows: Any = SimpleNamespace(column=lambda name: [[1.0, 2.0], [1.0]])
    with pytest.raises(ValueError, match="rewards_.*: found rewards of 1, 2 oracles"):
        stage.require_one_ensemble(rows, TrainSettings(loss="e_dpo"))
    stage.require_one_ensemble(rows, TrainSettings(loss="dpo"))


# --- training and export ---------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_a_trained_head_is_exported_or_dropped(
    micro_model: str, rows: str, tmp_path: Path, lora: Any
) -> None:
    """Four steps of an oracle: the head learns (whole, beside adapters too), lies in the folder."""
    from transformers import AutoModelForSequenceClassification

    encoding = Encoding(micro_model, PAIR)
    found = shards.tokenise(rows, "train", None, encoding, str(tmp_path / "tokens"))
    token_rows = shards.TokenRows(found, PAIR, whole=True)
    model = load_model(micro_model, "float32", 2_048)
    settings = TrainSettings(loss="bradley_terry", lora=lora, learning_rate=1e-2, batch_pairs=14)
    drawn = reward_head.make(model, settings.head(), 0, micro_model)  # type: ignore[arg-type]
    before = drawn.weight.detach().clone()
    if lora is not None:
        adapters.attach(model, lora, seed=0)
    engine = PlainEngine(Policy(model, head=drawn))
    loop.train(
        engine,
        token_rows,
        None,
        settings=settings,
        plan=make_plan(len(token_rows), 14, epochs=None, max_steps=4, seed=0),
        hooks=loop.Hooks(lambda entry: None, lambda now: None, lambda now: None),
        progress=loop.Progress(),
        device=torch.device("cpu"),
        rank=0,
        world=1,
    )
    assert not torch.equal(drawn.weight, before)
    probe = collate(token_rows.take([0, 1, 2]), PAIR, whole=True)
    snapshot = export.take(engine, probe, rank=0, device=torch.device("cpu"))
    assert snapshot is not None
    for keep in (True, False):
        out = tmp_path / f"model-{keep}"
        kept = settings.head().model_copy(update={"keep": keep})  # type: ignore[union-attr]
        export.export(
            snapshot, start=micro_model, chat_template=None, dtype="float32", lora=lora,
            head=kept, probe=probe, card="", uri=str(out),
        )  # fmt: skip
        assert reward_head.has_head(out) == (out / classifier.FOLDER).is_dir() == keep
    again = Policy(
        load_model(str(tmp_path / "model-True"), "float32", 2_048),
        head=reward_head.load(tmp_path / "model-True"),
    ).eval()
    with torch.no_grad():
        _, rewards = again(**probe.inputs("cpu"))
    assert torch.allclose(rewards, snapshot.probe[1], atol=1e-4)
    whole = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model-True" / classifier.FOLDER, dtype="float32"
    ).eval()
    (row,) = token_rows.take([0])
    with torch.no_grad():
        alone_ = whole(torch.tensor([row["prompt"] + row["chosen"]])).logits.item()
    assert alone_ == pytest.approx(rewards[probe.sequence["chosen"][0]].item(), abs=1e-4)


def test_training_goes_on_from_a_head(exported: Path, head: RewardHead, model: Any) -> None:
    settings = RewardHeadSettings(init="start")
    found = reward_head.make(model, settings, 0, str(exported.parent))
    assert torch.equal(found.weight, head.weight)
