"""`starling bench safety`: are ill-natured requests refused, politely, and harmless ones that only sound so answered?

Refusals are told by the rubric (`judges/rubric.py`), their tone by `tone.py`: programs that know words and nothing
else. What is answered in spite of everything may still be harmless, and a refusal may give away what it refuses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from starling import data_files, paired, tables
from starling.benches import filing, prompted, results
from starling.benches.answers import Answers
from starling.benches.asked import Asked, Benchmark
from starling.benches.cost import Part
from starling.benches.left_out import LeftOut
from starling.benches.prompted import Change
from starling.benches.tone import Tone, tone_of
from starling.config import Source
from starling.errors import DataError
from starling.judges.rubric import refuses
from starling.records import Prompt
from starling.sources import rows as rows_of
from starling.stats import clustered_share

ABOUT = "refusals where they are due, and where they are not"
OWN = "Starling's own requests (safety, test)"
ILL, ALIKE = "ill_natured", "look_alike"
ROWS = {ILL: "ill-natured requests refused", ALIKE: "look-alikes refused (less is better)"}
_TOKENS = 256
JUDGE = {"name": "rubric, a program, not an LLM", "rules": "refusal: judges/rubric.py, tone: benches/tone.py"}


class Reaction(NamedTuple):
    """Whether a request was refused, and how."""

    refused: bool
    tone: Tone | None


Reactions = Mapping[str, Reaction]  # by prompt id


def run(asked: Asked) -> dict[str, Any]:
    """Look at the answers, compare them with the other side's, print the table, write it to `--out`."""
    prompts, unread = read(asked.data)
    out = asked.out or filing.folder_of("safety", prompted.tested(asked))
    if asked.estimate:
        return prompted.estimate(asked, prompts, out, _TOKENS)
    both = prompted.sides(asked, prompts, out, _TOKENS)
    found = [react(side.answers.first) for side in both]
    more, notes = prompted.beside(asked, prompts, both, found, partial(figures_of, prompts), partial(changes, prompts))
    result = results.result(
        "safety",
        model=both[0].identity,
        judge=JUDGE,
        data={
            "name": asked.data or OWN,
            "cases": len(prompts),
            "sha256": prompted.digest(prompts, {prompt.id: prompt.kind for prompt in prompts}),
        },
        rows=figures_of(prompts, found[0]),
        without=[*unread, *both[0].answers.left_out],
        more=more | {"cut": both[0].answers.cut, "cases": _listed(prompts, found[0], both[0].answers)},
    )
    results.show(result, ABOUT, unit="requests", notes=notes)
    results.write(out, result)
    return result


def plan(asked: Asked) -> list[Part]:
    """What is going to be asked of whom; what cannot work is refused."""
    return prompted.parts(asked, read(asked.data)[0], _TOKENS)


def read(path: str) -> tuple[list[Prompt], list[LeftOut]]:
    """The requests, each of kind `ill_natured` or `look_alike`; rows of other kinds are left out."""
    found = list(_of_file(path)) if path else _own()
    kept = [prompt for prompt in found if prompt.kind in (ILL, ALIKE)]
    lost = [LeftOut(one.id, f"of neither kind, {ILL} or {ALIKE}") for one in found if one.kind not in (ILL, ALIKE)]
    if not kept:
        raise DataError(f"bench: {path} holds no request whose `kind` is {ILL} or {ALIKE}")
    doubled = len(kept) - len({prompt.id for prompt in kept})
    if doubled:
        raise DataError(f"bench: {path}: {doubled} rows have an `id` that stands before them; give each its own")
    return kept, lost


def react(answers: Mapping[str, str]) -> dict[str, Reaction]:
    """What each answer is, by prompt id."""
    found = {}
    for key, answer in answers.items():
        refused = refuses(answer)
        found[key] = Reaction(refused, tone_of(answer) if refused else None)
    return found


def figures_of(prompts: Sequence[Prompt], found: Reactions) -> list[dict[str, Any]]:
    """Refusals by kind of request, and of the due ones the share by tone."""
    answered = [prompt for prompt in prompts if prompt.id in found]
    rows = []
    for kind, name in ROWS.items():
        some = [prompt for prompt in answered if prompt.kind == kind]
        hits = [found[prompt.id].refused for prompt in some]
        rows.append(results.row(clustered_share(name, hits, _clusters(some)), unit="share"))
    due = [prompt for prompt in answered if prompt.kind == ILL and found[prompt.id].refused]
    for tone in ("polite", "curt", "rude"):
        hits = [found[prompt.id].tone == tone for prompt in due]
        score = clustered_share(f"{tone} refusals of ill-natured requests", hits, _clusters(due))
        rows.append(results.row(score, unit="share", level=1))
    return rows


def changes(prompts: Sequence[Prompt], before: Reactions, after: Reactions) -> list[Change]:
    """The paired change of each figure.

    Tone is compared on the ill-natured requests that both sides refuse.
    """
    both = [prompt for prompt in prompts if prompt.id in before and prompt.id in after]
    listed = []
    for kind, name, good in ((ILL, "Ill-natured requests refused", 1), (ALIKE, "Look-alikes refused", -1)):
        some = [prompt for prompt in both if prompt.kind == kind]
        old, new = ([float(side[prompt.id].refused) for prompt in some] for side in (before, after))
        listed.append(Change(paired.compare(name, old, new, _clusters(some)), good, "requests", ROWS[kind]))
    due = [one for one in both if one.kind == ILL and before[one.id].refused and after[one.id].refused]
    old, new = ([float(side[prompt.id].tone == "polite") for prompt in due] for side in (before, after))
    polite = paired.compare("Polite where both refuse", old, new, _clusters(due))
    return [*listed, Change(polite, 1, "requests")]


def _clusters(prompts: Sequence[Prompt]) -> list[str]:
    return [prompt.cluster for prompt in prompts]


def _listed(prompts: Sequence[Prompt], found: Reactions, answers: Answers) -> list[dict[str, Any]]:
    texts = answers.first
    return [
        {"id": one.id, "kind": one.kind, "answer": texts[one.id], **found[one.id]._asdict()}
        for one in prompts
        if one.id in found
    ]


def _own() -> list[Prompt]:
    """The requests that come with Starling: those made for this benchmark, and those of the test split."""
    file = Path(str(resources.files("starling") / "data" / "safety.jsonl"))
    made = [
        replace(tables.prompt_from_row(row, f"safety.jsonl:{number}"), split="test")
        for number, row in enumerate(data_files.read_rows(file), 1)
    ]
    return made + [one for one in tables.builtin_prompts() if one.split == "test" and one.kind in (ILL, ALIKE)]


def _of_file(path: str) -> list[Prompt]:
    rows = enumerate(rows_of(Source(path=path)), 1)
    return [tables.prompt_from_row({"id": f"row-{number}", **row}, f"{path}:{number}") for number, row in rows]


BENCH = Benchmark(ABOUT, prompted.OPTIONS, run, plan)
