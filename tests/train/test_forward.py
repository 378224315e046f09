"""The packed forward gives what each response would get alone; gradients do not depend on how
rows fall onto micro-batches and workers."""

from contextlib import nullcontext

import pytest
import torch

from rayonale import losses, storage
from rayonale.train import policy, read_positions, scoring, tree_attention
from rayonale.train.attention import dense_mask
from rayonale.train.batches import ALIGN, collate
from rayonale.train.examples import Encoding, columns_of, encode
from rayonale.train.plan import micro_batches
from rayonale.train.policy import Policy, check_forward, load_model
from rayonale.train.settings import RationalePrompt, TrainSettings
from rayonale.train.trees import tree_length

ALL = ("chosen", "rejected", "rationale")


@pytest.fixture(scope="module")
def model(micro_model: str):
    torch.manual_seed(0)
    return load_model(micro_model, "float32", 2_048).eval()


@pytest.fixture(scope="module")
def examples(micro_model: str, rows: str, template: str) -> list[dict]:
    encoding = Encoding(micro_model, ALL, rationale=RationalePrompt(template=template))
    tokenizer = encoding.tokenizer()
    found = [encode(tokenizer, row, encoding)[0] for row in storage.read_rows(rows)]
    assert all(found)
    for number, example in enumerate(found):
        example |= {"ref_chosen_logprob": -90.0 - number, "ref_rejected_logprob": -100.0}
    return found


def test_mask_by_hand() -> None:
    """Tree 0: two prompt tokens, chosen (one token), rejected (one); then padding."""
    tree, segment = torch.tensor([[0, 0, 0, 0, -1]]), torch.tensor([[0, 0, 1, 2, 0]])
    seen = dense_mask(tree, segment)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],  # the rejected response does not see the chosen one
        [0, 0, 0, 0, 1],
    ]


def test_layout_by_hand() -> None:
    row = {"prompt": [1, 2], "chosen": [3, 4, 5], "rejected": [6]}
    batch = collate([row], ("chosen", "rejected"))
    assert batch.tokens.tolist() == [[1, 2, 3, 4]]  # last tokens predict nothing
    assert batch.positions.tolist() == [[0, 1, 2, 3]]
    assert batch.target.tolist() == [3, 4, 5, 6]
    assert batch.predictor.tolist() == [1, 2, 3, 1]  # both responses follow the prompt's end
    assert batch.owner.tolist() == [0, 0, 0, 1]
    assert tree_length(2, [3, 1]) == 4


@pytest.mark.parametrize("count", [1, 5, 16])
def test_packed_equals_alone(model, examples, count: int) -> None:
    check_forward(Policy(model), model, collate(examples[:count], ALL), "float32", "cpu")


def test_packing_leaves_little_padding(examples) -> None:
    padding, tokens = collate(examples[:32], ALL).padding
    assert padding / tokens < 0.15


def test_a_model_that_ignores_the_mask_is_refused(model, examples, monkeypatch) -> None:
    def causal(kernel: str, tree: torch.Tensor, segment: torch.Tensor) -> torch.Tensor:
        return tree_attention.runs(torch.zeros_like(tree), torch.zeros_like(segment))

    monkeypatch.setattr(policy.attention, "mask", causal)
    with pytest.raises(ValueError, match="does not follow a 4-D mask"):
        check_forward(Policy(model), model, collate(examples[:3], ALL), "float32", "cpu")


