"""A language model as judge: one call ranks all answers to a prompt.

Template, chat model and parser are three things; here they meet. Who is shown where is balanced over the prompts,
what an answer says cannot pass for the frame around it, and a reply that cannot be read is never a verdict.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import combinations
from string import Template

from starling.judges.parse import (
    Ranked,
    Unparsed,
    letters,
    parse_good_natured,
    parse_pair_verdicts,
    parse_ranking,
)
from starling.judges.protocol import Chat, Judged
from starling.records import Call, Candidate, Failure, Message, Prompt, Reply

_BORDER = re.compile(
    r"<<[\s/]{0,4}((?:end of )?(?:answer|conversation|user|assistant|system)\b[^<>\n]{0,80})>>", re.IGNORECASE
)
# Two capitals or more and nothing else in brackets; counted, so that a looping answer costs no time.
_LETTERED = re.compile(r"\[[\[\s,='\"]{0,8}(?:[A-Z][\[\]\s,='\"]{1,8}){2,26}(?<=\])")
_SUSPECT = re.compile(r"\b[A-Z]\b.{0,80}?\b[A-Z]\b|(?i:natured)")
_BRACKETS = str.maketrans("[]", "()")


def latin_square(k: int, source: random.Random) -> list[list[int]]:
    """`k` orders of `k` things, in which each stands once in every place; drawn at random among the cyclic ones."""
    rows, columns, symbols = (source.sample(range(k), k) for _ in range(3))
    return [[symbols[(row + column) % k] for column in columns] for row in rows]


def balanced_orders(items: Sequence[tuple[str, int]], seed: int) -> list[list[int]]:
    """The order in which each item's answers are shown; an item is the id of its prompt and the number of answers.

    Of the items with `k` answers, each block of `k` in a row uses the rows of one Latin square, so that every answer
    index stands once in every place; the next block has a square of its own. The seed and the id of its first prompt
    settle a square.
    """
    seen: dict[int, int] = {}
    squares: dict[int, list[list[int]]] = {}
    orders = []
    for name, k in items:
        row = seen.get(k, 0)
        seen[k] = (row + 1) % max(k, 1)
        if row == 0:
            squares[k] = latin_square(k, random.Random(f"{seed} square {name}"))
        orders.append(squares[k][row] if k else [])
    return orders


def ranks_from_levels(levels: Sequence[Sequence[int]], k: int) -> list[float]:
    """Competition ranks of `k` answers: [[2], [0, 1]] gives 2, 2, 1; each answer stands in one level."""
    if sorted(index for level in levels for index in level) != list(range(k)):
        raise ValueError(f"levels {levels} do not hold each of {k} answers once")
    ranks = [0.0] * k
    better = 0
    for level in levels:
        for index in level:
            ranks[index] = float(better + 1)
        better += len(level)
    return ranks


def defuse(text: str, k: int, tag: str) -> str:
    """The text with all that looks like our borders, or like a judge's verdict on `k` answers, made harmless."""
    text = _BORDER.sub(r"(\1)", text.replace(tag, "-"))
    text = _LETTERED.sub(lambda match: match.group().translate(_BRACKETS), text)
    return "\n".join(f"(quoted) {line}" if _says_a_verdict(line, k) else line for line in text.splitlines())


def _says_a_verdict(line: str, k: int) -> bool:
    if len(line) > 400 or not _SUSPECT.search(line):  # no verdict line is so long
        return False
    ranking = parse_ranking(line, k)
    return (
        not isinstance(ranking, Unparsed) or bool(parse_pair_verdicts(line, k)) or parse_good_natured(line) is not None
    )


