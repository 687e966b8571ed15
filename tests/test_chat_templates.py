"""Six families of chat templates: what they write, where the reward is read, what a cut answer lacks."""

from itertools import pairwise

import pytest
from chat_templates import (
    DIALOGUE,
    FAMILIES,
    NO_SYSTEM,
    OPENCHAT_END,
    QUESTION,
    TURNS,
    openchat_tokenizer,
    tokenizer_of,
)
from transformers import PreTrainedTokenizerBase

from starling import chat, models
from starling.errors import ModelError

ANSWER = "Because."
names = pytest.mark.parametrize("name", FAMILIES)


def reward_tokenizer(name: str) -> PreTrainedTokenizerBase:
    tokenizer = tokenizer_of(FAMILIES[name])
    chat.end_on_reward(tokenizer, name)
    return tokenizer


def dialogue(name: str) -> list:
    return TURNS if name in NO_SYSTEM else DIALOGUE


def texts(tokenizer: PreTrainedTokenizerBase, messages: list, finished: bool) -> list[str]:
    shared, endings = chat.conversation_ids(tokenizer, messages, [ANSWER, "No."], [finished] * 2)
    return [tokenizer.decode(shared + ending) for ending in endings]


@names
def test_a_waiting_conversation_is_written_as_the_family_writes_it(name: str) -> None:
    tokenizer, family = tokenizer_of(FAMILIES[name]), FAMILIES[name]
    assert tokenizer.decode(chat.prompt_ids(tokenizer, QUESTION)) == family.question
    assert tokenizer.decode(chat.prompt_ids(tokenizer, dialogue(name))) == family.dialogue


@names
def test_a_conversation_ends_on_the_token_that_carries_the_reward(name: str) -> None:
    tokenizer, family = reward_tokenizer(name), FAMILIES[name]
    assert texts(tokenizer, QUESTION, True)[0] == family.question + family.answer + family.closing.rstrip()
    assert texts(tokenizer, dialogue(name), True)[0] == family.dialogue + family.answer + family.closing.rstrip()
    _, endings = chat.conversation_ids(tokenizer, QUESTION, [ANSWER, "No."], [True] * 2)
    assert {tokenizer.convert_ids_to_tokens(ending[-1]) for ending in endings} == {family.end}


DATED = (
    "{%- if strftime_now is defined %}{%- set day = strftime_now(\"%d %b %Y\") %}{% else %}{%- set day = '?' %}"
    "{% endif %}{{ day + strftime_now('%A') + '\\n' }}"
)


def test_a_reward_model_reads_the_same_every_day() -> None:
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    plain = str(tokenizer.chat_template)
    tokenizer.chat_template = DATED + plain
    chat.end_on_reward(tokenizer, "chatml")
    assert chat.rendered(tokenizer, QUESTION, waiting=True).startswith("01 Jan 2025Wednesday\n")
    saved = str(tokenizer.chat_template)
    chat.end_on_reward(tokenizer, "chatml")
    assert str(tokenizer.chat_template) == saved
    tokenizer.chat_template = "{%- set form = '%Y' %}{{ strftime_now(form) }}" + plain
    with pytest.raises(ModelError, match=r"^chatml: its chat template writes today's date in a way that is not known"):
        chat.end_on_reward(tokenizer, "chatml")


@names
def test_a_cut_answer_ends_on_its_own_last_token(name: str) -> None:
    tokenizer, family = reward_tokenizer(name), FAMILIES[name]
    assert texts(tokenizer, dialogue(name), False)[0] == family.dialogue + family.answer
    shared, (cut, whole) = chat.conversation_ids(tokenizer, QUESTION, [ANSWER] * 2, [False, True])
    assert [*shared, *whole][: len(shared) + len(cut)] == [*shared, *cut]
    assert tokenizer.decode(whole[len(cut) :]) == family.closing.rstrip()


@names
def test_no_conversation_begins_twice(name: str) -> None:
    tokenizer, family = reward_tokenizer(name), FAMILIES[name]
    (shared, (ending, _)) = chat.conversation_ids(tokenizer, dialogue(name), [ANSWER, "No."], [True] * 2)
    begins = [token == tokenizer.bos_token_id for token in [*shared, *ending]]
    assert begins[0] == (family.bos is not None)
    assert sum(begins) == family.dialogue.count(family.bos or "<none>")
    assert not any(first and second for first, second in pairwise(begins))


