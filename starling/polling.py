"""What judges make of pairs of answers: a panel's vote on each, each judge's win rate, how far they agree."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starling import figures, progress, texts
from starling.benches import panel
from starling.benches.panel import VERDICTS, Member
from starling.config import Config, JudgeTable
from starling.judges.make import make_judge, named_judges
from starling.judges.protocol import Judge, Judged
from starling.judges.ranks import preference
from starling.judges.several import Panel
from starling.ledger import Ledger
from starling.records import Candidate, Prompt, Score

Votes = Sequence[float | None]


def ask(
    cfg: JudgeTable, config: Config, ledger: Ledger, pairs: Sequence[tuple[Prompt, Sequence[Candidate]]]
) -> tuple[Judge, list[Judged]]:
    """The judge that a stage names, and what it says of each pair; how far a reward model is shows as it reads."""
    read = sum(one.looks(2) for one in named_judges(config, cfg) if one.by_reward)
    if not read:
        judge = make_judge(cfg, config, ledger)
        return judge, judge.rank(pairs)
    with progress.track("evaluate judge", read * len(pairs), "answers") as advance:
        judge = make_judge(cfg, config, ledger, on_answers=advance)
        return judge, judge.rank(pairs)


def verdicts(judge: Judge, judged: Sequence[Judged]) -> list[float | None]:
    """For each pair 1 where the first answer is better, 0 where the second is, 0.5 for a tie, None where unread.

    A panel's is the verdict of more than half of its members, else a tie; None unless all of them could be read. A
    member that could be read nowhere has no part in it.
    """
    if not isinstance(judge, Panel):
        return [_verdict(one) for one in judged]
    opinions = panel.together(_voters(_members(judge, judged)), VERDICTS)
    return [opinions[str(at)].value for at in range(len(judged))]


def tell_unread(judged: Sequence[Judged]) -> dict[str, Any]:
    """Why answers could not be judged, counted by reason, the commonest printed too; nothing where all could be."""
    reasons = _reasons(judged)
    if not reasons:
        return {}
    reason, times = next(iter(reasons.items()))
    progress.say(
        f"evaluate: {sum(reasons.values()):,} of {len(judged):,} pairs could not be judged and do not count; most "
        f"often ({times:,}): {reason}"
    )
    return {"reasons": reasons}


def _reasons(judged: Sequence[Judged]) -> dict[str, int]:
    return dict(Counter(one.reason for one in judged if one.ranks is None).most_common())


def why_unread(said: Judged) -> dict[str, str]:
    """The reason why a pair has no verdict; nothing where it has one."""
    return {"reason": said.reason} if said.ranks is None else {}


def of_members(judge: Judge, judged: Sequence[Judged]) -> dict[str, list[float | None]]:
    """The verdicts of each judge of a panel by its name; nothing of a single judge."""
    if not isinstance(judge, Panel):
        return {}
    return {member.name: [_verdict(one.members[at]) for one in judged] for at, member in enumerate(judge.members)}


def facts(
    judge: Judge, judged: Sequence[Judged], clusters: Sequence[str], win_rate: Callable[[Votes], Score]
) -> dict[str, Any] | None:
    """Each judge's win rate over the pairs that it could read, and how far they agree; None for a single judge."""
    if not isinstance(judge, Panel):
        return None
    said = _members(judge, judged)
    votes = of_members(judge, judged)
    members = [
        {
            "judge": one.name,
            "template_hash": one.template_hash,
            "win_rate": asdict(win_rate(votes[one.name])),
            "unparsed": votes[one.name].count(None),
            "reasons": _reasons([pair.members[at] for pair in judged]),
        }
        for at, one in enumerate(judge.members)
    ]
    voters = _voters(said)
    opinions = panel.together(voters, VERDICTS)
    silent = [one.name for one in said if one not in voters]
    return {
        "rule": VERDICTS.words,
        "members": members,
        "same": VERDICTS.same,
        "agreement": panel.agreement(said, {str(at): family for at, family in enumerate(clusters)}, VERDICTS),
        "partly": sum(opinion.partly for opinion in opinions.values()),
        "silent": silent,
        "notes": [
            *(f"{name} could be read on no comparison: it has no part in the panel's vote" for name in silent),
            *panel.notes(opinions, "comparisons"),
        ],
    }


def show(found: Mapping[str, Any], whole: Mapping[str, Any], name: str) -> None:
    """Print the panel's win rate, each judge's, and how far they agree."""
    table = texts.table("judge", "win rate, ties half", "could not be read")
    unread = figures.number(found["partly"])
    table.add_row(texts.terminal(name), figures.share_interval(whole), f"{unread} in part")
    for one in found["members"]:
        rate = figures.share_interval(one["win_rate"])
        table.add_row(texts.terminal(one["judge"]), rate, figures.number(one["unparsed"]))
    progress.show(table)
    panel.show(found)
    for note in found["notes"]:
        progress.say(note)


def _members(judge: Panel, judged: Sequence[Judged]) -> list[Member]:
    votes = of_members(judge, judged)
    return [
        Member(
            one.name,
            {str(pair): vote for pair, vote in enumerate(votes[one.name]) if vote is not None},
            {str(pair): told.members[at].reason for pair, told in enumerate(judged) if votes[one.name][pair] is None},
        )
        for at, one in enumerate(judge.members)
    ]


def _voters(members: Sequence[Member]) -> Sequence[Member]:
    """Those that could be read on some pair; all where none could."""
    return [one for one in members if one.said] or members


def _verdict(judged: Judged) -> float | None:
    return None if judged.ranks is None else preference(judged.ranks)
