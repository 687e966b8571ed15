"""AlpacaEval's annotations, in the form that the `alpaca_eval` tool reads and writes, and the figures made of them.

An annotation has `instruction`, `output_1` and `generator_1` (the rival), `output_2` and `generator_2` (the model) and
`preference`: 1 where the rival is better, 2 where the model is, between them as probable as it is, 1.5 (or 0) a draw,
null where the judge could not be read. `len_1` and `len_2`, in characters, may stand for the outputs.

    win rate = 100 * mean(preference - 1); its standard error is that of a mean

Version 1 (rival text-davinci-003) counts 1, 2 and draws; version 2 (rival gpt-4-1106-preview) probabilities, and its
headline is the length-controlled win rate of `length_control.py`.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from starling import sources, stats
from starling.benches import length_control
from starling.benches.alpaca_judging import Pair, Preferred
from starling.benches.left_out import LeftOut
from starling.config import Source
from starling.errors import DataError

DRAWS = (0.0, 1.5)


class Annotation(NamedTuple):
    """One verdict: lengths in characters and the probability that the model is better."""

    own_length: int
    rival_length: int
    preference: float


@dataclass(slots=True, kw_only=True)
class Annotated:
    """A model's verdicts by instruction, and what of its file could not be used."""

    model: str
    rival: str = ""
    judge: str = ""
    found: dict[str, Annotation] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


def read_annotations(paths: Sequence[Path]) -> list[Annotated]:
    """The models of annotation files, or of folders of them, in the order they are met."""
    models: dict[str, Annotated] = {}
    for path in paths:
        for file in sources.files(path) if path.is_dir() else [path]:
            for where, row in rows(file):
                name = str(row.get("generator_2") or file.name.split(".json")[0])
                _add(models.setdefault(name, Annotated(model=name)), row, where)
    if not models:
        raise DataError(f"bench: {', '.join(map(str, paths))} holds no annotations")
    return list(models.values())


def case_of(model: str, instruction: str) -> str:
    """What an annotation is called in lists: its model and how its instruction begins."""
    return f"{model}: {shortened(instruction)}"


