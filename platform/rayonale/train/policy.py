"""The forward pass that training and reference log-probabilities share.

Legend: B packed rows, L tokens a row, N response tokens, S sequences, H hidden size, V tokens
of the vocabulary.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rayonale.train import attention
from rayonale.train.attention import Kernel
from rayonale.train.batches import Batch
from rayonale.train.read_positions import ReadPositions
from rayonale.train.reward_head import RewardHead

# Float32 logits of a micro-batch that are kept for the backward pass, in bytes; more are computed
# again, chunk by chunk.
HEAD_BYTES = 1 << 27
# Logits that the head computes at once: on a CPU as many as its caches hold.
CHUNK_BYTES = {"cpu": 1 << 23, "cuda": 1 << 27}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(nn.Module):
    """A causal language model that returns log-probabilities of responses, not logits.

    One module, so that DeepSpeed's hooks see one forward. The LM head runs on the positions that
    predict response tokens only, in chunks: the full [B, L, V] logits never exist.
    """

    def __init__(self, model: Any, head: RewardHead | None = None) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.kernel = attention.kernel_of(model)
        self.positions = ReadPositions(model.get_decoder())

    def forward(
        self,
        *,
        tokens: Tensor,
        positions: Tensor,
        tree: Tensor,
        segment: Tensor,
        predictor: Tensor,
        target: Tensor,
        owner: Tensor,
        owners: Tensor,
        last: Tensor | None = None,
    ) -> Tensor:
        """Sums over tokens, float32 [S] in nats; arguments as in `Batch`, `owners` is zeros [S].

        With a reward head and `last`, [2, S]: these, and the sequences' rewards.
        """
        decoder = self.model.get_decoder()
        # Layers that are computed again in the backward pass would not find the positions there.
        again = getattr(self.model, "is_gradient_checkpointing", False)
        with nullcontext() if again else self.positions.only(tokens, predictor, last):
            output = decoder(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=attention.mask(self.kernel, tree, segment),
                use_cache=False,
            )
        states = output.last_hidden_state.flatten(0, 1)
        logprob = self._token_logprobs(states[predictor], target)  # of [N, H]
        sums = owners.float().index_add(0, owner, logprob)
        if self.head is None or last is None:
            return sums
        return torch.stack([sums, self.head(states[last])])

    def _token_logprobs(self, hidden: Tensor, target: Tensor) -> Tensor:
        token = 4 * int(self.model.config.get_text_config().vocab_size)  # bytes of its logits
        size = max(1, CHUNK_BYTES[hidden.device.type] // token)
        chunks = zip(hidden.split(size), target.split(size), strict=True)
        if len(target) * token <= HEAD_BYTES or not torch.is_grad_enabled():
            return torch.cat([self._chunk(h, t) for h, t in chunks])
        return torch.cat(
            [cast(Tensor, checkpoint(self._chunk, h, t, use_reentrant=False)) for h, t in chunks]
        )

    def _chunk(self, hidden: Tensor, target: Tensor) -> Tensor:
        """log π of each target, float32 [n]; the softmax is taken in float32 in any dtype."""
        logits = scaled(self.model.get_output_embeddings()(hidden).float(), self.model.config)
        return cast(Tensor, TokenLogprobs.apply(logits, target))


class TokenLogprobs(torch.autograd.Function):
    """log softmax of logits [n, V] at the targets [n]; uses the logits' memory for all of it.

    The logits are overwritten by e^(logit − max), and in the backward pass by their gradient
    g·(onehot − softmax): one float32 [n, V] exists where PyTorch's own functions make five.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        """[n] float32."""
        highest = logits.amax(1, keepdim=True)
        chosen = logits.gather(1, target[:, None]) - highest
        total = logits.sub_(highest).exp_().sum(1)
        ctx.save_for_backward(logits, target, total)
        return chosen[:, 0] - total.log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Gradient of the logits; takes their memory, so PyTorch refuses a second one."""
        (gradient,), (powers, target, total) = gradients, ctx.saved_tensors
        found = powers.mul_((-gradient / total)[:, None])
        return found.scatter_add_(1, target[:, None], gradient[:, None]), None


def scaled(logits: Tensor, config: Any) -> Tensor:
    """What some models do to logits after the head (Gemma 2, Cohere, Granite)."""
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    return logits


def load_model(
    path: str, dtype: str, max_length: int, kernel: Kernel = "trees", quantised: Any = None
) -> Any:
    """A causal LM with attention that takes our mask, in the compute dtype, on the CPU.

    Dropout is off: preferences compare log-probabilities of two passes, and the reference's were
    computed without it (with policy = reference the first DPO loss is ln 2).

    Args:
        max_length: longest sequence that will be given, in tokens.
        kernel: of attention; see `attention.py`.
        quantised: Transformers' quantisation config (then on the device that it quantises on).

    Raises:
        ValueError: the model's attention has what a 4-D mask switches off without a word.
    """
    from transformers import AutoModelForCausalLM

    from rayonale import models
    from rayonale.train import tree_attention

    tree_attention.register()
    name, revision = models.pinned(path)
    options = {} if quantised is None else {"quantization_config": quantised}
    model = AutoModelForCausalLM.from_pretrained(
        name,
        revision=revision,
        dtype=DTYPES[dtype],
        attn_implementation=attention.IMPLEMENTATION[kernel],
        **options,
    )
    check_attention(model.config.get_text_config(), type(model).__name__, max_length)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.0
    return model


def check_attention(config: Any, name: str, max_length: int) -> None:
    """Refuse attention that SDPA with a 4-D mask would change silently.

    Raises:
        ValueError: a sliding window shorter than `max_length`, or soft-capped attention.
    """
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and max_length > window:
        raise ValueError(
            f"{name} attends to the last {window} tokens only, and max_length is {max_length}: "
            f"packed training has no sliding window; set max_length to at most {window}"
        )
    if cap := getattr(config, "attn_logit_softcapping", None):
        raise ValueError(
            f"{name} caps its attention logits at {cap}, which SDPA attention leaves out; such "
            "models cannot be trained here yet"
        )


@torch.no_grad()
def check_forward(policy: Any, model: Any, batch: Batch, dtype: str, device: Any) -> None:
    """Refuse a model whose attention does not follow our mask or positions.

    Compares the packed log-probabilities of a batch's sequences with the model's own forward on
    each sequence alone. Collective: every worker calls it with the same batch.

    Args:
        policy: the `Policy`, or an engine around it.
        model: the causal LM inside.

    Raises:
        ValueError: they differ by more than rounding.
    """
    inputs = batch.inputs(device)
    inputs.pop("last", None)  # what is seen of attention is seen in the log-probabilities
    packed = policy(**inputs).float().cpu()
    for number, (tokens, length) in sequences_alone(batch).items():
        ids = torch.tensor([tokens], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        logprob = logits.log_softmax(1).gather(1, ids[0, 1:, None])[-length:].sum().item()
        tolerance = 1e-4 if dtype == "float32" else 2e-2
        if abs(packed[number].item() - logprob) > tolerance * max(10.0, abs(logprob)):
            raise ValueError(
                f"{type(model).__name__}: log-probability of a packed response is "
                f"{packed[number].item():.4f}, alone it is {logprob:.4f}: this model's attention "
                "does not follow a 4-D mask with position ids; it cannot be trained here yet"
            )


def sequences_alone(batch: Batch) -> dict[int, tuple[list[int], int]]:
    """Sequence number → (what it follows + its tokens, their number), read back from a batch."""
    width = batch.tokens.shape[1]
    found: dict[int, tuple[list[int], int]] = {}
    for number in range(int(batch.owner.max()) + 1):
        mine = batch.owner == number
        row, column = divmod(int(batch.predictor[mine][0]), width)
        tree, segment = batch.tree[row], batch.segment[row]
        followed = (tree == tree[column]) & ((segment == 0) | (segment == segment[column]))
        followed[column + 1 :] = False
        response = batch.target[mine].tolist()
        found[number] = (batch.tokens[row][followed].tolist() + response, len(response))
    return found
