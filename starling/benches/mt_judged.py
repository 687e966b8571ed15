"""What a judge, or a panel, makes of MT-Bench's answers: marks, games of two sides, or both sides' marks compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starling import paired
from starling.benches import fastchat, filing, mt_judging, mt_scores, panel
from starling.benches.answers import Question, Side
from starling.benches.asked import Asked
from starling.benches.prompted import Change
from starling.judges import several
from starling.ledger import Ledger

MARK = "mean mark"


class _Member(NamedTuple):
    """A judge by name, who it is, its judgments and their figures."""

    name: str
    judge: dict[str, Any]
    rows: list[dict[str, Any]]
    figures: mt_scores.Figures


class Judged(NamedTuple):
    """Who judged, the judgments, their figures, and what a result says beside them."""

    judge: dict[str, Any]
    rows: list[dict[str, Any]]
    figures: mt_scores.Figures
    about: dict[str, Any]


def judged(
    asked: Asked,
    questions: Sequence[Question],
    sides: Sequence[Side],
    answered: Sequence[Question],
    ledger: Ledger,
    out: Path,
) -> Judged:
    """Let each judge judge one side's answers, or two sides' in pairs, write what it says, and make figures of it."""
    members = []
    for name, one in zip(panel.names(asked.judge, asked.account), asked.judge, strict=True):
        judge, rows = mt_judging.judge(one, questions, sides, ledger, asked.output, asked.account)
        members.append(_Member(name, judge, rows, _written(rows, out, name, sides, answered)))
    if len(members) == 1:
        return Judged(members[0].judge, members[0].rows, members[0].figures, {})
    return _together(members, out, sides, answered)


def marked(ours: Judged, theirs: Judged, rival: Side) -> Judged:
    """Our marks, and beside them the rival's with the paired change, in all and by turn."""
    changes = _changes(theirs, ours)
    said = [paired.sentence(one.change, unit="turns", is_share=False) for one in changes]
    against = {
        "model": rival.identity,
        "rows": _named(theirs.figures.rows),
        "changes": [one.told for one in changes],
        "says": said,
    } | theirs.about
    figures = ours.figures._replace(
        rows=_named(ours.figures.rows),
        by_category=ours.figures.by_category | theirs.figures.by_category,
        left_out=[*ours.figures.left_out, *theirs.figures.left_out],
        notes=[
            *ours.figures.notes,
            *(f"{rival.name}: {one}" for one in theirs.figures.notes),
            f"Against {rival.name}:",
            *said,
        ],
    )
    return ours._replace(figures=figures, about=ours.about | {"against": against})


def _named(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a side, the first of which is called the same on both sides."""
    return [rows[0] | {"name": MARK}, *rows[1:]]


def _changes(before: Judged, after: Judged) -> list[Change]:
    """The change over the turns that have a mark on both sides, those of a question go together."""
    old, new = ({mt_judging.case_of(row): mt_scores.value_of(row) for row in one.rows} for one in (before, after))
    both = [
        (int(row["turn"]), str(row["question_id"]), was, now)
        for row in after.rows
        for was, now in [(old.get(mt_judging.case_of(row), ""), new[mt_judging.case_of(row)])]
        if not isinstance(was, str) and not isinstance(now, str)
    ]
    found = []
    for turn in (0, *sorted({turn for turn, *_ in both})):  # 0: all
        some = [case for case in both if turn in (0, case[0])]
        name = f"turn {turn}" if turn else MARK
        old_marks, new_marks = [was for _, _, was, _ in some], [now for *_, now in some]
        change = paired.compare(name, old_marks, new_marks, [question for _, question, *_ in some])
        found.append(Change(change, 1, "turns", name))
    return found


def figures_of(
    judgments: mt_scores.Judgments, questions: Sequence[Question], model: str, against: str
) -> mt_scores.Figures:
    """Figures of marks or of games, as the judgments are."""
    if judgments and fastchat.is_pair(judgments[0][1]):
        return mt_scores.of_games(judgments, questions, model, against)
    return mt_scores.of_marks(judgments, questions, model)


def _written(
    rows: Sequence[dict[str, Any]], out: Path, name: str, sides: Sequence[Side], questions: Sequence[Question]
) -> mt_scores.Figures:
    """Write a judge's judgments as FastChat does, and make figures of them."""
    kind, key = ("single", "model") if len(sides) == 1 else ("pair", "model_1")
    path = out / "model_judgment" / f"{filing.file_name(name)}_{kind}.jsonl"
    fastchat.put(path, rows, key, sides[0].name)
    placed = [(f"{path}, {sides[0].name}", row) for row in rows]
    return figures_of(placed, questions, sides[0].name, sides[1].name if len(sides) > 1 else "")


def _together(members: Sequence[_Member], out: Path, sides: Sequence[Side], questions: Sequence[Question]) -> Judged:
    """The panel as a judge, its figures with its members' own below, and what is told of it beside them."""
    rule = panel.MARKS if len(sides) == 1 else panel.VERDICTS
    cases = [mt_judging.case_of(row) for row in members[0].rows]
    said = [_member(one, cases) for one in members]
    opinions = panel.together(said, rule)
    title = several.title([one.name for one in members])
    rows = [
        mt_judging.row_of(row, [title, rule.words], opinions[case].value, opinions[case].reason)
        for case, row in zip(cases, members[0].rows, strict=True)
    ]
    figures = _written(rows, out, panel.NAME, sides, questions)
    of_members = [one.figures.rows[0] | {"name": f"by {one.name}", "level": 1} for one in members]
    clusters = {case: str(row["question_id"]) for case, row in zip(cases, members[0].rows, strict=True)}
    about = panel.about([(one.name, one.figures.rows) for one in members], panel.agreement(said, clusters, rule), rule)
    judge = {"name": title, "rule": rule.words, "members": [one.judge for one in members]}
    together = figures._replace(
        rows=[figures.rows[0], *of_members, *figures.rows[1:]],
        notes=[*figures.notes, *panel.notes(opinions, "turns")],
    )
    return Judged(judge, rows, together, {"panel": about})


def _member(judged: _Member, cases: Sequence[str]) -> panel.Member:
    values = {case: mt_scores.value_of(row) for case, row in zip(cases, judged.rows, strict=True)}
    return panel.Member(
        judged.name,
        {case: value for case, value in values.items() if not isinstance(value, str)},
        {case: value for case, value in values.items() if isinstance(value, str)},
    )