def shortened(instruction: str) -> str:
    """How an instruction begins, in one line."""
    line = " ".join(instruction.split())
    return line if len(line) <= 60 else f"{line[:60]}..."


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table or of a JSON list, each with where it stands."""
    if not path.exists():  # it might be the name of a data set otherwise
        raise DataError(f"{path}: there is no such file")
    if path.suffix == ".json":
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as JSON ({error})") from None
        if not isinstance(listed, list):
            raise DataError(f"{path}: a list of rows is expected, as alpaca_eval writes it")
    else:
        listed = sources.rows(Source(path=str(path)))
    for number, row in enumerate(listed, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a row with fields is expected, found {type(row).__name__}")
        yield f"{path}:{number}", row


def written(
    pairs: Sequence[Pair], said: Sequence[Preferred], annotator: str, model: str, rival: str
) -> list[dict[str, Any]]:
    """What a judge said of each pair, as annotations."""
    return [
        {
            "instruction": pair.instruction, "output_1": pair.rival, "generator_1": rival,
            "output_2": pair.model, "generator_2": model, "dataset": "alpaca_eval", "annotator": annotator,
            "preference": one.preference, "raw_completion": list(one.replies),
        } | ({"reason": one.reason} if one.reason else {})
        for pair, one in zip(pairs, said, strict=True)
    ]  # fmt: skip


def _add(one: Annotated, row: Mapping[str, Any], where: str) -> None:
    instruction = row.get("instruction")
    if not isinstance(instruction, str):
        raise DataError(f"{where}: an annotation needs `instruction`; found: {', '.join(sorted(row))}")
    one.rival = one.rival or str(row.get("generator_1") or "")
    one.judge = one.judge or str(row.get("annotator") or "")
    preference, case = preference_of(row.get("preference")), case_of(one.model, instruction)
    if instruction in one.found:
        one.left_out.append(LeftOut(case, "annotated again later", where))
    elif isinstance(preference, str):
        detail = f"{where}: {row.get('reason') or preference}"
        one.left_out.append(LeftOut(case, preference, detail))
    else:
        own, rival = (_length(row, side, where) for side in ("2", "1"))
        one.found[instruction] = Annotation(own, rival, preference)


def preference_of(said: Any) -> float | str:
    """The probability that the model is better, or why there is none."""
    if said is None or (isinstance(said, float) and math.isnan(said)):
        return "without a preference"
    if isinstance(said, bool) or not isinstance(said, int | float):
        return "the preference is no number"
    if said in DRAWS:
        return 0.5
    return float(said) - 1 if 1 <= said <= 2 else "the preference is not between 1 and 2"


def _length(row: Mapping[str, Any], side: str, where: str) -> int:
    output, length = row.get(f"output_{side}"), row.get(f"len_{side}")
    if isinstance(output, str):
        return len(output)
    if isinstance(length, int) and not isinstance(length, bool):
        return length
    raise DataError(f"{where}: an annotation needs `output_{side}`, or its length in characters as `len_{side}`")


def gaps(models: Sequence[Annotated]) -> list[LeftOut]:
    """The instructions that stand under one of the models but not under another; each is scored on its own."""
    instructions = dict.fromkeys(instruction for one in models for instruction in one.found)
    return [
        LeftOut(case_of(one.model, instruction), "scored for other models only")
        for one in models
        for instruction in instructions
        if instruction not in one.found
    ]


def score(models: Sequence[Annotated]) -> list[dict[str, Any]]:
    """A row of figures for each model, in per cent, with 95 % intervals over instructions.

    Difficulties are estimated from all these models, which must have met the same rival under the same judge.
    """
    instructions = list(dict.fromkeys(instruction for one in models for instruction in one.found))
    place = {instruction: at for at, instruction in enumerate(instructions)}
    shape = (len(models), len(instructions))
    preference_MI, length_MI, mask_MI = np.full(shape, 0.5), np.zeros(shape), np.zeros(shape, bool)
    for at, one in enumerate(models):
        if not one.found:
            first = f", the first: {one.left_out[0].detail}" if one.left_out else ""
            raise DataError(
                f"bench: of {one.model} no annotation can be scored; {len(one.left_out)} were left out{first}"
            )
        where_I = [place[instruction] for instruction in one.found]
        own_I, rival_I, said_I = (np.array(column, float) for column in zip(*one.found.values(), strict=True))
        preference_MI[at, where_I] = said_I
        length_MI[at, where_I] = length_control.length_term(own_I, rival_I)
        mask_MI[at, where_I] = True
    difficulty_I = length_control.difficulties(preference_MI, length_MI, mask_MI)
    figures = []
    for at, one in enumerate(models):
        is_known_I = mask_MI[at]
        known = None if difficulty_I is None else difficulty_I[is_known_I]
        controlled = length_control.control(preference_MI[at, is_known_I], length_MI[at, is_known_I], known)
        figures.append(_raw(one) | _controlled(controlled, difficulty_I is not None))
    return figures


def _raw(one: Annotated) -> dict[str, Any]:
    said = np.array([annotation.preference for annotation in one.found.values()])
    wins, losses, draws = (int(count.sum()) for count in (said > 0.5, said < 0.5, said == 0.5))
    interval = stats.cluster_mean(one.model, list(said), list(one.found), resamples=stats.RESAMPLES)
    return {
        "model": one.model,
        "rival": one.rival,
        "judge": one.judge,
        "n": len(said),
        "win_rate": 100 * interval.value,
        "standard_error": 100 * float(said.std(ddof=1)) / math.sqrt(len(said)) if len(said) > 1 else None,
        "low": 100 * interval.low,
        "high": 100 * interval.high,
        "n_wins": wins,
        "n_wins_base": losses,
        "n_draws": draws,
        "discrete_win_rate": 100 * (wins + draws / 2) / len(said),
        "avg_length": float(np.mean([annotation.own_length for annotation in one.found.values()])),
    }


def _controlled(found: length_control.Controlled, by_difficulty: bool) -> dict[str, Any]:
    """The figures of the length-controlled win rate; `difficulty` is null where the term was left out."""
    weights = found.weights._asdict()
    return {
        "length_controlled_winrate": found.win_rate,
        "lc_standard_error": None if math.isnan(found.standard_error) else found.standard_error,
        "lc_low": found.low,
        "lc_high": found.high,
        "weights": weights if by_difficulty else weights | {"difficulty": None},
    }
