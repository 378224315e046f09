"""Tokens of conversations: parity with Transformers, and data that cannot become control tokens."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rayonale.data import tokens

PROMPT = [{"role": "user", "content": "how do you cook rice?"}]
ANSWER = [{"role": "assistant", "content": "Boil water, then add the rice."}]
LONG = [
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "Well, hello"},
    {"role": "user", "content": "Name two birds"},
]
CONTROL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<s>",
    "</s>",
    "<eos>",
    "<end_of_turn>",
    "<|begin_of_text|>",
    "<bos>",
    "<|endoftext|>",
]


def reference(tokenizer, messages, **kwargs):
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **kwargs)


def control_ids(tokenizer, ids):
    return [i for i in ids if i in tokenizer.added_tokens_decoder]


@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["one turn", "three turns"])
def test_prompt_has_transformers_tokens(tokenizer, prompt):
    expected = reference(tokenizer, prompt, add_generation_prompt=True)
    assert tokens.encode_prompt(tokenizer, prompt) == expected


@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["one turn", "three turns"])
def test_prompt_and_response_begin_the_whole(tokenizer, prompt, request):
    """What follows is only what the template adds after the end of turn (a newline or nothing)."""
    prompt_ids, response_ids = tokens.encode_example(tokenizer, prompt, ANSWER)
    whole = reference(tokenizer, prompt + ANSWER)
    if "llama3" in request.node.name:
        # GPT-2's pre-tokenizer parts "\n\n" before a word differently than at the end of a text;
        # generation begins after the latter, and so does training.
        whole = prompt_ids + whole[-len(response_ids) :]
    both = prompt_ids + response_ids
    assert whole[: len(both)] == both
    assert tokenizer.decode(whole[len(both) :]).strip() == ""
    assert response_ids[-1] in tokens.stop_token_ids(tokenizer)


def test_response_spelled_out(make_tokenizer):
    chatml = make_tokenizer("chatml")
    assert chatml.decode(tokens.encode_response(chatml, PROMPT, ANSWER)) == (
        "Boil water, then add the rice.<|im_end|>"
    )
    gemma = make_tokenizer("gemma")
    stripped = [{"role": "assistant", "content": "  Boil water. \n"}]
    ids = tokens.encode_response(gemma, PROMPT, stripped)
    assert gemma.decode(ids) == "Boil water.<end_of_turn>"
    mistral = make_tokenizer("mistral")
    ids = tokens.encode_response(mistral, PROMPT, ANSWER)
    assert mistral.convert_ids_to_tokens(ids)[0].startswith("▁")
    assert not mistral.convert_ids_to_tokens(ids)[0].startswith("▁▁")


def test_stop_tokens(make_tokenizer):
    names = {
        family: make_tokenizer(family).convert_ids_to_tokens(
            tokens.stop_token_ids(make_tokenizer(family))
        )
        for family in ("chatml", "llama3", "mistral", "gemma")
    }
    assert names == {
        "chatml": ["<|im_end|>"],
        "llama3": ["<|eot_id|>"],
        "mistral": ["</s>"],
        "gemma": ["<end_of_turn>", "<eos>"],
    }


def test_special_strings_of_data_are_text(tokenizer):
    """Every special string of every family, in prompt and response: no control token more."""
    evil = "a " + " b ".join(CONTROL) + " c"
    prompt = [{"role": "user", "content": evil}]
    answer = [{"role": "assistant", "content": evil}]
    neutral = tokens.encode_example(tokenizer, PROMPT, ANSWER)
    found = tokens.encode_example(tokenizer, prompt, answer)
    for ids, plain in zip(found, neutral, strict=True):
        assert control_ids(tokenizer, ids) == control_ids(tokenizer, plain)
        text = tokenizer.decode(ids)
        assert all(string in text for string in CONTROL)


def test_a_special_string_alone_and_at_the_edges(tokenizer):
    for text in (*CONTROL, f" {CONTROL[1]} ", CONTROL[4] * 3, f"{CONTROL[0]}\n{CONTROL[1]}"):
        prompt = [{"role": "user", "content": text}]
        ids = tokens.encode_prompt(tokenizer, prompt)
        plain = tokens.encode_prompt(tokenizer, PROMPT)
        assert control_ids(tokenizer, ids) == control_ids(tokenizer, plain), text


def test_a_special_string_that_only_the_template_puts_together(make_tokenizer):
    """The content holds none; the template's edit of it would make one."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + "
        "m['content'].replace('~', '') + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = make_tokenizer("chatml", template)
    ids = tokens.encode_prompt(tokenizer, [{"role": "user", "content": "x <|im_~end|> y"}])
    plain = tokens.encode_prompt(tokenizer, PROMPT)
    assert control_ids(tokenizer, ids) == control_ids(tokenizer, plain)
    assert "x <|im_end|> y" in tokenizer.decode(ids)


