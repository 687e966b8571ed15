"""What `starling audit` says on a terminal; the same lines stand on its page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from starling import figures, progress, texts
from starling.audit import FEW

SIDE_BY_SIDE = ("log", "n", "first at 1", "chi-square", "p", "longer above", "pairs upheld", "unread")
_VALUE = "value (95 % interval)"
_SURE = 0.05
_BAR_WIDTH = 20
_ROUGH = 5  # expected first places: with fewer the chi-square test is rough


class Line(NamedTuple):
    """A figure in words: what, its value with interval and n, and what it leaves out."""

    label: str
    value: str
    note: str


def print_audits(audits: Sequence[Mapping[str, Any]], between: Sequence[Mapping[str, Any]]) -> None:
    """Each log for itself, then what several have to do with each other."""
    for found in audits:
        _print_audit(found)
    if len(audits) > 1:
        progress.show(_table_of(SIDE_BY_SIDE, side_by_side(audits), "Side by side"))
        progress.show(
            _table_of(("two logs, Kendall's tau", _VALUE, "note"), between_lines(between), "Agreement of the logs")
        )


def heading(found: Mapping[str, Any]) -> str:
    """How much was judged, of what kind, by whom."""
    sizes = found["answers_per_call"]
    answers = " or ".join(map(str, sizes)) + " answers each" if 0 < len(sizes) < 4 else f"{len(sizes)} sizes"
    judges = ", ".join(f"{name} ({count:,})" for name, count in found["judges"].items())
    return (
        f"{_count(found['calls'], 'call')}, {_count(found['prompts'], 'prompt')}, {answers}; {found['form']}; "
        f"judge: {judges or 'not named'}"
    )


def position_lines(position: Mapping[str, Any]) -> list[str]:
    """What the places of the answers did to their ranks, in sentences."""
    n, k = position["n"], position["k"]
    if not n:
        return [f"{k} answers: no ranking has a single winner."]
    p, test = position["p_value"], f"{position['chi_square']:.1f}"
    verdict = "Place sways who comes first" if p < _SURE else "No effect of place on who comes first is shown"
    found = [
        f"{verdict}: chi-square {test} with {position['degrees_of_freedom']} degrees of freedom, p = {p:.2g}, "
        f"n = {n:,}; total variation {position['total_variation']:.3f}."
    ]
    if n < _ROUGH * k:
        found.append(f"With {n} calls the test is rough: fewer than {_ROUGH} first places are expected at each place.")
    if position["no_single_winner"]:
        found.append(f"Left out of first places: {_count(position['no_single_winner'], 'call')} with tied winners.")
    if position["order_not_known"]:
        found.append(f"Left out: {_count(position['order_not_known'], 'call')} without one known order.")
    return found


def lines(found: Mapping[str, Any]) -> list[Line]:
    """All figures but those by place and by model, as far as the log gives them."""
    pairs, repeats, length = found["pair_verdicts"], found["repeats"], found["length"]
    listed = []
    if found["unparsed"]:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in list(found["unparsed"]["reasons"].items())[:3])
        listed.append(Line("without a readable ranking", figures.share_interval(found["unparsed"]), reasons))
    if found["as_stored"]:
        same = f"{found['as_stored']['same']:,} of {found['as_stored']['n']:,}"
        listed.append(Line("read as the order in the log", same, ""))
    if length["n"]:
        left = f"{length['pairs_tied_or_as_long']:,} pairs tied or as long"
        listed.append(Line("longer answer ranked above", figures.share_interval(length), left))
    if found["tied_pairs"]:
        listed.append(Line("pairs of answers tied", figures.share(found["tied_pairs"]), ""))
    if pairs["upheld"]["n"]:
        silent = pairs["pairs"] - pairs["upheld"]["n"] - pairs["no_winner_named"]
        left = (
            f"of {pairs['pairs']:,} pairs {pairs['no_winner_named']:,} without a winner, {silent:,} without a verdict"
        )
        listed.append(Line("ranking upholds its pair verdicts", figures.share_interval(pairs["upheld"]), left))
        listed.append(
            Line("first-named of a pair wins", figures.share_interval(pairs["first_named_wins"]), _forms(pairs))
        )
    elif pairs["mean_of_calls"]["n"]:
        listed.append(
            Line("ranking upholds its pair verdicts", figures.share_interval(pairs["mean_of_calls"]), "mean of calls")
        )
    if repeats["n"]:
        listed.append(Line("self-agreement, Kendall's tau", figures.number_interval(repeats), _left_out(repeats)))
    if found["good_natured"]["n"]:
        listed.append(Line("conversations called good-natured", figures.share_interval(found["good_natured"]), ""))
    if found["reply_characters"]["n"]:
        listed.append(Line("characters of a reply", figures.number_interval(found["reply_characters"]), ""))
    return listed


def _forms(pairs: Mapping[str, Any]) -> str:
    """Where a log holds pairs in brackets and others: what those in brackets alone give."""
    bracketed = pairs["first_named_wins_in_brackets"]
    if bracketed["n"] in (0, pairs["first_named_wins"]["n"]):
        return ""
    return f"of the {bracketed['n']:,} written (A, B): A, {figures.share(bracketed['value'])}"


def side_by_side(audits: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The main figures of each log in a row, under `SIDE_BY_SIDE`."""
    names = short_names(audits)
    rows: list[tuple[str, ...]] = []
    for found in audits:
        position = next((position for position in found["positions"] if position["n"]), None)
        pairs = found["pair_verdicts"]
        upheld = pairs["upheld"] if pairs["upheld"]["n"] else pairs["mean_of_calls"]
        rows.append((
            names[found["name"]],
            figures.number(position["n"]) if position else figures.NOTHING,
            figures.share(position["places"][0]["first"]["value"]) if position else figures.NOTHING,
            f"{position['chi_square']:.1f}" if position else figures.NOTHING,
            f"{position['p_value']:.2g}" if position else figures.NOTHING,
            figures.share(found["length"]["value"]),
            figures.share(upheld["value"]),
            figures.share(found["unparsed"]["value"]) if found["unparsed"] else figures.NOTHING,
        ))  # fmt: skip
    return rows


