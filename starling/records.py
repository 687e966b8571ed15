"""The nouns that travel along the road, one frozen record each; no tensors, no files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

SPLITS = ("train", "validation", "test")


class Message(TypedDict):
    """One turn of a conversation, as chat templates read it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation that waits for an answer, with what a judge can check about that answer.

    `facts` are alternatives: each entry is satisfied by any one of its spellings. `checks` are
    `{"check": name, **parameters}`. `topic` holds words of which an answer to the point uses at least one.
    """

    id: str
    messages: Sequence[Message]
    family: str = ""
    kind: str = ""
    split: str = "train"
    source: str = ""
    reference: str = ""
    facts: Sequence[Sequence[str]] = ()
    topic: Sequence[str] = ()
    checks: Sequence[Mapping[str, Any]] = ()
    good_natured: bool = True

    @property
    def cluster(self) -> str:
        """What it is drawn with where intervals are made: prompts of one family are alike."""
        return self.family or self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a chat model. `draw` tells repeated identical requests apart (0, 1, 2, ...).

    `schema` is the JSON schema that the reply must follow, None for free text. With `top_logprobs` the reply's text is
    a JSON object: so many of the likeliest first tokens, each with its log-probability; 0 asks for text.
    """

    messages: Sequence[Message]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    draw: int = 0
    schema: Mapping[str, Any] | None = None
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a chat model answered; `finished` is False where the token cap cut the text.

    `key` finds the call in the ledger, "" for a model in this process.
    """

    text: str
    finished: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    key: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call that gave no usable reply past every retry, and why; `mute` is whether the endpoint did work on it and had
    nothing to say, as where its content filter stopped the reply, so that asking again is of no use."""

    reason: str
    mute: bool = False
    key: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One answer to one prompt; `finished` is False where the token cap cut it.

    `call` is the ledger's key of the call that gave it, "" where there was none; `failure` why an endpoint gave none.
    `rank` is the place that its source gave it, 1 = best, among the answers beside it there; None where it gave none.
    """

    prompt_id: str
    model: str
    draw: int
    answer: str
    finished: bool
    weakened: bool = False
    seed: int = 0
    num_tokens: int = 0
    call: str = ""
    failure: str = ""
    rank: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The answers to one prompt with their competition ranks (1, 1, 3), best first.

    A rank of 0 is a place that is not known, as where a judge names the best m alone (top-m). It becomes infinity here:
    such answers stand below all that have a place, and which of two of them is better is not known.

    `orders` holds for each judge call the indices of the answers as they were shown; `rankings` beside it the ranks
    that the call gave them, as they were shown, nothing where it could not be read; `marks` the mark where a call gives
    one. Of a reward model, which makes no calls, they hold each answer that it read and its reward. `agreement` is the
    share of the judge's pair verdicts that its ranking upholds, `self_agreement` Kendall's tau between its repeats,
    `calls` the ledger's keys of all calls made. `repeats` says beside `orders` for the how-manyth time each call was
    asked; `unread` calls could not be read to the last attempt. `where` names file and row it was read from. Of a panel
    `panel` has what each of its judges said, in the columns of a ranking, with the reason where it could not be read.
    """

    prompt_id: str
    messages: Sequence[Message]
    answers: Sequence[Candidate]
    ranks: Sequence[float]
    judge: str
    template_hash: str = ""
    orders: Sequence[Sequence[int]] = ()
    agreement: float | None = None
    rankings: Sequence[Sequence[float]] = ()
    marks: Sequence[float | None] = ()
    self_agreement: float | None = None
    good_natured: bool = True
    source: str = ""
    calls: Sequence[str] = ()
    repeats: Sequence[int] = ()
    unread: int = 0
    panel: Sequence[Mapping[str, Any]] = ()
    where: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if 0 in self.ranks:
            object.__setattr__(self, "ranks", [rank or math.inf for rank in self.ranks])

    @property
    def num_placed(self) -> int:
        """How many answers have a place."""
        return sum(map(math.isfinite, self.ranks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A figure with the number of cases behind it and its 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    n: int
