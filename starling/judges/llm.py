"""A language model as judge, by one of several strategies, once or several times a prompt."""

from collections.abc import Sequence
from itertools import combinations

from starling.config import JudgeTable
from starling.errors import UsageError
from starling.judges import aggregate, direct, kwise, pairwise, pointwise
from starling.judges.aggregate import Contest
from starling.judges.asking import Asker, Heard, Look
from starling.judges.orders import balanced_orders
from starling.judges.parse import MOST_ANSWERS, Scored, Unparsed, Verdict, ranks_of
from starling.judges.protocol import Chat, Judged
from starling.judges.ranks import kendall
from starling.judges.strategy import Strategy
from starling.records import Candidate, Prompt

STRATEGIES: dict[str, Strategy] = {
    found.name: found for found in (kwise.STRATEGY, direct.STRATEGY, pairwise.STRATEGY, pointwise.STRATEGY)
}
Items = Sequence[tuple[Prompt, Sequence[Candidate]]]


def calls_of(cfg: JudgeTable, k: int) -> tuple[int, int]:
    """The fewest and the most calls about one prompt with `k` answers, further attempts not counted."""
    if k < 2:
        return 0, 0
    once = len(STRATEGIES[cfg.strategy].shows(range(k), cfg.meetings))
    return once * cfg.first_repeats, once * (cfg.max_repeats if cfg.adaptive else cfg.first_repeats)