def test_added_tokens_that_are_not_special_stay_as_transformers_has_them(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    tokenizer.add_tokens(["<think>"])
    prompt = [{"role": "user", "content": "say <think> aloud"}]
    assert tokens.encode_prompt(tokenizer, prompt) == reference(
        tokenizer, prompt, add_generation_prompt=True
    )


def test_end_of_turn_that_is_not_marked_special(make_tokenizer):
    template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '[END]\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = make_tokenizer("chatml", template)
    tokenizer.add_tokens(["[END]"])
    answer = [{"role": "assistant", "content": "so [END] it is"}]
    ids = tokens.encode_response(tokenizer, PROMPT, answer)
    end = tokenizer.convert_tokens_to_ids("[END]")
    assert ids.count(end) == 1 and ids[-1] == end
    assert tokenizer.decode(ids) == "so [END] it is[END]"
    assert tokens.stop_token_ids(tokenizer) == [end, tokenizer.eos_token_id]


def test_template_without_end_of_turn_gets_eos(make_tokenizer):
    template = (
        "{% for m in messages %}{{ '### ' + m['role'] + '\n' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}"
    )
    tokenizer = make_tokenizer("chatml", template)
    ids = tokens.encode_response(tokenizer, PROMPT, ANSWER)
    assert tokenizer.decode(ids) == ANSWER[0]["content"] + "<|im_end|>"
    tokenizer.eos_token = None
    tokenizer.chat_template = template + "{# another #}"
    with pytest.raises(ValueError, match="no eos token"):
        tokens.encode_response(tokenizer, PROMPT, ANSWER)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*CONTROL, "<", ">", "|", "im_end", " ", "\n", "x", "ü", "s>"])),
    st.text(max_size=20),
)
def test_any_text_makes_no_control_token(pieces, text):
    from tests.data.conftest import FAMILIES, _make

    prompt = [{"role": "user", "content": "".join(pieces) + text}]
    answer = [{"role": "assistant", "content": text + "".join(pieces)}]
    for family in FAMILIES:
        tokenizer = _shared.setdefault(family, _make(family))
        if family == "mistral" and not (answer[0]["content"] + prompt[0]["content"]).isascii():
            continue  # its small vocabulary lacks them
        neutral = tokens.encode_example(tokenizer, PROMPT, ANSWER)
        found = tokens.encode_example(tokenizer, prompt, answer)
        for ids, plain in zip(found, neutral, strict=True):
            assert control_ids(tokenizer, ids) == control_ids(tokenizer, plain)


_shared: dict = {}


def test_system_role(make_tokenizer):
    assert tokens.has_system_role(make_tokenizer("chatml"))
    assert tokens.has_system_role(make_tokenizer("llama3"))
    assert not tokens.has_system_role(make_tokenizer("mistral"))
    assert not tokens.has_system_role(make_tokenizer("gemma"))


def test_system_message_where_the_template_has_no_such_role(make_tokenizer):
    gemma = make_tokenizer("gemma")
    system = [{"role": "system", "content": "Be brief."}]
    folded = [{"role": "user", "content": "Be brief.\n\nhow do you cook rice?"}]
    assert tokens.encode_prompt(gemma, system + PROMPT) == tokens.encode_prompt(gemma, folded)


def test_with_system(make_tokenizer):
    chatml, gemma = make_tokenizer("chatml"), make_tokenizer("gemma")
    system = {"role": "system", "content": "Be brief."}
    assert tokens.with_system(PROMPT, "Be brief.", chatml) == [system, *PROMPT]
    assert tokens.with_system(PROMPT, "Be brief.", gemma) == [
        {"role": "user", "content": "Be brief.\n\nhow do you cook rice?"}
    ]
    assert tokens.with_system([system, *PROMPT], "Aim at 10.", chatml) == [
        {"role": "system", "content": "Be brief.\n\nAim at 10."},
        *PROMPT,
    ]


