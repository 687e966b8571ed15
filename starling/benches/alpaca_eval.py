"""AlpacaEval (Li et al. 2023; length control: Dubois et al. 2024, arXiv 2404.04475): a model's outputs to single
instructions against a rival's, by a judge's preferences; or annotations that are there, scored without a call."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starling import contamination
from starling.benches import (
    alpaca_annotations,
    alpaca_judging,
    alpaca_outputs,
    cost,
    filing,
    panel,
    results,
    scoring,
)
from starling.benches.alpaca_annotations import Annotated, written
from starling.benches.alpaca_judging import RIVAL, Pair, Preferred
from starling.benches.answers import Answers, Question, Side
from starling.benches.asked import Asked, refuse_files
from starling.benches.cost import Part
from starling.benches.left_out import LeftOut
from starling.errors import DataError, UsageError
from starling.judges import several
from starling.records import Score
from starling.speakers import endpoint_of, refuse_one_name
from starling.writing import write_json

NAME = alpaca_outputs.NAME
ABOUT = "how often a judge prefers the model to its rival, also at equal length"
OPTIONS = frozenset(
    (
        "model", "answers", "judge", "output", "against", "annotations", "data", "version", "one_order", "run", "out",
        "estimate",
    )
)  # fmt: skip
# What annotations that are there need not.
SAMPLING = ("judge", "output", "against", "data", "estimate", "one_order", "run", "version")
VERDICTS = "verdicts"  # what the ledger's calls are for, beside answers
OUTPUTS, ANNOTATIONS = "model_outputs.json", "annotations.json"
MEMBERS = "members"  # folder of the annotations by each judge of a panel


def run(asked: Asked) -> dict[str, Any]:
    """Test a model or its outputs, or score annotations that are there; print the table, write all into `out`."""
    _refuse_unclear(asked)
    source = str(asked.answers or asked.model)
    if not source:
        return _finish(asked, asked.out, alpaca_annotations.read_annotations(asked.annotations), {}, [])
    questions = alpaca_outputs.questions(asked)
    out = asked.out or filing.folder_of(NAME, source)
    if asked.estimate:
        return cost.estimate(_parts(asked, source, questions), filing.ledger_of(out))
    ours, theirs = (alpaca_outputs.side(one, questions, out, asked.account) for one in (source, asked.against))
    if ours.name == theirs.name:
        raise UsageError(f"bench: both sides are called {ours.name}; give one of the files another `generator`")
    write_json(out / OUTPUTS, alpaca_outputs.output_rows(ours))
    judge, rows, told = _judged(asked, ours, theirs, out)
    write_json(out / ANNOTATIONS, rows)
    annotated = alpaca_annotations.read_annotations([out / ANNOTATIONS, *asked.annotations])
    without = [*ours.answers.left_out, *theirs.answers.left_out]
    return _finish(asked, out, annotated, judge, without, ours, told)


def plan(asked: Asked) -> list[Part]:
    """What is going to be asked of whom; what cannot work is refused."""
    _refuse_unclear(asked)
    source = str(asked.answers or asked.model)
    return _parts(asked, source, alpaca_outputs.questions(asked)) if source else []


def _refuse_unclear(asked: Asked) -> None:
    account = asked.account
    if asked.model and asked.answers:
        raise UsageError(f"bench: {NAME} takes --model MODEL (outputs are sampled) or --answers FILE, not both")
    if asked.model or asked.answers:
        for option in ("judge", "against"):
            if not getattr(asked, option):
                raise UsageError(f"bench: {NAME} needs --judge MODEL and --against FILE, the rival's outputs")
    elif not asked.annotations:
        raise UsageError(f"bench: {NAME} needs --model MODEL, --answers FILE, or --annotations FILE to score again")
    elif given := [key for key in SAMPLING if getattr(asked, key) != getattr(Asked(), key)]:
        raise UsageError(f"bench: --annotations are scored as they are; leave out --{given[0].replace('_', '-')}")
    refuse_files(asked)
    if asked.model:
        refuse_one_name(asked.model, asked.against, account)
    scoring.refuse_judges(asked, NAME, "instructions")
    if asked.version == 2 and any(endpoint_of(judge, account) is None for judge in asked.judge):
        raise UsageError(
            "bench: --version 2 needs a judge's log-probabilities, which a model in this process is not asked for; "
            "give --judge openai:NAME@URL, or --version 1"
        )
    if asked.output == "json" and asked.version == 2:
        raise UsageError("bench: --version 2 reads the probabilities of a letter; leave out --output json")


class _Panel(NamedTuple):
    """Where each member's annotations stand, how far the members agree, and what is to be said beside the figures."""

    members: Mapping[str, Path]
    agreement: list[dict[str, Any]]
    notes: list[str]


