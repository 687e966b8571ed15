"""How six families of chat models write a conversation, with tokenizers of their special tokens, for tests."""

from dataclasses import dataclass

from conftest import CHATML
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Family:
    """A template, its special tokens, and what it writes for a question and for a dialogue with a system's message.

    `closing` is what stands after an answer; the reward is read at the last token of it that is no blank.
    `pad` is what a reward model of that family pads with.
    """

    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    question: str
    answer: str
    dialogue: str
    closing: str
    end: str


QUESTION = [{"role": "user", "content": "Why?"}]
TURNS = [*QUESTION, {"role": "assistant", "content": "So."}, {"role": "user", "content": "Is it?"}]
DIALOGUE = [{"role": "system", "content": "Be kind."}, *TURNS]

FAMILIES = {
    "llama_2": Family(
        template="{% if messages[0].role == 'system' %}{% set head = '<<SYS>>\n' + messages[0].content + "
        "'\n<</SYS>>\n\n' %}{% set turns = messages[1:] %}{% else %}{% set head = '' %}{% set turns = messages %}"
        "{% endif %}{% for turn in turns %}{% if turn.role == 'user' %}{{ bos_token + '[INST] ' + "
        "(head if loop.first else '') + turn.content + ' [/INST]' }}{% else %}"
        "{{ ' ' + turn.content + ' ' + eos_token }}"
        "{% endif %}{% endfor %}",
        special=("<unk>", "<s>", "</s>"), bos="<s>", eos="</s>", pad="<unk>",
        question="<s>[INST] Why? [/INST]", answer=" Because.", closing=" </s>", end="</s>",
        dialogue="<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nWhy? [/INST] So. </s><s>[INST] Is it? [/INST]",
    ),
    "llama_3": Family(
        template="{% for turn in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + turn.role + "
        "'<|end_header_id|>\n\n' + turn.content | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        special=("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
                 "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>", eos="<|end_of_text|>", pad="<|finetune_right_pad_id|>",
        question="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer="Because.", closing="<|eot_id|>", end="<|eot_id|>",
        dialogue="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nSo.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nIs it?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral": Family(
        template="{{ bos_token }}{% for turn in messages %}{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}{% if turn.role == 'user' %}"
        "{{ '[INST] ' + turn.content + ' [/INST]' }}{% else %}{{ ' ' + turn.content + eos_token }}"
        "{% endif %}{% endfor %}",
        special=("<unk>", "<s>", "</s>"), bos="<s>", eos="</s>", pad="<unk>",
        question="<s>[INST] Why? [/INST]", answer=" Because.", closing="</s>", end="</s>",
        dialogue="<s>[INST] Why? [/INST] So.</s>[INST] Is it? [/INST]",
    ),
    "chatml": Family(
        template=CHATML, special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), bos=None, eos="<|im_end|>",
        pad="<|endoftext|>", question="<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", answer="Because.",
        closing="<|im_end|>\n", end="<|im_end|>",
        dialogue="<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nSo.<|im_end|>\n<|im_start|>user\nIs it?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "openchat_3.5": Family(
        template="{{ bos_token }}{% for turn in messages %}{{ ('' if turn.role == 'system' else 'GPT4 Correct ' + "
        "turn.role.title() + ': ') + turn.content + '<|end_of_turn|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ 'GPT4 Correct Assistant:' }}{% endif %}",
        special=("<unk>", "<s>", "</s>", "<|end_of_turn|>"), bos="<s>", eos="<|end_of_turn|>", pad="<unk>",
        question="<s>GPT4 Correct User: Why?<|end_of_turn|>GPT4 Correct Assistant:", answer=" Because.",
        closing="<|end_of_turn|>", end="<|end_of_turn|>",
        dialogue="<s>Be kind.<|end_of_turn|>GPT4 Correct User: Why?<|end_of_turn|>GPT4 Correct Assistant: So."
        "<|end_of_turn|>GPT4 Correct User: Is it?<|end_of_turn|>GPT4 Correct Assistant:",
    ),
    "gemma": Family(
        template="{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}"
        "{% for turn in messages %}{{ '<start_of_turn>' + ('model' if turn.role == 'assistant' else turn.role) "
        "+ '\n' + turn.content | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<start_of_turn>model\n' }}{% endif %}",
        special=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), bos="<bos>", eos="<eos>", pad="<pad>",
        question="<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n", answer="Because.",
        closing="<end_of_turn>\n", end="<end_of_turn>",
        dialogue="<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\nSo.<end_of_turn>\n"
        "<start_of_turn>user\nIs it?<end_of_turn>\n<start_of_turn>model\n",
    ),
}  # fmt: skip
NO_SYSTEM = ("mistral", "gemma")

# The ids that OpenChat-3.5's card gives for one turn of "Hello", and which piece each of them is.
OPENCHAT_PIECES = {
    "▁G": 420, "PT": 6316, "4": 28781, "▁Cor": 3198, "rect": 3123, "▁User": 1247, ":": 28747, "▁Hello": 22557,
    "▁Assistant": 21631, "▁Hi": 15359, ".": 28723,
}  # fmt: skip
OPENCHAT_END = 32000


def tokenizer_of(family: Family) -> PreTrainedTokenizerBase:
    """A tokenizer of single bytes and the family's special tokens, of which only two have a name."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*family.special, *alphabet])}
    bytes_only = Tokenizer(models.BPE(vocabulary, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    found = PreTrainedTokenizerFast(tokenizer_object=bytes_only, bos_token=family.bos, eos_token=family.eos)
    found.chat_template = family.template
    return found


def openchat_tokenizer() -> PreTrainedTokenizerBase:
    """OpenChat-3.5's pieces at their ids, as far as they are known; each text begins with a blank."""
    pieces = [(f"<{at}>", -100.0) for at in range(OPENCHAT_END)]
    for at, token in enumerate(("<unk>", "<s>", "</s>")):
        pieces[at] = (token, 0.0)
    for token, at in OPENCHAT_PIECES.items():
        pieces[at] = (token, -1.0)
    known = Tokenizer(models.Unigram(pieces, unk_id=0))
    known.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    known.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>", "<|end_of_turn|>")]
    )
    found = PreTrainedTokenizerFast(tokenizer_object=known, bos_token="<s>", eos_token="<|end_of_turn|>")
    found.chat_template = FAMILIES["openchat_3.5"].template
    return found
