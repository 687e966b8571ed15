"""What Ollama is told about a GGUF file."""

import pytest
from chat_templates import DIALOGUE, FAMILIES, QUESTION, tokenizer_of

from starling import modelfile

LINEAR = {"llama_3": True, "chatml": False}  # whether the reader puts the first token there
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    + FAMILIES["chatml"].template
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_of_turns_is_told_from_others_and_written_the_same(family: str) -> None:
    read, adds_bos = tokenizer_of(FAMILIES[family]), LINEAR.get(family, False)
    found = modelfile.turns(read, adds_bos)
    if found is None:  # a system's text within the user's turn, or roles that must take turns from the start
        assert family not in LINEAR
        return
    for said in (QUESTION, DIALOGUE):
        expected = read.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        assert found.render(said) == (expected.removeprefix(read.bos_token) if adds_bos else expected)


def test_a_first_token_that_the_reader_puts_there_is_left_out() -> None:
    read = tokenizer_of(FAMILIES["llama_3"])
    found = modelfile.turns(read, adds_bos=True)
    assert found is not None and not found.render(QUESTION).startswith("<|begin_of_text|>")


def test_a_system_text_that_stands_there_by_default_is_told_apart() -> None:
    read = tokenizer_of(FAMILIES["chatml"])
    read.chat_template = DEFAULT_SYSTEM
    found = modelfile.turns(read, adds_bos=False)
    assert found is not None and found.system == "You are kind."
    assert found.before["user"] == "<|im_start|>user\n" and found.after["system"] == "<|im_end|>\n"


def test_the_file_says_how_a_conversation_is_written_and_sampled() -> None:
    found = modelfile.Turns(
        before={"system": "<s>", "user": "<u>", "assistant": "<a>"},
        after=dict.fromkeys(("system", "user", "assistant"), "\n"),
        system="Be kind.",
        opening="<a>",
    )
    settings = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "max_length": 20}
    assert modelfile.text("p.gguf", found, ["</s>"], settings, 2048) == (
        "# written by starling export\nFROM ./p.gguf\nPARAMETER num_ctx 2048\nPARAMETER temperature 0.2\n"
        'PARAMETER top_p 0.9\nPARAMETER stop "</s>"\n'
        'TEMPLATE """{{- range .Messages }}{{ if eq .Role "system" }}<s>{{ .Content }}\n{{ else if eq .Role "user" }}'
        '<u>{{ .Content }}\n{{ else if eq .Role "assistant" }}<a>{{ .Content }}\n{{ end }}{{ end }}<a>"""\n'
        'SYSTEM """Be kind."""\n'
    )


def test_a_model_that_does_not_sample_is_greedy_and_an_unsafe_template_is_left_out() -> None:
    found = modelfile.Turns(
        before=dict.fromkeys(("system", "user", "assistant"), "{{"), after={}, system="", opening=""
    )
    assert modelfile.text("p.gguf", found, [], {"do_sample": False, "temperature": 0.7}, 8) == (
        "# written by starling export\nFROM ./p.gguf\nPARAMETER num_ctx 8\nPARAMETER temperature 0\n"
    )