def _judged(
    asked: Asked, ours: Side, theirs: Side, out: Path
) -> tuple[dict[str, Any], list[dict[str, Any]], _Panel | None]:
    """Who judged, and its preferences in the form of the `alpaca_eval` tool; of several judges the panel's."""
    pairs = alpaca_judging.pairs(ours.answers, theirs.answers)
    if not pairs:
        raise DataError(f"bench: {ours.name} and {theirs.name} answered no instruction that is the same")
    names = panel.names(asked.judge, asked.account)
    with filing.filed(out, VERDICTS, asked.account) as ledger:
        judged = [
            alpaca_judging.judged(
                judge, pairs, asked.version, ledger,
                one_order=asked.one_order, output=asked.output, account=asked.account,
            )
            for judge in asked.judge
        ]  # fmt: skip
    rows = [written(pairs, one.said, one.label, ours.name, theirs.name) for one in judged]
    if len(judged) == 1:
        return judged[0].identity, rows[0], None
    files = {name: out / MEMBERS / f"{filing.file_name(name)}.json" for name in names}
    for path, own in zip(files.values(), rows, strict=True):
        write_json(path, own)
    title, rule = several.title(names), panel.PREFERENCES
    members = [_member(name, pairs, one.said) for name, one in zip(names, judged, strict=True)]
    opinions = panel.together(members, rule)
    agreement = panel.agreement(members, {pair.instruction: pair.instruction for pair in pairs}, rule)
    told = _Panel(files, agreement, panel.notes(opinions, "instructions"))
    pooled = [
        Preferred(None if value is None else RIVAL + value, reason, [])
        for value, reason, _ in (opinions[pair.instruction] for pair in pairs)
    ]
    judge = {"name": title, "rule": rule.words, "members": [one.identity for one in judged]}
    return judge, written(pairs, pooled, f"{title}, v{asked.version}", ours.name, theirs.name), told


def _member(name: str, pairs: Sequence[Pair], said: Sequence[Preferred]) -> panel.Member:
    all_of = list(zip(pairs, said, strict=True))
    return panel.Member(
        name,
        {pair.instruction: one.preference - RIVAL for pair, one in all_of if one.preference is not None},
        {pair.instruction: one.reason for pair, one in all_of if one.preference is None},
    )