class LlmJudge:
    """Ranks by what a chat model says; implements `judges.protocol.Judge`.

    Everything random follows from `seed`, the prompt and its answers, so that the same question meets its reply in the
    ledger. A prompt of which some calls stay unreadable is ranked by the others where these rank all its answers.
    """

    def __init__(self, chat: Chat, cfg: JudgeTable, *, seed: int) -> None:
        self.chat = chat
        self._strategy = STRATEGIES[cfg.strategy]
        self._asker = Asker(
            chat, self._strategy, seed=seed, max_tokens=cfg.max_new_tokens, attempts=cfg.attempts, output=cfg.output
        )
        self.name = f"{cfg.strategy}:{chat.name}"
        self.template_hash = self._asker.template_hash
        self._cfg = cfg
        self._seed = seed

    def rank(self, items: Items) -> list[Judged]:
        """One verdict for each item, in order; give a whole set at once, since orders are balanced over it."""
        first = self._cfg.first_repeats
        heard = self._asker.hear(self._looks(items, range(len(items)), range(first)))
        sizes = [len(answers) for _, answers in items]
        if self._cfg.adaptive:
            again = self._undecided(_contests(heard), sizes)
            heard += self._asker.hear(self._looks(items, again, range(first, self._cfg.max_repeats)))
        contests = _contests(heard)
        by_item: list[list[Heard]] = [[] for _ in items]
        for one in heard:
            by_item[one.look.item].append(one)
        taus = self._self_agreement(contests, sizes)
        return [
            self._judged(found, by_item[item], sizes[item], taus[item])
            for item, found in enumerate(self._ranks(contests, sizes))
        ]

    def _looks(self, items: Items, chosen: Sequence[int], repeats: Sequence[int]) -> list[Look]:
        sizes = [(prompt.id, len(answers)) for prompt, answers in items]
        most = max((k for _, k in sizes), default=0)
        if most > MOST_ANSWERS:
            raise UsageError(
                f"a judge can be shown {MOST_ANSWERS} answers at once, lettered A to Z; a prompt has {most}"
            )
        looks = []
        for repeat in repeats:
            orders = balanced_orders(sizes, self._seed, repeat)
            looks += [
                Look(item=item, prompt=items[item][0], answers=items[item][1], shown=shown, repeat=repeat)
                for item in chosen
                if sizes[item][1] > 1
                for shown in self._strategy.shows(orders[item], self._cfg.meetings)
            ]
        return looks

    def _ranks(self, contests: Sequence[Contest], sizes: Sequence[int]) -> list[list[float] | Unparsed]:
        margin = self._cfg.strength_margin
        if not self._cfg.position_corrected:
            return self._strategy.aggregate(contests, sizes, margin)
        effects = aggregate.position_effects(contests, self._cfg.first_repeats)
        return aggregate.by_corrected_strength(
            contests, sizes, margin, {one.k: one.effect for one in effects if one.prompts >= aggregate.FEWEST}
        )

    def _of_repeats(self, contests: Sequence[Contest], sizes: Sequence[int]) -> list[list[list[float]]]:
        """The rankings of each item that its readable repeats give, each by itself."""
        found: list[list[list[float]]] = [[] for _ in sizes]
        for repeat in sorted({contest.repeat for contest in contests}):
            one = [contest for contest in contests if contest.repeat == repeat]
            for item, ranks in enumerate(self._strategy.aggregate(one, sizes, self._cfg.strength_margin)):
                if not isinstance(ranks, Unparsed):
                    found[item].append(ranks)
        return found

    def _undecided(self, contests: Sequence[Contest], sizes: Sequence[int]) -> list[int]:
        """The items whose first two rankings disagree; one that cannot be read agrees with nothing."""
        early = [contest for contest in contests if contest.repeat < 2]
        undecided = []
        for item, rankings in enumerate(self._of_repeats(early, sizes)):
            if len(rankings) == 2 and rankings[0] == rankings[1]:
                continue
            tau = kendall(rankings[0], rankings[1]) if len(rankings) == 2 else None
            if tau is None or tau < self._cfg.adaptive:
                undecided.append(item)
        return undecided

    def _self_agreement(self, contests: Sequence[Contest], sizes: Sequence[int]) -> list[float | None]:
        """Kendall's tau between the rankings that are always made: what `adaptive` adds where they disagree would raise
        the mean."""
        if self._cfg.first_repeats < 2:
            return [None] * len(sizes)
        always = [contest for contest in contests if contest.repeat < self._cfg.first_repeats]
        return [
            _mean([tau for one, other in combinations(rankings, 2) if (tau := kendall(one, other)) is not None])
            for rankings in self._of_repeats(always, sizes)
        ]

    def _judged(
        self, found: list[float] | Unparsed, heard: Sequence[Heard], k: int, self_agreement: float | None
    ) -> Judged:
        unread = [one.said.verdict.reason for one in heard if isinstance(one.said.verdict, Unparsed)]
        ranks, reason = (None, _reason(found, unread)) if isinstance(found, Unparsed) else (found, "")
        if k < 2:
            ranks, reason = ([1.0], "") if k else (None, "no answers to rank")
        calls = [(one.look, text, said) for one in heard for text, said in one.attempts]
        told = [said.good_natured for _, _, said in calls if said.good_natured is not None]
        return Judged(
            ranks=ranks,
            reason=reason,
            orders=[list(look.shown) for look, _, _ in calls],
            replies=[text for _, text, _ in calls],
            rankings=[_ranks_of(said.verdict) for _, _, said in calls],
            marks=[said.verdict.mark if isinstance(said.verdict, Scored) else None for _, _, said in calls],
            repeats=[look.repeat for look, _, _ in calls],
            good_natured=2 * sum(told) >= len(told) if told else None,  # where opinions are equal: as most prompts are
            agreement=self._agreement(heard, ranks),
            unread=len(unread),
            self_agreement=self_agreement,
            calls=[key for one in heard for key in one.keys],
        )

    def _agreement(self, heard: Sequence[Heard], ranks: Sequence[float] | None) -> float | None:
        """The share of pair verdicts that the ranking of the same call upholds, or that of all where a call has none.

        A tie in the ranking upholds half; None without verdicts.
        """
        upheld = []
        for one in heard:
            if isinstance(one.said.verdict, Unparsed) or ranks is None:
                continue
            own = _ranks_of(one.said.verdict) if self._strategy.ranks_all else [ranks[at] for at in one.look.shown]
            upheld += [(1.0 + (own[won] < own[lost]) - (own[won] > own[lost])) / 2 for won, lost in one.said.pairs]
        return _mean(upheld)


def _contests(heard: Sequence[Heard]) -> list[Contest]:
    """What could be read, in the order it was asked."""
    return [
        Contest(
            one.look.item,
            one.look.shown,
            _ranks_of(one.said.verdict),
            one.look.repeat,
            one.said.verdict.mark if isinstance(one.said.verdict, Scored) else None,
        )
        for one in heard
        if not isinstance(one.said.verdict, Unparsed)
    ]


def _ranks_of(verdict: Verdict) -> list[float]:
    """The ranks of the answers as they were shown; none for a reply that could not be read."""
    if isinstance(verdict, Unparsed):
        return []
    return [1.0] if isinstance(verdict, Scored) else ranks_of(verdict)


def _reason(found: Unparsed, unread: Sequence[str]) -> str:
    """Why there is no ranking: what was wrong with the reply, and where several were asked for, what is missing."""
    if not unread:
        return found.reason
    commonest = max(unread, key=unread.count)
    return commonest if len(unread) == 1 else f"{found.reason}; most often: {commonest}"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