def between_lines(between: Sequence[Mapping[str, Any]]) -> list[Line]:
    """How far the logs agree with each other on what they both rank."""
    names = short_names([{"name": row[side]} for row in between for side in ("one", "other")])
    return [
        Line(f"{names[row['one']]}, {names[row['other']]}",
             figures.number_interval(row) if row["n"] else figures.NOTHING,
             _left_out(row) if row["n"] else "no prompt is ranked in both with the same answers")
        for row in between
    ]  # fmt: skip


def short_names(audits: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The logs' names without folder and ending, where they stay distinct."""
    full = {str(found["name"]) for found in audits}
    short = {name: Path(name).name.partition(".")[0] or name for name in full}
    return short if len(set(short.values())) == len(full) else {name: name for name in full}


def place_rows(position: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """For each place: its number, how often it came first, its mean rank."""
    return [
        (
            str(place["place"]),
            figures.share_interval(place["first"]).partition(", n")[0],
            rank_interval(place["mean_rank"]),
        )
        for place in position["places"]
    ]


def model_rows(models: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """For each model: its name, its mean rank in all, good-natured and other conversations, how many ranks."""
    return [
        (row["model"], *(rank_interval(row[kind]) for kind in ("all", "good_natured", "not_good_natured")),
         figures.number(row["all"]["n"]))
        for row in models
    ]  # fmt: skip


def rank_interval(score: Mapping[str, Any]) -> str:
    """3.20 (2.92 to 3.50): a mean rank, nothing where there is none."""
    if not score["n"]:
        return ""
    ends = f" ({score['low']:.2f} to {score['high']:.2f})" if figures.has_interval(score) else ""
    return f"{score['value']:.2f}{ends}"


def _print_audit(found: Mapping[str, Any]) -> None:
    progress.show(texts.terminal(f"\n{found['name']}", style="bold"))
    progress.show(texts.terminal(heading(found)))
    for position in found["positions"]:
        progress.show(_places(position))
        for sentence in position_lines(position):
            progress.show(Text(sentence))
    if listed := lines(found):
        progress.show(_table_of(("figure", _VALUE, "note"), listed, ""))
    if found["models"]:
        progress.show(_models(found))
    if found["missing"]:
        progress.show(Text("Not to be had from this log:"))
    for name, why in found["missing"].items():
        progress.show(Text(f"  {name}: {why}", style="dim"))


def _places(position: Mapping[str, Any]) -> Table:
    k, shares = position["k"], [place["first"]["value"] for place in position["places"]]
    table = _table("place", "", "ranked first", "mean rank (95 % interval)")
    table.title = f"Place among {k} answers; without any effect {figures.share(1 / k)} and {(k + 1) / 2:.2f}"
    for (place, first, rank), share in zip(place_rows(position), shares, strict=True):
        bar = Bar(max(shares), 0, share, width=_BAR_WIDTH, color="cyan") if position["n"] else ""
        table.add_row(place, bar, first, rank)
    return table


def _models(found: Mapping[str, Any]) -> Table | Text:
    """Those with enough ranks in a table; where none has, that alone."""
    placed = [row for row in found["models"] if row["all"]["n"] >= FEW]
    left = found["models"][len(placed) :]
    few = f"{_count(len(left), 'model')} with fewer than {FEW} ranks, {sum(row['all']['n'] for row in left):,} in all"
    if not placed:
        return Text(f"Of models nothing can be said: {few}.")
    known = found["good_natured"]["n"] > 0
    table = _table("model", "mean rank (95 % interval)", *(["good-natured", "not good-natured"] if known else []), "n")
    table.title = "Models, best first; 1 is the best rank"
    table.columns[0].min_width = 16
    for model, rank, good, other, n in model_rows(placed):
        table.add_row(texts.terminal(model), rank, *((good, other) if known else ()), n)
    if left:
        table.caption = f"and {few}"
    return table


def _table_of(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    table = _table(*columns)
    table.title = title
    for row in rows:
        table.add_row(*map(texts.terminal, row))
    return table


def _table(*columns: str) -> Table:
    table = texts.table(*columns, right=())
    for column in table.columns:
        column.no_wrap = column.header == _VALUE
    return table


def _left_out(kendall: Mapping[str, Any]) -> str:
    tied = f", {kendall['all_tied']:,} pairs of rankings with all answers tied left out" if kendall["all_tied"] else ""
    return f"{_count(kendall['prompts'], 'prompt')}{tied}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