class KwiseJudge:
    """Ranks in one call per prompt: is it good-natured, who wins each pair, then the ranking; the Nectar method.

    Implements `judges.protocol.Judge`. Everything random follows from `seed`, the prompt and its answers, so that the
    same question meets its reply in the ledger. `attempts` bounds how often an unreadable reply is asked for again.
    """

    def __init__(self, chat: Chat, *, seed: int, max_tokens: int, attempts: int = 2) -> None:
        text = files("starling.judges").joinpath("templates/kwise.txt").read_text(encoding="utf-8")
        self.name = f"kwise:{chat.name}"
        self.template_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._template = Template(text)
        self.chat = chat
        self._seed = seed
        self._max_tokens = max_tokens
        self._attempts = attempts

    def rank(self, items: Sequence[tuple[Prompt, Sequence[Candidate]]]) -> list[Judged]:
        """One verdict for each item, in order; give a whole shard at once, since orders are balanced over it."""
        orders = balanced_orders([(prompt.id, len(answers)) for prompt, answers in items], self._seed)
        verdicts = [
            Judged(ranks=[1.0] if len(answers) == 1 else None, reason=_too_few(answers)) for _, answers in items
        ]
        waiting = [index for index, (_, answers) in enumerate(items) if len(answers) > 1]
        for attempt in range(self._attempts):
            calls = [self._call(*items[index], orders[index], attempt) for index in waiting]
            unread = []
            for index, outcome in zip(waiting, self.chat.chat(calls) if calls else [], strict=True):
                verdicts[index] = self._read(outcome, orders[index], verdicts[index])
                if verdicts[index].ranks is None and isinstance(outcome, Reply):
                    unread.append(index)  # a failed call was already tried again by the client
            waiting = unread
        return verdicts

    def _call(self, prompt: Prompt, answers: Sequence[Candidate], order: Sequence[int], attempt: int) -> Call:
        k = len(order)
        shown = [answers[index].answer for index in order]
        identity = "\0".join([str(self._seed), str(attempt), prompt.id, *shown])
        digest = hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()
        tag = digest[:8]
        source = random.Random(digest)
        pairs = [source.sample(pair, 2) for pair in combinations(letters(k), 2)]
        source.shuffle(pairs)
        blocks = [
            f"<<answer {letter} {tag}>>\n{defuse(answer, k, tag)}\n<<end of answer {letter} {tag}>>"
            for letter, answer in zip(letters(k), shown, strict=True)
        ]
        text = self._template.substitute(
            k=k,
            tag=tag,
            labels=", ".join(letters(k)),
            conversation=_conversation(prompt.messages, k, tag),
            answers="\n\n".join(blocks),
            pairs="\n".join(f"{first} vs {second}:" for first, second in pairs),
        )
        return Call(messages=[{"role": "user", "content": text}], max_tokens=self._max_tokens, draw=attempt)

    def _read(self, outcome: Reply | Failure, order: Sequence[int], before: Judged) -> Judged:
        if isinstance(outcome, Failure):
            return Judged(ranks=None, reason=outcome.reason, orders=before.orders, replies=before.replies)
        k = len(order)
        parsed = parse_ranking(outcome.text, k)
        if not outcome.finished:  # its last word was not said
            parsed = Unparsed(f"the reply was cut off at {self._max_tokens} tokens")
        ranks = agreement = None
        if not isinstance(parsed, Unparsed):
            levels = [[index] for index in parsed.order] if isinstance(parsed, Ranked) else parsed.levels
            agreement = _agreement(ranks_from_levels(levels, k), parse_pair_verdicts(outcome.text, k))
            ranks = ranks_from_levels([[order[place] for place in level] for level in levels], k)
        return Judged(
            ranks=ranks,
            reason=parsed.reason if isinstance(parsed, Unparsed) else "",
            orders=[*before.orders, order],
            replies=[*before.replies, outcome.text],
            good_natured=parse_good_natured(outcome.text),
            agreement=agreement,
        )


def _too_few(answers: Sequence[Candidate]) -> str:
    return "" if answers else "no answers to rank"


def _conversation(messages: Sequence[Message], k: int, tag: str) -> str:
    turns = [f"<<{message['role']} {tag}>>\n{defuse(message['content'], k, tag)}" for message in messages]
    return "\n".join([f"<<conversation {tag}>>", *turns, f"<<end of conversation {tag}>>"])


def _agreement(ranks: Sequence[float], verdicts: Sequence[tuple[int, int]]) -> float | None:
    """The share of a judge's pair verdicts that its ranking upholds; a tie upholds half, None without verdicts."""
    upheld = [1.0 if ranks[won] < ranks[lost] else 0.5 if ranks[won] == ranks[lost] else 0.0 for won, lost in verdicts]
    return sum(upheld) / len(upheld) if upheld else None
