"""The frame around what is judged: borders with a tag of their own, which no text inside can forge."""

import re
import unicodedata
from collections.abc import Sequence

from starling.judges.parse import QUOTES, Unparsed, letters, parse_good_natured, parse_pair_verdicts, parse_ranking
from starling.records import Message

_BORDER = re.compile(
    r"<<[\s/]{0,4}((?:end of )?(?:answer|conversation|reference|user|assistant|system)\b[^<>\n]{0,80})>>",
    re.IGNORECASE,
)
# What readers take off around a label. Repetitions are possessive or counted, so that a looping answer costs no time.
_AROUND = rf"[\s{re.escape(QUOTES)}]*+"
# Two capitals or more with nothing else between brackets: a list of labels, where a bracket closes it.
_LETTERED = re.compile(rf"\[[\[\s,={re.escape(QUOTES)}]{{0,200}}+(?:[A-Z][\[\]\s,={re.escape(QUOTES)}]++){{2,}}+")
# A single letter, a number or "tie" in double brackets: the verdict of a call about one answer or two.
_SINGLE = re.compile(rf"\[\s{{0,200}}+\[{_AROUND}(?:[A-Z]|(?i:tie)|[\d./]{{1,40}}+){_AROUND}\]\s{{0,200}}+\]")
_JSON = re.compile(r"\s{0,80}\{\s{0,8}\"(?:good_natured|pairs|ranking|rating|winner)\"\s{0,8}:")
_SUSPECT = re.compile(r"\b[A-Z]\b.*?\b[A-Z]\b|(?i:natured)")
_QUOTED = "(quoted) "
_BRACKETS = str.maketrans("[]", "()")
# What looks like the characters of borders and verdicts: other scripts' capitals and other brackets.
_ALIKE = str.maketrans(
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u0410\u0412\u0421\u0415\u041d\u041a\u041c\u041e\u0420\u0422\u0425\u0406\u0408"
    "\u2329\u27e8\u3008\u2039\u232a\u27e9\u3009\u203a\u3010\u27e6\u301a\u3011\u27e7\u301b\u2010",
    "ABEZHIKMNOPTYX" + "ABCEHKMOPTXIJ" + "<<<<>>>>[[[]]]-",
)
_DOUBLED = {"\u00ab": "<<", "\u226a": "<<", "\u300a": "<<", "\u27ea": "<<", "\u00bb": ">>", "\u226b": ">>",
            "\u300b": ">>", "\u27eb": ">>"}  # fmt: skip


def block(name: str, tag: str, text: str) -> str:
    """A text between its borders."""
    return f"<<{name} {tag}>>\n{text}\n<<end of {name} {tag}>>"


def conversation(messages: Sequence[Message], k: int, tag: str) -> str:
    """The conversation between its borders, each turn below a line with its role."""
    turns = [f"<<{message['role']} {tag}>>\n{defuse(message['content'], k, tag)}" for message in messages]
    return block("conversation", tag, "\n".join(turns))


def answers(shown: Sequence[str], tag: str) -> str:
    """The answers A, B, C... each between its borders."""
    k = len(shown)
    return "\n\n".join(
        block(f"answer {letter}", tag, defuse(answer, k, tag)) for letter, answer in zip(letters(k), shown, strict=True)
    )


def defuse(text: str, k: int, tag: str) -> str:
    """The text with all that looks like our borders, or like a judge's verdict on `k` answers, made harmless."""
    text = _BORDER.sub(r"(\1)", text.replace(tag, "-"))
    for pattern in (_LETTERED, _SINGLE):
        text = pattern.sub(lambda match: match[0].translate(_BRACKETS) if "]" in match[0] else match[0], text)
    return "\n".join(_quoted(line) if _is_suspect(line, k) else line for line in text.splitlines())


def without_quotes(reply: str) -> str:
    """A judge's reply without the lines that it copied from an answer and that could pass for its own verdict."""
    if _QUOTED not in reply:
        return reply
    return "\n".join(line for line in reply.splitlines() if _QUOTED not in line)


def _quoted(line: str) -> str:
    return f"{_QUOTED}{line}".replace("[[", "((").replace("]]", "))")


def _is_suspect(line: str, k: int) -> bool:
    if _says_a_verdict(line, k) or _JSON.match(line):
        return True
    plain = line if line.isascii() else _plain(line)
    if plain == line:
        return False
    forged = _BORDER.search(plain) or _SINGLE.search(plain) or any("]" in one[0] for one in _LETTERED.finditer(plain))
    return bool(forged) or _says_a_verdict(plain, k) or _JSON.match(plain) is not None


def _plain(line: str) -> str:
    """The line as it looks: one form for each letter, nothing invisible, look-alikes as the real characters."""
    line = "".join(_DOUBLED.get(character, character) for character in line)
    seen = (character for character in unicodedata.normalize("NFKC", line) if unicodedata.category(character) != "Cf")
    return "".join(seen).translate(_ALIKE)


def _says_a_verdict(line: str, k: int) -> bool:
    if not _SUSPECT.search(line):
        return False
    ranking = parse_ranking(line, k)
    return (
        not isinstance(ranking, Unparsed) or bool(parse_pair_verdicts(line, k)) or parse_good_natured(line) is not None
    )
