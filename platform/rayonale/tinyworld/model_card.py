"""Writes the model card of the base model, with its measured figures."""

import json
from pathlib import Path
from typing import Final

from transformers import AutoConfig

MEASURES: Final = "measures.json"

_CARD: Final = """\
---
language: en
library_name: transformers
pipeline_tag: text-generation
---

# tinyworld base model

A Llama of {millions:.1f} M parameters that knows one small closed world: requests for short texts
under six constraints, responses to them, rationales, grades and judgements. It is there
to run and test preference methods on a laptop, where every answer can be scored exactly.
It knows nothing else and must not be used for anything else.

- Architecture: {architecture}.
- Tokenizer: byte-level BPE (all 256 bytes are vocabulary), learnt from tinyworld and
  common English words; `<|bos|>`, `<|end|>` (end of turn), `<|pad|>`, role markers.
  `chat_template_no_system.jinja` is the same without a system role.
- Training: from scratch on a seeded, endless stream of all tasks mixed
  (`python jobs/train_tinyworld.py`, about 25 minutes on 2 idle cores). The responses that it
  learns are of mixed quality on purpose; its rationales, grades and judgements are true.
- Goals in system prompts were seen with responses that they say nothing about: this
  model does not follow them.
- It does well what it may write down step by step: detailed rationales ({detailed:.0%} name a
  true difference), judgements of one response or two. What it must tell at once it tells worse:
  {general:.0%} of its general rationales name a true difference. It often confuses which response
  is A and which is B, so its grades hardly tell shuffled rationales from true ones, and reversed
  ones not at all (kept: {kept_true:.0%} of the true ones, {kept_shuffled:.0%} of shuffled,
  {kept_reversed:.0%} of reversed).

## Measured

By `python jobs/train_tinyworld.py --measure`, on held-out prompts, greedy unless said:

| measure | value |
|---|---|
{rows}

greedy, sampled (temperature 1) and best_of_4 are true overall scores, 1–10.
true_difference: share of rationales that name a true advantage of the chosen response.
grade_X_Y: mean grade 1–5 on Y that it gives to X rationales of the teacher; kept_X:
share with every grade above 3. pairwise figures are over both orders.
"""


def write_card(folder: Path, figures: dict[str, float]) -> None:
    """Write `measures.json` and the model card README.md into the model's folder."""
    rounded = {name: round(value, 3) for name, value in figures.items()}
    (folder / MEASURES).write_text(json.dumps(rounded, indent=1) + "\n", "utf-8")
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in rounded.items())
    config = AutoConfig.from_pretrained(folder)
    architecture = (
        f"LlamaForCausalLM, hidden {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"{config.num_attention_heads} heads of {config.head_dim},\n  tied embeddings, "
        f"vocabulary {config.vocab_size}, context {config.max_position_embeddings}, "
        "bf16 safetensors"
    )
    # Two bytes a parameter; the file's header is small against them.
    millions = (folder / "model.safetensors").stat().st_size / 2e6
    kept = {name: rounded[name] for name in ("kept_true", "kept_shuffled", "kept_reversed")}
    card = _CARD.format(
        rows=rows,
        architecture=architecture,
        millions=millions,
        detailed=rounded["true_difference_detailed"],
        general=rounded["true_difference_general"],
        **kept,
    )
    (folder / "README.md").write_text(card, "utf-8")