@names
def test_the_reward_models_template_leaves_prompts_and_answers_as_they_are(name: str) -> None:
    plain, tokenizer, family = tokenizer_of(FAMILIES[name]), reward_tokenizer(name), FAMILIES[name]
    assert chat.prompt_ids(tokenizer, dialogue(name)) == chat.prompt_ids(plain, dialogue(name))
    assert plain.decode(chat.answer_ids(plain, dialogue(name), ANSWER)) == family.answer + family.closing
    assert plain.decode(chat.answer_ids(tokenizer, dialogue(name), ANSWER)) == family.answer + family.closing.rstrip()


@names
def test_padding_never_ends_a_conversation(name: str) -> None:
    tokenizer = reward_tokenizer(name)
    pad = models._pad_token(tokenizer, name, len(tokenizer))
    assert pad == FAMILIES[name].pad
    for finished in (True, False):
        _, endings = chat.conversation_ids(tokenizer, QUESTION, [ANSWER, "No."], [finished] * 2)
        assert all(tokenizer.convert_ids_to_tokens(ending[-1]) != pad for ending in endings)


@names
def test_ending_on_the_reward_is_done_once(name: str) -> None:
    tokenizer = reward_tokenizer(name)
    template = tokenizer.chat_template
    chat.end_on_reward(tokenizer, name)
    assert tokenizer.chat_template == template


@pytest.mark.parametrize("name", NO_SYSTEM)
def test_a_template_that_knows_no_system_role_says_so(name: str) -> None:
    with pytest.raises(ModelError, match=r"does not write this conversation: (no system role|turns must alternate)"):
        chat.prompt_ids(tokenizer_of(FAMILIES[name]), DIALOGUE)


@names
def test_a_shortened_conversation_is_still_one_that_the_template_writes(name: str) -> None:
    tokenizer, family = reward_tokenizer(name), FAMILIES[name]
    whole = chat.prompt_ids(tokenizer, dialogue(name))
    shorter = chat.shortened(tokenizer, dialogue(name), 1)
    system = dialogue(name)[:-3]
    assert shorter == [*system, {"role": "user", "content": "Is it?"}]
    found = chat.prompt_ids(tokenizer, shorter)
    assert len(found) < len(whole)
    assert tokenizer.decode(found).startswith(family.question[: family.question.index("Why?")] if not system else "")
    assert sum(token == tokenizer.bos_token_id for token in found) == (family.bos is not None)


def test_openchat_writes_the_ids_of_its_card() -> None:
    tokenizer = openchat_tokenizer()
    start, assistant = [1, 420, 6316, 28781, 3198, 3123, 1247, 28747, 22557, 32000], [420, 6316, 28781, 3198, 3123]
    hello = [{"role": "user", "content": "Hello"}]
    assert list(chat.prompt_ids(tokenizer, hello)) == [*start, *assistant, 21631, 28747]
    chat.end_on_reward(tokenizer, "openchat")
    shared, (whole, cut) = chat.conversation_ids(tokenizer, hello, ["Hi."] * 2, [True, False])
    assert [*shared, *whole] == [*start, *assistant, 21631, 28747, 15359, 28723, OPENCHAT_END]
    assert [*shared, *cut] == [*start, *assistant, 21631, 28747, 15359, 28723]
    assert models._pad_token(tokenizer, "openchat", len(tokenizer)) == "<unk>"


def test_a_template_that_goes_on_after_the_answer_is_refused() -> None:
    # as where the header of the assistant's next turn is written whether or not the conversation waits for it
    family = FAMILIES["llama_3"]
    tokenizer = tokenizer_of(family)
    tokenizer.chat_template = family.template.replace("{% if add_generation_prompt %}", "").replace("{% endif %}", "")
    with pytest.raises(
        ModelError, match=r"llama: its chat template writes '<\|eot_id\|><\|start_header_id\|>assistant"
    ):
        chat.end_on_reward(tokenizer, "llama")


def test_of_several_templates_the_default_one_is_taken() -> None:
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    tokenizer.chat_template = {"default": FAMILIES["chatml"].template, "tools": "{{ 'tools' }}"}
    chat.end_on_reward(tokenizer, "chatml")
    assert texts(tokenizer, QUESTION, True)[0].endswith("Because.<|im_end|>")


@pytest.mark.parametrize("blanks", ["\n", "\n\n", "  ", " \n \n"])
def test_line_breaks_around_a_template_stay_as_they_are(blanks: str) -> None:
    plain, tokenizer = tokenizer_of(FAMILIES["chatml"]), tokenizer_of(FAMILIES["chatml"])
    plain.chat_template = blanks + plain.chat_template + blanks
    tokenizer.chat_template = chat.ending_on_reward(plain.chat_template)
    assert chat.prompt_ids(tokenizer, QUESTION) == chat.prompt_ids(plain, QUESTION)
