"""MT-Bench's figures from judgments in FastChat's form, whoever made them: means and win rates by turn and category.

A mean is over all marks of a model, a win rate counts a tie as half, both as FastChat's `show_result` has them; the
intervals are ours, by bootstrap over questions, since the turns of a question are no independent cases.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from starling import stats
from starling.benches import fastchat, results
from starling.benches.answers import Question
from starling.benches.left_out import LeftOut
from starling.benches.mt_judging import LOSS, TIE, WIN
from starling.errors import DataError

AGREE, FIRST = "both orders agree", "points of the one shown first"
Judgments = Sequence[tuple[str, Mapping[str, Any]]]
_WINNERS = {"model_1": WIN, "model_2": LOSS, "tie": TIE}


class Case(NamedTuple):
    """A mark, or what came of a game, of one turn of one question, and the judgment that says so."""

    question: Question
    turn: int
    value: float
    row: Mapping[str, Any] = MappingProxyType({})


class Figures(NamedTuple):
    """Rows of the table, the means by category of each model or pair for the plot, what is left out, and remarks."""

    rows: list[dict[str, Any]]
    by_category: dict[str, dict[str, float]]
    left_out: list[LeftOut]
    notes: list[str]


def of_marks(judgments: Judgments, questions: Sequence[Question], model: str = "") -> Figures:
    """Mean marks of each model that is judged, or of `model` alone, the best first."""
    found, left_out = _sorted(judgments, questions, lambda row: _model(row, model), _mark)
    means = {name: _mean(cases) for name, cases in found.items()}
    rows: list[dict[str, Any]] = []
    for name in sorted(found, key=lambda one: -means[one]):
        rows += _rows(name, found[name], "points", categories=len(found) == 1)
    notes = [] if len(found) == 1 else ["--model NAME shows the categories of one of them"]
    given = [case.value for cases in found.values() for case in cases]
    if len(given) > 1 and len(set(given)) == 1:
        notes.append(f"all {len(given):,} marks are {given[0]:g}: this judge tells no answer from another")
    return Figures(rows, _by_category(found), left_out, notes)


def of_games(judgments: Judgments, questions: Sequence[Question], model: str = "", against: str = "") -> Figures:
    """Win rates of each pair that is judged, or of those with `model` and `against` alone; `model` stands first.

    Where a judge was shown both orders, also how often they agree, and what the answer that it was shown first got: a
    win is a point, a tie half. A judge that does not look at the order gives half the points to either place.
    """
    names = _orientations(judgments, model, against)
    found, left_out = _sorted(
        judgments, questions, lambda row: names.get(_pair(row), ""), lambda row: _game(row, names)
    )
    rows: list[dict[str, Any]] = []
    for name, cases in found.items():
        rows += _rows(name, cases, "share", categories=len(found) == 1)
        for kind, value in (("wins", WIN), ("ties", TIE), ("losses", LOSS)):
            counted = [Case(case.question, case.turn, float(case.value == value)) for case in cases]
            rows.append(results.row(_score(kind, counted, "share"), unit="share", level=1))
        shown_twice = [case for case in cases if case.row.get("g1_user_prompt")]  # to a judge that sees an order
        for kind, read in ((AGREE, _agrees), (FIRST, _first)) if shown_twice else ():
            counted = [Case(case.question, case.turn, read(case.row)) for case in shown_twice]
            rows.append(results.row(_score(kind, counted, "share"), unit="share", level=1))
    return Figures(rows, _by_category(found), left_out, [_sentence(row) for row in rows if row["level"] == 0])


def _sorted(
    judgments: Judgments,
    questions: Sequence[Question],
    name_of: Callable[[Mapping[str, Any]], str],
    read: Callable[[Mapping[str, Any]], float | str],
) -> tuple[dict[str, list[Case]], list[LeftOut]]:
    """The cases of each name, the last judgment of a turn counts; and what is no case, or has no judgment."""
    known = {question.id: question for question in questions}
    latest: dict[tuple[str, str, int], tuple[str, float | str, Mapping[str, Any]]] = {}
    left_out: list[LeftOut] = []
    for where, row in judgments:
        name = name_of(row)
        if not (row.get("model") or row.get("model_1")):
            left_out.append(LeftOut(where, "names no model", "a judgment needs `model`, or `model_1` and `model_2`"))
        if not name:
            continue
        question, turn = str(row.get("question_id")), row.get("turn", 1)
        case = f"{name}, question {question}, turn {turn}"
        if question not in known or turn not in range(1, len(known[question].turns) + 1) or turn is True:
            left_out.append(LeftOut(case, "judges no question of this set", where))
            continue
        if (name, question, turn) in latest:
            left_out.append(LeftOut(case, "judged again later", latest[name, question, turn][0]))
        latest[name, question, turn] = (where, read(row), row)
    found: dict[str, list[Case]] = {}
    for (name, question, turn), (where, value, row) in latest.items():
        if isinstance(value, str):
            left_out.append(
                LeftOut(f"{name}, question {question}, turn {turn}", "unreadable verdict", f"{where}: {value}")
            )
        else:
            found.setdefault(name, []).append(Case(known[question], turn, value, row))
    if not found:
        raise DataError(f"bench: none of the {len(judgments):,} judgments can be counted{_why(left_out)}")
    for name in found:
        for asked in questions:
            for turn in range(1, len(asked.turns) + 1):
                if (name, asked.id, turn) not in latest:
                    left_out.append(LeftOut(f"{name}, question {asked.id}, turn {turn}", "no judgment"))
    return found, left_out


def _why(left_out: Sequence[LeftOut]) -> str:
    return f"; the first: {left_out[0].item}: {left_out[0].reason} ({left_out[0].detail})" if left_out else ""


def value_of(row: Mapping[str, Any]) -> float | str:
    """The mark of a judgment, or what came of a game for its first model; why there is none."""
    return _won(row) if fastchat.is_pair(row) else _mark(row)


def _model(row: Mapping[str, Any], wanted: str) -> str:
    name = str(row.get("model") or "")
    return name if not wanted or name == wanted else ""


def _mark(row: Mapping[str, Any]) -> float | str:
    score = row.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float):
        return f"the score is {score!r}"
    if score == fastchat.ERROR:
        return str(row.get("reason") or "marked as an error")
    return float(score) if 1 <= score <= 10 else f"the score is {score}, not 1 to 10"


def _pair(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row.get("model_1") or ""), str(row.get("model_2") or "")


def _orientations(judgments: Judgments, model: str, against: str) -> dict[tuple[str, str], str]:
    """Under which name each pair of models is counted: the same for both ways of naming it, with `model` first."""
    found: dict[tuple[str, str], str] = {}
    for _, row in judgments:
        one, other = _pair(row)
        if not {name for name in (model, against) if name} <= {one, other} or (one, other) in found or one == other:
            continue
        if other == model or (one == against and other != against):
            one, other = other, one
        found[one, other] = found[other, one] = f"{one} against {other}"
    return found


def _game(row: Mapping[str, Any], names: Mapping[tuple[str, str], str]) -> float | str:
    value = _won(row)
    if isinstance(value, str) or names[_pair(row)].startswith(f"{_pair(row)[0]} against "):
        return value
    return 1 - value


def _won(row: Mapping[str, Any]) -> float | str:
    said = [row.get(key, row.get("winner")) for key in ("g1_winner", "g2_winner")]
    unknown = [one for one in said if not isinstance(one, str) or one not in _WINNERS]
    if unknown:
        return str(row.get("reason") or f"the winner is {unknown[0]!r}")
    return _WINNERS[said[0]] if said[0] == said[1] else TIE


def _agrees(row: Mapping[str, Any]) -> float:
    return float(row["g1_winner"] == row["g2_winner"])


def _first(row: Mapping[str, Any]) -> float:
    """Points of the answer that is shown first, of both looks together: model_1's first, then model_2's."""
    return (_WINNERS[row["g1_winner"]] + 1 - _WINNERS[row["g2_winner"]]) / 2


def _rows(name: str, cases: Sequence[Case], unit: str, *, categories: bool) -> list[dict[str, Any]]:
    rows = [results.row(_score(name, cases, unit), unit=unit)]
    for turn in sorted({case.turn for case in cases}):
        own = [case for case in cases if case.turn == turn]
        rows.append(results.row(_score(f"turn {turn}", own, unit), unit=unit, level=1))
    if categories:
        for category in _categories(cases):
            own = [case for case in cases if case.question.category == category]
            rows.append(results.row(_score(category, own, unit), unit=unit, level=1))
    return rows


def _by_category(found: Mapping[str, Sequence[Case]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            category: _mean([case for case in cases if case.question.category == category])
            for category in _categories(cases)
        }
        for name, cases in found.items()
    }


def _categories(cases: Sequence[Case]) -> list[str]:
    """In the order of the questions."""
    return [one for one in dict.fromkeys(case.question.category for case in cases) if one]


def _score(name: str, cases: Sequence[Case], unit: str) -> Any:
    """Of a share the interval has a width even where all cases agree."""
    mean = stats.clustered_share if unit == "share" else stats.cluster_mean
    return mean(name, [case.value for case in cases], [case.question.id for case in cases], resamples=stats.RESAMPLES)


def _mean(cases: Sequence[Case]) -> float:
    return sum(case.value for case in cases) / len(cases)


def _sentence(row: Mapping[str, Any]) -> str:
    """What the interval of a win rate allows one to say."""
    if row["low"] > 0.5:
        return f"{row['name']}: better, by these judgments"
    if row["high"] < 0.5:
        return f"{row['name']}: worse, by these judgments"
    return f"{row['name']}: these judgments do not tell which is better; the interval holds 50 %"
