"""Settings of the stage `ingest`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rayonale.data import checks, formats
from rayonale.data.lines import MAX_LINE_BYTES
from rayonale.data.sources import Hub
from rayonale.data.splits import Splits
from rayonale.stages import Settings


class Source(Settings):
    """One source of raw records.

    Attributes:
        uri: file, directory, glob (local or any fsspec URI), or a Hugging Face data set
            (`org/name`, or `hf:name`).
        format: name of a format, or `auto`.
        fields: our field name → the source's, where they differ: `{prompt: instruction}`.
        weight: share in the mixture (see mixing.py); all sources have one or none has.
        limit: read this many records at most, from the beginning.
        split: put the whole source into this split instead of splitting by hash.
        id_field: raw field that names each record of this source: a record that repeats one is
            rejected (`duplicate_id`). Without it, repeated records are repeated annotations and
            are all kept.
        annotator_field: raw field that names the annotator, for formats that know none.
        hf_config, hf_split, hf_revision: of a Hugging Face data set (split default `train`).
    """

    uri: str = Field(min_length=1)
    format: str = "auto"
    fields: dict[str, str] = Field(default_factory=dict)
    weight: float | None = Field(default=None, gt=0)
    limit: int | None = Field(default=None, ge=1)
    split: Literal["train", "validation", "test"] | None = None
    id_field: str | None = None
    annotator_field: str | None = None
    hf_config: str | None = None
    hf_split: str | None = None
    hf_revision: str | None = None

    @model_validator(mode="after")
    def _known_format(self) -> Source:
        if self.format != "auto":
            formats.get(self.format)
        return self

    @property
    def hub(self) -> Hub:
        """Part of a Hugging Face data set."""
        return Hub(self.hf_config, self.hf_split or "train", self.hf_revision)


class IngestSettings(Settings):
    """Settings of `ingest`.

    Attributes:
        sources: what to read; may be empty when the stage reads another one's raw files.
        splits: shares of the prompts.
        max_invalid_share: fail when a larger share of the records is invalid.
        max_prompt_chars, max_response_chars: longer rows are left out (characters).
        max_prompt_tokens, max_tokens: the same in tokens of `model` (prompt; prompt and
            response).
        model, chat_template: whose tokenizer counts.
        drop_equal_scores: filter pairs whose two scores are equal.
        max_line_bytes: longest line that is read at all (bytes).
        seed: of the mixture.
    """

    sources: list[Source] = Field(default_factory=list)
    splits: Splits = Splits()
    max_invalid_share: float = Field(default=0.05, ge=0, le=1)
    max_prompt_chars: int | None = Field(default=None, ge=1)
    max_response_chars: int | None = Field(default=None, ge=1)
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    model: str | None = None
    chat_template: str | None = None
    drop_equal_scores: bool = False
    max_line_bytes: int = Field(default=MAX_LINE_BYTES, ge=1_024)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> IngestSettings:
        by_tokens = self.limits.by_tokens
        if by_tokens and self.model is None:
            raise ValueError("max_prompt_tokens and max_tokens need `model` to count tokens with")
        if not by_tokens and (self.model or self.chat_template):
            raise ValueError(
                "model and chat_template only count tokens: expected max_prompt_tokens or "
                "max_tokens with them"
            )
        weighted = sum(source.weight is not None for source in self.sources)
        if 0 < weighted < len(self.sources):
            raise ValueError(
                f"weight: found on {weighted} of {len(self.sources)} sources, expected all or none"
            )
        return self

    @property
    def limits(self) -> checks.Limits:
        """Sizes above which rows are left out."""
        return checks.Limits(
            self.max_prompt_chars, self.max_response_chars, self.max_prompt_tokens, self.max_tokens
        )
