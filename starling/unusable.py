"""What of the rankings a reward model cannot learn from: found, listed with the reason, counted."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from starling import data_files, progress, turns
from starling.records import Ranking

FILE = "unusable.jsonl"


def note(ranking: Ranking, what: str, reason: str, detail: str = "") -> dict[str, str]:
    """A line of the list: `what` is the ranking or answer that is left out, or the prompt that is shortened."""
    return line(ranking.prompt_id, ranking.where, what, reason, detail)


def line(prompt_id: str, where: str, what: str, reason: str, detail: str = "") -> dict[str, str]:
    """The same of a row that may be no ranking."""
    found = {"prompt_id": prompt_id, "where": where, "what": what, "reason": reason}
    return found | {"detail": detail} if detail else found


def cleaned(ranking: Ranking) -> tuple[Ranking, list[dict[str, str]]]:
    """The ranking of what a reward model can tell apart, and a note for each answer that is left out.

    An empty answer has no token to read a reward at. Answers alike but for white space around them get the same reward
    whatever is learnt, by the many chat templates that strip it; where the ranking gives them different ranks, one
    stays, at the mean of their ranks, which is Borda's count over the places that the judge gave this text. A copy
    without a place adds nothing to that mean.
    """
    told = [at for at, answer in enumerate(ranking.answers) if answer.answer.strip()]
    places: dict[tuple[str, bool], list[int]] = {}
    for at in told:
        places.setdefault((ranking.answers[at].answer.strip(), ranking.answers[at].finished), []).append(at)
    apart = [alike for alike in places.values() if len({ranking.ranks[at] for at in alike}) > 1]
    copies = {at for alike in apart for at in alike[1:]}
    if len(told) == len(ranking.answers) and not copies:
        return ranking, []
    ranks = list(ranking.ranks)
    for alike in apart:
        known = [ranking.ranks[at] for at in alike if math.isfinite(ranking.ranks[at])]
        ranks[alike[0]] = sum(known) / len(known)
    kept = [at for at in told if at not in copies]
    notes = [note(ranking, "answer", "empty")] * (len(ranking.answers) - len(told))
    notes += [note(ranking, "answer", "a copy of another that has another rank")] * len(copies)
    return without(replace(ranking, ranks=ranks), set(range(len(ranks))) - set(kept)), notes


def without(ranking: Ranking, lost: set[int]) -> Ranking:
    """The ranking without these answers; the ranks of the others keep their order.

    Under Plackett-Luce that is the same model: the odds between two answers do not depend on what else is there
    (Luce's choice axiom, 1959).
    """
    kept = [at for at in range(len(ranking.answers)) if at not in lost]
    answers, ranks = [ranking.answers[at] for at in kept], [ranking.ranks[at] for at in kept]
    return replace(ranking, answers=answers, ranks=ranks, orders=())


def why(ranking: Ranking) -> str:
    """Why the ranking decides nothing; "" where it does."""
    if len(ranking.answers) < 2:
        return "fewer than two answers"
    if not ranking.num_placed:
        return "no answer has a place"
    if len(set(ranking.ranks)) < 2:
        return "all answers are tied"
    return ""


def repeats_prompt(ranking: Ranking) -> bool:
    """Whether every answer begins with the prompt's last turn or, after a mark of whose turn it is, with the whole
    conversation, as where the files hold whole texts as answers."""
    begins = tuple(bare for at in (0, -1) if (bare := _bare(ranking.messages[at]["content"])))
    return bool(begins) and all(_bare(answer.answer).startswith(begins) for answer in ranking.answers)


def _bare(text: str) -> str:
    return turns.without_marks(text).strip()


def tally(notes: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """How many rankings and answers are left out, by reason, and how many prompts are shortened."""
    counts: dict[str, Counter[str]] = {what: Counter() for what in ("ranking", "answer", "prompt")}
    for line in notes:
        counts[line["what"]][line["reason"]] += 1
    return {
        "unusable": dict(counts["ranking"]),
        "answers_left_out": dict(counts["answer"]),
        "shortened": counts["prompt"].total(),
    }


def reasons(notes: Iterable[Mapping[str, str]]) -> str:
    """Why rankings are left out, each reason once, with what is known of the first case."""
    found: dict[str, str] = {}
    for line in notes:
        if line["what"] == "ranking":
            found.setdefault(line["reason"], line.get("detail", ""))
    return (
        "; ".join(f"{reason} ({detail})" if detail else reason for reason, detail in found.items()) or "there are none"
    )


def lines(notes: Iterable[Mapping[str, str]]) -> list[str]:
    """What was left out or shortened, with count and reason, a line each."""
    found = []
    for (what, reason), count in sorted(Counter((line["what"], line["reason"]) for line in notes).items()):
        done = "cut from the left" if what == "prompt" else "left out"
        found.append(f"{count:,} {what}{'' if count == 1 else 's'} {done}: {reason}")
    return found


def write(folder: Path, notes: Sequence[Mapping[str, str]]) -> None:
    """Write the list to the folder; without a note there is none."""
    if notes:
        data_files.write_jsonl(folder / FILE, notes)


def write_and_tell(folder: Path, notes: Sequence[Mapping[str, str]]) -> None:
    """The same, and print what it comes to and where it is; nothing where there is nothing to tell."""
    write(folder, notes)
    for line in [*lines(notes), f"each of them is listed in {folder / FILE}"] if notes else ():
        progress.say(f"fit: {line}")


def tell_repeats(rankings: Sequence[Ranking]) -> int:
    """Say in how many rankings every answer begins with the prompt; returns how many."""
    found = [ranking for ranking in rankings if repeats_prompt(ranking)]
    if found:
        progress.say(
            f"fit: in {len(found):,} of {len(rankings):,} rankings every answer begins with the prompt, first in "
            f"{found[0].where or found[0].prompt_id}; it then stands there twice: take it out of the answers"
        )
    return len(found)