def _finish(
    asked: Asked, out: Path | None, annotated: Sequence[Annotated], judge: dict[str, Any], without: Sequence[LeftOut],
    ours: Side | None = None, told: _Panel | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score, print and write."""
    figures = alpaca_annotations.score(annotated)
    short = [left._replace(item=alpaca_annotations.shortened(left.item)) for left in without]
    listed = [left for one in annotated for left in one.left_out]
    rows = [row for figure in figures for row in _rows(figure)]
    notes, about = _notes(annotated, figures, ours), {}
    if told:
        of_members = {
            name: _rows(alpaca_annotations.score(alpaca_annotations.read_annotations([path, *asked.annotations]))[0])
            for name, path in told.members.items()
        }
        rows[2:2] = [_by(name, row) for name, own in of_members.items() for row in own]
        notes += told.notes
        about = {"panel": panel.about(list(of_members.items()), told.agreement, panel.PREFERENCES)}
    if asked.run is not None:
        instructions = {f"instruction {at}": one.turns for at, one in enumerate(alpaca_outputs.questions(asked), 1)}
        about["contamination"] = contamination.of_turns(instructions, asked.run)
        notes += contamination.lines(about["contamination"])
    digest = hashlib.sha256()
    for one in annotated:
        digest.update(repr(sorted(one.found.items())).encode())
    found = results.result(
        NAME,
        model=ours.identity if ours else {"name": ", ".join(one.model for one in annotated)},
        judge=judge or {"name": ", ".join(sorted({one.judge for one in annotated})) or "not named in the annotations"},
        data={
            "name": asked.data or ", ".join([asked.against, *map(str, asked.annotations)]).strip(", "),
            "cases": sum(len(one.found) + len(one.left_out) for one in annotated),
            "sha256": digest.hexdigest(),
        },
        rows=rows,
        without=[*short, *listed, *alpaca_annotations.gaps(annotated)],
        more={"models": figures, "version": asked.version if judge else None, "notes": notes} | about,
    )
    results.show(found, ABOUT, unit="annotations", notes=notes)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        results.write(out, found)
    return found


def _rows(figure: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table's rows of a model: win rate, and the length-controlled one."""

    def share(name: str, keys: Sequence[str]) -> Score:
        value, low, high = (figure[key] / 100 for key in keys)
        return Score(name=name, value=value, low=low, high=high, n=figure["n"])

    controlled = share("at equal length", ("length_controlled_winrate", "lc_low", "lc_high"))
    raw = share(figure["model"], ("win_rate", "low", "high"))
    return [results.row(raw, unit="share"), results.row(controlled, unit="share", level=1)]


def _by(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A member's own row as it stands below the panel's."""
    return {**row, "name": f"by {name}" + (f", {row['name']}" if row["level"] else ""), "level": 1}


def _notes(annotated: Sequence[Annotated], figures: Sequence[Mapping[str, Any]], ours: Side | None) -> list[str]:
    """What a reader must know: what difficulty was told from, whether rivals or judges differ, what may be said."""
    notes = []
    if figures[0]["weights"]["difficulty"] is None:
        notes.append(
            "length control without instruction difficulty, which one model alone does not tell; give --annotations"
        )
    else:
        notes.append(f"length control has instruction difficulty as estimated from these {len(annotated)} models")
    for word, names in (("rivals", {one.rival for one in annotated}), ("judges", {one.judge for one in annotated})):
        if len(names) > 1:
            named = ", ".join(sorted(name or "not named" for name in names))
            notes.append(f"these annotations have several {word}, so their figures do not compare: {named}")
    for figure in figures if ours is None else figures[:1]:
        sides = {(figure[f"{kind}low"] > 50) - (figure[f"{kind}high"] < 50) for kind in ("", "lc_")}
        said = {1: "preferred to its rival", -1: "its rival is preferred", 0: "not told from its rival"}
        verdict = said[sides.pop()] if len(sides) == 1 else "another verdict at equal length than without"
        if figure["high"] - figure["low"] < 1e-9:
            verdict = "too few instructions, or too much alike, for an interval"
        notes.append(f"{figure['model']}: {verdict} (95 %)")
    if ours and ours.answers.cut:
        notes.append(f"{ours.answers.cut} outputs ended at the cap of {alpaca_outputs.MAX_TOKENS} tokens")
    return notes


def _parts(asked: Asked, source: str, questions: Sequence[Question]) -> list[Part]:
    """The calls that are to be made, none for a reward model's verdicts.

    A text that is still to be written counts with its cap in the judge's calls.
    """
    blank = Answers(by_question={question.id: ("",) for question in questions})
    parts, sides = [], []
    for one in (source, asked.against):
        if Path(one).is_file():
            sides.append(alpaca_outputs.of_file(Path(one), questions).answers)
        else:
            parts.append(cost.of_answers(alpaca_outputs.ANSWERS, one, questions, alpaca_outputs.MAX_TOKENS))
            sides.append(blank)
    orders = [True] if asked.one_order else [True, False]
    calls = [
        alpaca_judging.call_of(pair, asked.version, asked.output, model_first=first)
        for pair in alpaca_judging.pairs(*sides)
        for first in orders
    ]
    unwritten = sum(side is blank for side in sides)
    return parts + [
        Part(
            purpose=VERDICTS, model=judge, calls=len(calls),
            characters=sum(len(call.messages[0]["content"]) for call in calls),
            max_tokens=1 if asked.version == 2 else calls[0].max_tokens if calls else 0,
            written=alpaca_judging.tokens_of(asked.version, asked.output),
            read=unwritten * len(calls), read_cap=alpaca_outputs.MAX_TOKENS,
        )
        for judge in asked.judge
        if not scoring.is_reward_model(judge, asked.account)
    ]  # fmt: skip
