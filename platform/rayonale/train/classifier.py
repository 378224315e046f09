"""A causal LM and its reward head as one sequence-classification model with a single label.

    model/ + reward_head/ ─► classifier/   LlamaForSequenceClassification …, num_labels 1, `score`

Transformers (`AutoModelForSequenceClassification`) and vLLM (`--convert classify`) load it and
give the head's rewards. Transformers looks for the last token that is no padding, so with a padding
token that ends responses it would read one token too early: the export then gets a padding token
of its own. vLLM puts a single label through a sigmoid unless asked not to (`use_activation`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayonale.data import tokens

FOLDER = "classifier"
PAD = "<|reward_pad|>"


def write(source: Path, head: Tensor, folder: Path) -> None:
    """Write the classifier of a causal LM's folder and a head's weight [1, H].

    Raises:
        ValueError: Transformers has no sequence classifier of this architecture, or one that does
            more than a linear map of the last hidden state.
    """
    from transformers import AutoModelForCausalLM

    language_model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    tokenizer = tokens.load_tokenizer(str(source))
    pad = own_pad(tokenizer)
    if pad >= language_model.get_input_embeddings().num_embeddings:
        language_model.resize_token_embeddings(pad + 1, mean_resizing=False)
    model = _classifier_of(language_model)
    with torch.no_grad():
        model.score.weight.copy_(head)  # stays float32: who loads it chooses the precision
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = pad
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def own_pad(tokenizer: Any) -> int:
    """Id of a padding token that no response ends with; one is added where there is none."""
    pad = tokenizer.pad_token_id
    if pad is None or pad in tokens.stop_token_ids(tokenizer):
        tokenizer.add_special_tokens({"pad_token": PAD})
    return int(tokenizer.pad_token_id)


def _classifier_of(language_model: Any) -> Any:
    """The architecture's sequence classifier around a causal LM's own backbone."""
    from transformers import AutoModelForSequenceClassification

    config = type(language_model.config).from_dict(language_model.config.to_dict())
    config.num_labels = 1
    name = type(language_model).__name__
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(
                config, dtype=language_model.dtype
            )
    except ValueError as error:
        raise ValueError(
            f"{name}: Transformers has no sequence classifier of this architecture; set "
            "reward_head.classifier: false to keep the head alone"
        ) from error
    prefix = language_model.base_model_prefix
    score = getattr(model, "score", None)
    if not isinstance(score, torch.nn.Linear) or score.bias is not None or not prefix:
        raise ValueError(
            f"{type(model).__name__} has no `score` that is linear and without bias, as the reward "
            "head is; set reward_head.classifier: false to keep the head alone"
        )
    setattr(model, prefix, getattr(language_model, prefix))
    model.score = torch.nn.Linear(score.in_features, 1, bias=False, device="cpu")
    return model