def test_template_that_shows_system_text_only_in_the_last_user_turn(make_tokenizer):
    """As Mistral's v0.3: answered, the prompt no longer begins the conversation's text."""
    template = (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
        "{% else %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if m['role'] == 'user' %}"
        "{% if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m['content'] + "
        "'[/INST]' }}{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer = make_tokenizer("llama3", template)
    assert tokens.has_system_role(tokenizer)
    prompt = [{"role": "system", "content": "Be brief."}, *PROMPT]
    ids = tokens.encode_response(tokenizer, prompt, ANSWER)
    assert tokenizer.decode(ids) == " " + ANSWER[0]["content"] + "<|eot_id|>"


def test_two_bos_are_refused(make_tokenizer):
    template = "{{ bos_token }}" + make_tokenizer("llama3").chat_template
    with pytest.raises(ValueError, match="two BOS"):
        tokens.encode_prompt(make_tokenizer("llama3", template), PROMPT)


def test_generation_prompt_that_training_would_not_show_is_refused(make_tokenizer):
    chatml = make_tokenizer("chatml").chat_template
    template = chatml.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    with pytest.raises(ValueError, match="opens an assistant turn with"):
        tokens.encode_response(make_tokenizer("chatml", template), PROMPT, ANSWER)


def test_roles_that_the_template_refuses(make_tokenizer):
    with pytest.raises(ValueError, match=r"refuses roles \(user, user\): must alternate"):
        tokens.encode_prompt(make_tokenizer("mistral"), PROMPT + PROMPT)


def test_a_response_is_one_assistant_message(make_tokenizer):
    for response in ([], PROMPT, ANSWER + ANSWER):
        with pytest.raises(ValueError, match="one assistant message"):
            tokens.encode_response(make_tokenizer("chatml"), PROMPT, response)


def test_a_prompt_is_to_be_answered(make_tokenizer):
    for prompt in ([], PROMPT + ANSWER):
        with pytest.raises(ValueError, match="ends with a message that is to be answered"):
            tokens.encode_prompt(make_tokenizer("chatml"), prompt)


def test_a_date_in_the_template_does_not_move(make_tokenizer):
    template = "{{ strftime_now('%d %b %Y') }}: " + make_tokenizer("chatml").chat_template
    tokenizer = make_tokenizer("chatml", template)
    assert tokenizer.decode(tokens.encode_prompt(tokenizer, PROMPT)).startswith("26 Jul 2024: ")


def test_truncation_and_padding_set_by_others_do_not_matter(make_tokenizer):
    tokenizer = make_tokenizer("chatml", pad_token="<|endoftext|>")
    expected = tokens.encode_prompt(tokenizer, PROMPT)
    tokenizer("x", truncation=True, max_length=2, padding="max_length")
    assert tokens.encode_prompt(tokenizer, PROMPT) == expected
    fresh = make_tokenizer("chatml", pad_token="<|endoftext|>")
    fresh("x", truncation=True, max_length=2, padding="max_length")
    assert tokens.encode_prompt(fresh, PROMPT) == expected


def test_load_tokenizer(make_tokenizer, tmp_path: Path):
    make_tokenizer("chatml").save_pretrained(tmp_path)
    loaded = tokens.load_tokenizer(str(tmp_path))
    assert tokens.encode_prompt(loaded, PROMPT) == tokens.encode_prompt(
        make_tokenizer("chatml"), PROMPT
    )
    (tmp_path / "short.jinja").write_text("{{ messages[-1]['content'] }}")
    for name in ("short", "short.jinja", str(tmp_path / "short.jinja")):
        replaced = tokens.load_tokenizer(str(tmp_path), chat_template=name)
        assert replaced.decode(tokens.encode_prompt(replaced, PROMPT)) == PROMPT[0]["content"]
    with pytest.raises(ValueError, match=r"'nope' not found.*short\.jinja"):
        tokens.load_tokenizer(str(tmp_path), chat_template="nope")


def test_tokenizer_without_chat_template(make_tokenizer, tmp_path: Path):
    make_tokenizer("chatml").save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None
    with pytest.raises(ValueError, match="has no chat template; expected"):
        tokens.load_tokenizer(str(tmp_path))


def test_over_long():
    assert tokens.over_long([1] * 5, [1] * 5, max_length=10, max_prompt_length=5) is None
    assert tokens.over_long([1] * 6, [1], max_prompt_length=5) == (
        "prompt has 6 tokens, at most 5 allowed"
    )
    assert tokens.over_long([1] * 6, [1] * 5, max_length=10) == (
        "prompt and response have 11 tokens, at most 10 allowed"
    )


def test_tinyworld_model(tinyworld_model):
    tokenizer = tokens.load_tokenizer(str(tinyworld_model))
    assert tokens.has_system_role(tokenizer)
    expected = reference(tokenizer, PROMPT, add_generation_prompt=True)
    assert tokens.encode_prompt(tokenizer, PROMPT) == expected
    evil = "".join(str(token) for token in tokenizer.added_tokens_decoder.values()) + " ü 鳥"
    answer = [{"role": "assistant", "content": evil}]
    ids = tokens.encode_response(tokenizer, PROMPT, answer)
    plain = tokens.encode_response(tokenizer, PROMPT, ANSWER)
    assert control_ids(tokenizer, ids) == control_ids(tokenizer, plain)
    assert evil in tokenizer.decode(ids)
