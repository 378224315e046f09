"""Settings of a training run, typed and checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from rayonale import losses
from rayonale.losses.spec import LossSettings
from rayonale.stages import Settings
from rayonale.train.schedule import Schedule

# The template of a rationale's prompt that follows the chosen response.
FOLLOW_UP = "rationale_follow_up"

Limit = Annotated[int, Field(gt=0)] | Annotated[float, Field(gt=0, le=1)]


class RationalePrompt(Settings):
    """The prompt after which the policy writes the rationale.

    Attributes:
        follows: `nothing` opens a conversation, and the template shows all there is to know;
            `chosen` goes on from the row's prompt and chosen response, whose tokens are then
            computed once for both terms; the template shows the rejected one. So the policy is
            told which response is preferred.
        template: template name or path; None takes the one with which each rationale was
            generated, or `rationale_follow_up` where the prompt follows the chosen response. A
            template may tell which response is preferred or ask for it.
        order: `generated` shows the responses in the order of the rationale's own prompt;
            `chosen_first` and `shuffled` (seeded, per row) choose it anew, and "response A" and
            the like in the rationale are kept pointing at the same responses. A prompt that
            follows the chosen response has that one first.
    """

    follows: Literal["nothing", "chosen"] = "nothing"
    template: str | None = None
    order: Literal["generated", "chosen_first", "shuffled"] = "generated"

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_a_follow_up(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("follows") != "chosen":
            return given
        named = given.get("template")
        return {
            "order": "chosen_first",
            **given,
            "template": FOLLOW_UP if named is None else named,
        }

    @model_validator(mode="after")
    def _template_and_order_fit(self) -> RationalePrompt:
        if self.follows == "chosen" and self.order != "chosen_first":
            raise ValueError(
                f"order: found {self.order}, but with follows: chosen the chosen response is shown "
                "first; expected chosen_first, or leave it out"
            )
        if self.follows == "nothing" and self.template == FOLLOW_UP:
            raise ValueError(
                f"template: {FOLLOW_UP} speaks of the response above it: set follows: chosen"
            )
        return self


class LoRA(Settings):
    """Train low-rank adapters beside the weights of linear layers, which stay as they are.

    Attributes:
        r: rank of an adapter.
        alpha: an adapter's output is scaled by alpha / r.
        dropout: on an adapter's input, in training only.
        targets: names of the linear layers (`q_proj` …), or `all-linear`: all but the LM head.
        quantize: keep the weights under the adapters in 4 bits (QLoRA); needs a CUDA device and
            bitsandbytes.
    """

    r: int = Field(default=16, gt=0)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    quantize: Literal["nf4"] | None = None


class RewardHeadSettings(Settings):
    """The reward head, for losses that read rewards.

    Attributes:
        init: `normal` draws it, `start` takes the one of the model that training starts from.
        seed: of the drawing; None takes the run's. Members of an ensemble differ by it.
        std: standard deviation of the drawn weights.
        keep: export it with the model; None does so where a reward model is what is trained
            (`bradley_terry`), and drops it where a policy is (`drdo`).
        classifier: also export a kept head as a sequence-classification model in `classifier/`,
            which vLLM and Transformers load.
    """

    init: Literal["normal", "start"] = "normal"
    seed: int | None = Field(default=None, ge=0)
    std: float = Field(default=0.02, gt=0)
    keep: bool | None = None
    classifier: bool = True


class Watch(Settings):
    """Rejected responses whose log-probability is measured along training (unlearning).

    Attributes:
        split: of the rows read in the role `watch`.
        min_score: only responses whose `score_rejected` is at least this.
        limit: at most so many rows, the smallest ids (which are hashes) first.
    """

    split: Literal["test", "validation", "train"] = "test"
    min_score: float | None = None
    limit: int | None = Field(default=None, gt=0)


class TrainSettings(Settings):
    """Settings of the `train` stage.

    Attributes:
        model: where the policy starts, when no stage is read in the role `model`.
        chat_template: replaces the tokenizer's own (Jinja text, path or name).
        loss: the loss and its options: `{name: dpo, beta: 0.1}`.
        rationale: prompt of the rationale term, for losses that have one.
        reward_head: for losses that read rewards.
        epochs, max_steps: length of the run; one of them. Fractions of an epoch are allowed.
        batch_pairs: rows of a global batch, over all workers (the papers' batch size).
        micro_batch_tokens, micro_batch_pairs: what one worker computes at once; any value gives
            the same gradient. By default 1,024 tokens on a CPU, 16,384 on a GPU; lower it when
            memory runs out.
        learning_rate: peak; AdamW. The paper's 5e-7 suits 7-8 B models.
        warmup_steps, warmup_ratio: one of them; ratio of all steps.
        clip: largest gradient norm; null leaves gradients as they are.
        dtype: of weights in forward and backward; optimiser states and master weights are
            float32 always.
        zero_stage: what DeepSpeed spreads over workers: 0 nothing, 1 optimiser states,
            2 and gradients, 3 and weights.
        offload: keep optimiser states (and parameters: stage 3) in main memory; CUDA only.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping
            them: slower, and less memory.
        attention: kernel; `auto` takes `trees` (which computes what is visible) on a CPU and
            `flex` (which skips blocks that the mask hides) on a CUDA device; `sdpa`, with a whole
            mask, runs on both.
        lora: train adapters only; `model/` then holds the merged weights, `model/adapter/` the
            adapter. The reference is the model without the adapter.
        workers: processes, each with one device.
        cpus_per_worker: cores that a worker reserves, and threads that it uses without a GPU.
        use_gpu: None takes GPUs when the cluster has any.
        max_failures: how often Ray Train restarts from the last checkpoint.
        seeds: of the data order; several give `model-seed<k>/` each, and `model/` is the one
            with the lowest validation loss.
        together: a column; rows with the same value come in the same batch (but for those at its
            edge). `original_id` keeps both goals of a relabelled pair together, so that what they
            want alike, which cancels, does not push the policy to and fro.
        validate_every: steps between validations; None validates at the end of each epoch.
        select: export the weights with the lowest validation loss, or the last ones.
        checkpoint_every, checkpoint_minutes: whichever comes first.
        keep_checkpoints: how many are kept.
        max_length, max_prompt_length: tokens; rows over them are left out and counted, never cut.
        limit, validation_limit: rows to use, by stable hash order, so that a smaller limit is a
            subset of a larger one. An integer is a number, a float at most 1.0 a share.
        limit_seed: another stable order of the training rows, so that a limit takes others (the
            rows of a repetition); None orders by the hash of the id alone.
        watched: which rows of those read in the role `watch` are measured before the first step and
            at each validation.
        allow_other_reference: let reference log-probabilities come from another model than the
            one that training starts from.
    """

    model: str = "tinyworld"
    chat_template: str | None = None
    loss: Annotated[SerializeAsAny[LossSettings], BeforeValidator(losses.parse)]
    rationale: RationalePrompt | None = None
    reward_head: RewardHeadSettings | None = None

    epochs: float | None = Field(default=None, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    batch_pairs: int = Field(default=32, gt=0)
    micro_batch_tokens: int | None = Field(default=None, gt=0)
    micro_batch_pairs: int | None = Field(default=None, gt=0)

    learning_rate: float = Field(default=5e-7, gt=0)
    schedule: Schedule = "cosine"
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_ratio: float | None = Field(default=None, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    clip: float | None = Field(default=1.0, gt=0)

    dtype: Literal["float32", "bfloat16"] = "float32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload: Literal["none", "optimizer", "all"] = "none"
    gradient_checkpointing: bool = False
    attention: Literal["auto", "trees", "sdpa", "flex"] = "auto"
    lora: LoRA | None = None

    workers: int = Field(default=1, gt=0)
    cpus_per_worker: int = Field(default=1, gt=0)
    use_gpu: bool | None = None
    max_failures: int = Field(default=3, ge=0)

    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    together: str | None = None
    validate_every: int | None = Field(default=None, gt=0)
    select: Literal["best", "last"] = "best"
    checkpoint_every: int | None = Field(default=None, gt=0)
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)

    max_length: int = Field(default=2_048, gt=1)
    max_prompt_length: int | None = Field(default=None, gt=0)
    limit: Limit | None = None
    limit_seed: int | None = None
    validation_limit: Limit | None = None
    watched: Watch | None = None
    allow_other_reference: bool = False

    @model_validator(mode="after")
    def _choices_fit(self) -> TrainSettings:
        problems = []
        if self.epochs is not None and self.max_steps is not None:
            problems.append("epochs and max_steps exclude each other: give one")
        if self.micro_batch_tokens is not None and self.micro_batch_pairs is not None:
            problems.append("micro_batch_tokens and micro_batch_pairs exclude each other")
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            problems.append("warmup_steps and warmup_ratio exclude each other: give one")
        if self.offload != "none" and self.zero_stage == 0:
            problems.append(f"offload: {self.offload} needs zero_stage 1-3, found 0")
        if self.offload == "all" and self.zero_stage != 3:
            problems.append(f"offload: all needs zero_stage 3, found {self.zero_stage}")
        if self.lora is not None and self.lora.quantize is not None:
            if self.use_gpu is False:
                problems.append("lora.quantize: nf4 needs a CUDA device, found use_gpu: false")
            if self.zero_stage == 3:
                problems.append("lora.quantize: zero_stage 3 cannot split 4-bit weights: use 0-2")
        if len(set(self.seeds)) != len(self.seeds):
            problems.append(f"seeds repeat: {list(self.seeds)}")
        problems += self._ignored_by_the_loss()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _limit_seed_fits(self) -> TrainSettings:
        if self.limit_seed is not None and self.limit is None:
            raise ValueError("limit_seed: without a limit all rows are used, whatever their order")
        return self

    def _ignored_by_the_loss(self) -> list[str]:
        loss, problems = losses.get(self.loss.name), []
        if self.rationale is not None and "rationale" not in loss.sequences:
            problems.append(f"rationale: loss {self.loss.name!r} has no rationale term")
        if self.reward_head is not None and not loss.rewards:
            problems.append(f"reward_head: loss {self.loss.name!r} reads no rewards")
        if self.watched is not None and loss.rewards:
            problems.append(f"watched: loss {self.loss.name!r} reads rewards, and cannot watch")
        if self.allow_other_reference and not loss.reference:
            problems.append(f"allow_other_reference: loss {self.loss.name!r} has no reference")
        return problems

    def head(self) -> RewardHeadSettings | None:
        """Settings of the reward head, everything decided; None where the loss has none."""
        loss = losses.get(self.loss.name)
        if not loss.rewards:
            return None
        found = self.reward_head or RewardHeadSettings()
        keep = loss.reward_model if found.keep is None else found.keep
        return found.model_copy(update={"keep": keep})

    def warmup(self, steps: int) -> int:
        """Warm-up steps of a run of `steps` steps.

        Raises:
            ValueError: the run is over before the warm-up is.
        """
        if self.warmup_ratio is not None:
            return round(self.warmup_ratio * steps)
        if self.warmup_steps is not None and self.warmup_steps >= steps:
            raise ValueError(
                f"warmup_steps: found {self.warmup_steps}, but the run has {steps} step(s); "
                "expected fewer, or warmup_ratio"
            )
        return self.warmup_steps or 0