def test_head_in_chunks(model, examples, monkeypatch) -> None:
    batch = collate(examples[:6], ALL)
    whole = Policy(model)(**batch.inputs("cpu"))
    (wanted,) = torch.autograd.grad(whole.sum(), model.get_output_embeddings().weight)
    monkeypatch.setattr(policy, "HEAD_BYTES", 4 * model.config.vocab_size * 50)  # 50 tokens
    chunked = Policy(model)(**batch.inputs("cpu"))
    (found,) = torch.autograd.grad(chunked.sum(), model.get_output_embeddings().weight)
    assert torch.allclose(whole, chunked, atol=1e-4)
    assert torch.allclose(wanted, found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_last_mlp_sees_what_is_read(micro_model: str, examples, checkpointing: bool) -> None:
    """As many positions as are read, each once; values and gradients of a forward of all."""
    model = load_model(micro_model, "float32", 2_048)
    batch = collate(examples[:6], ALL)
    seen: list[int] = []
    mlp = read_positions.last_mlp(model.get_decoder())
    assert mlp is model.model.layers[-1].mlp
    mlp.gate_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0][..., 0].numel()))

    def forward(policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        found = policy(**batch.inputs("cpu"))
        found.sum().backward()
        return found, torch.cat([p.grad.flatten() for p in model.parameters()])

    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    here = Policy(model)
    found, gradient = forward(here)
    read, everywhere = len(batch.predictor.unique()), batch.tokens.numel()
    assert read < everywhere / 2
    assert seen == ([everywhere, everywhere] if checkpointing else [read])
    here.positions.only = lambda *given: nullcontext()
    wanted, whole = forward(here)
    assert seen[-1] == everywhere
    assert torch.allclose(found, wanted, atol=1e-4)
    assert (gradient - whole).norm() < 1e-5 * whole.norm()


LOSSES = [
    {"name": "sft"},
    {"name": "sft", "normalise": "sequence"},
    {"name": "dpo"},
    {"name": "rdpo", "gamma": 1.0, "form": "paper", "reduction": "token"},
    {"name": "rdpo", "gamma": 0.1, "form": "released", "reduction": "mean"},
]


@pytest.mark.parametrize("options", LOSSES, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize(
    ("world", "max_rows"),
    [(1, 3), (2, 2), (4, 1), (2, 7), (16, 1)],  # 11 rows: fillers at 16
)
def test_gradient_does_not_depend_on_the_split(model, examples, options, world, max_rows) -> None:
    settings = TrainSettings(loss=options)
    loss = losses.get(options["name"])
    rows = examples[:11]
    counts = {"pairs": 11.0} | {n: float(sum(len(r[n]) for r in rows)) for n in loss.sequences}

    def gradient(world: int, max_rows: int) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total = 0.0
        split = micro_batches(
            range(11), [len(r["chosen"]) for r in rows], world=world, max_rows=max_rows
        )
        for micro in [m for mine in split for m in mine]:
            batch = collate(
                [rows[i] for i in micro.rows],
                loss.sequences,
                values=columns_of(loss),
                filler=micro.filler,
            )
            scores = scoring.score(Policy(model), batch, loss, torch.device("cpu"))
            value = scoring.Tally(counts).add(scores, batch, loss, settings)
            value.backward()
            total += value.item()
        return total, torch.cat([p.grad.flatten() for p in model.parameters()])

    value, wanted = gradient(1, 11)
    other, found = gradient(world, max_rows)
    assert other == pytest.approx(value, rel=1e-5)
    assert (found - wanted).norm() < 1e-4 * wanted.norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_first_dpo_loss_is_ln2(micro_model: str, examples, dtype: str) -> None:
    """The reference's log-probabilities come in other batches than the trainer's."""
    loss, settings = losses.get("dpo"), TrainSettings(loss="dpo", dtype=dtype)
    cpu, align = torch.device("cpu"), ALIGN[dtype]
    engine = Policy(load_model(micro_model, dtype, 2_048).eval())
    known = []
    for example in examples[:12]:  # alone
        batch = collate([example], loss.sequences, align=align)
        with torch.no_grad():
            chosen, rejected = engine(**batch.inputs(cpu)).tolist()
        known.append({**example, "ref_chosen_logprob": chosen, "ref_rejected_logprob": rejected})
    batch = collate(known, loss.sequences, values=columns_of(loss), align=align)  # together
    tally = scoring.Tally({"pairs": 12.0, "chosen": 1.0, "rejected": 1.0})
    value = tally.add(scoring.score(engine, batch, loss, cpu), batch, loss, settings)
    assert value.item() == pytest.approx(0.6931472, abs=1e-5)


def test_filler_infinities_do_not_spread(model, examples) -> None:
    loss, settings = losses.get("dpo"), TrainSettings(loss="dpo")
    rows = [{**examples[0], "ref_chosen_logprob": float("inf")}]
    batch = collate(rows, loss.sequences, values=columns_of(loss), filler=True)
    scores = scoring.score(Policy(model), batch, loss, torch.device("cpu"))
    value = scoring.Tally({"pairs": 1.0}).add(scores, batch, loss, settings)
    assert value.item() == 0.0


def test_one_prompt_is_computed_once(examples) -> None:
    row = examples[0]
    shared = collate([row], ("chosen", "rejected")).tokens.numel()
    apart = sum(collate([row], (name,)).tokens.numel() for name in ("chosen", "rejected"))
    assert apart - shared == len(row["prompt"])
