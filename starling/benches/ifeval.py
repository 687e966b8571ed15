"""`starling bench ifeval`: how many instructions that a program can verify are followed (arXiv:2311.07911).

Strict is the answer as it is, loose the best of eight readings of it (`ifeval_instructions.loosened`). Of prompts the
share is counted that follow all their instructions, of instructions the share that is followed. An instruction that
cannot be verified is left out, and its prompt with it from the shares of prompts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from starling import paired, tables
from starling.benches import filing, ifeval_instructions, prompted, results
from starling.benches.asked import Asked, Benchmark
from starling.benches.cost import Part
from starling.benches.left_out import LeftOut
from starling.benches.prompted import Change
from starling.config import Source
from starling.errors import DataError
from starling.judges.checks import CHECKS, HELD_OUT, parameters
from starling.records import Message, Prompt
from starling.sources import rows as rows_of
from starling.stats import clustered_share

ABOUT = "verifiable instructions"
OWN = "Starling's own prompts (test)"
_TOKENS = 1280  # IFEval's own cap
_OWN_TOKENS = 256  # the longest answer that our own prompts ask for is far shorter
_OFFICIAL = "instruction_id_list"


class Instruction(NamedTuple):
    """What is asked, by IFEval's id or the name of a check of ours, and its parameters."""

    id: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A prompt with the instructions that can be verified; `whole` where those are all it has."""

    prompt: Prompt
    instructions: Sequence[Instruction]
    whole: bool = True

    @property
    def cluster(self) -> str:
        return self.prompt.cluster


class Followed(NamedTuple):
    """Whether an instruction is followed, strictly and loosely."""

    strict: bool
    loose: bool


Found = Mapping[str, Sequence[Followed]]  # by prompt id, in the order of the instructions


def run(asked: Asked) -> dict[str, Any]:
    """Verify answers, compare them with the other side's, print the table, write it to `--out`."""
    cases, unread = read(asked.data)
    prompts = [case.prompt for case in cases]
    out = asked.out or filing.folder_of("ifeval", prompted.tested(asked))
    if asked.estimate:
        return prompted.estimate(asked, prompts, out, _cap(asked))
    both = prompted.sides(asked, prompts, out, _cap(asked))
    found = [verify(cases, side.answers.first) for side in both]
    more, notes = prompted.beside(asked, prompts, both, found, partial(figures_of, cases), partial(changes, cases))
    result = results.result(
        "ifeval",
        model=both[0].identity,
        judge={"name": "programs", "rules": sorted({one.id for case in cases for one in case.instructions})},
        data={
            "name": asked.data or OWN,
            "cases": len(cases),
            "sha256": prompted.digest(
                prompts, {case.prompt.id: [list(i) for i in case.instructions] for case in cases}
            ),
        },
        rows=figures_of(cases, found[0]),
        without=[*unread, *both[0].answers.left_out],
        more=more | {"cut": both[0].answers.cut, "cases": _listed(cases, found[0])},
    )
    results.show(result, ABOUT, unit="prompts", notes=notes)
    results.write(out, result)
    return result


def plan(asked: Asked) -> list[Part]:
    """What is going to be asked of whom; what cannot work is refused."""
    return prompted.parts(asked, [case.prompt for case in read(asked.data)[0]], _cap(asked))


def _cap(asked: Asked) -> int:
    return _TOKENS if asked.data else _OWN_TOKENS


def read(path: str) -> tuple[list[Case], list[LeftOut]]:
    """The prompts of IFEval's file, or of one with `checks`, or our own; and what cannot be verified."""
    lost: list[LeftOut] = []
    cases: dict[str, Case] = {}
    for case in _own() if not path else _of_file(path, lost):
        if case.prompt.id in cases:
            lost.append(LeftOut(case.prompt.id, "a second prompt of this key"))
        elif case.instructions:
            cases[case.prompt.id] = case
        else:
            lost.append(LeftOut(case.prompt.id, "a prompt without an instruction that can be verified"))
    if not cases:
        raise DataError(
            f"bench: {path} holds no prompt that can be verified: it needs `key`, `prompt`, `{_OFFICIAL}` and `kwargs` "
            f"as IFEval has them, or `prompt` and `checks`{_first(lost)}"
        )
    return list(cases.values()), lost


def verify(cases: Sequence[Case], answers: Mapping[str, str]) -> dict[str, list[Followed]]:
    """What each answer follows, by prompt id; prompts without an answer are not in it."""
    return {
        case.prompt.id: [
            Followed(follows(answer, one), any(follows(text, one) for text in ifeval_instructions.loosened(answer)))
            for one in case.instructions
        ]
        for case in cases
        if (answer := answers.get(case.prompt.id)) is not None
    }


def follows(answer: str, instruction: Instruction) -> bool:
    """Whether the answer as it stands follows the instruction; a check of ours only where it is wholly fulfilled."""
    if instruction.id in ifeval_instructions.INSTRUCTIONS:
        return ifeval_instructions.fulfils(answer, instruction.id, instruction.parameters)
    return bool(answer.strip()) and CHECKS[instruction.id](answer, **instruction.parameters) == 1.0


def figures_of(cases: Sequence[Case], found: Found) -> list[dict[str, Any]]:
    """The four official figures, then instructions by type, strictly."""
    rows = []
    whole = [case for case in cases if case.prompt.id in found and case.whole]
    for way in Followed._fields:
        hits = [all(getattr(one, way) for one in found[case.prompt.id]) for case in whole]
        rows.append(results.row(clustered_share(f"prompts, {way}", hits, [c.cluster for c in whole]), unit="share"))
    every = list(_instructions(cases, found))
    for way in Followed._fields:
        hits = [getattr(one, way) for _, _, one in every]
        rows.append(
            results.row(clustered_share(f"instructions, {way}", hits, [c.cluster for c, _, _ in every]), unit="share")
        )
    parts = {instruction.id: {instruction.id} for _, instruction, _ in every}
    if parts.keys() <= CHECKS.keys():
        parts = {"types that rankings use": set(CHECKS) - set(HELD_OUT), "types held out": set(HELD_OUT)} | parts
    for name in sorted(parts, key=lambda name: (not name.startswith("types"), name)):
        some = [(case, one.strict) for case, instruction, one in every if instruction.id in parts[name]]
        share = clustered_share(f"{name}, strict", [hit for _, hit in some], [case.cluster for case, _ in some])
        if share.n:
            rows.append(results.row(share, unit="share", level=1))
    return rows


def changes(cases: Sequence[Case], before: Found, after: Found) -> list[Change]:
    """The paired change in each of the four figures, over the prompts that both sides answered."""
    both = [case for case in cases if case.prompt.id in before and case.prompt.id in after]
    listed = []
    for way in Followed._fields:
        whole = [case for case in both if case.whole]
        old, new = (
            [float(all(getattr(one, way) for one in side[case.prompt.id])) for case in whole]
            for side in (before, after)
        )
        change = paired.compare(f"prompts, {way}", old, new, [case.cluster for case in whole])
        listed.append(Change(change, 1, "prompts", change.name))
    for way in Followed._fields:
        old, new = ([float(getattr(one, way)) for _, _, one in _instructions(both, side)] for side in (before, after))
        clusters = [case.cluster for case, _, _ in _instructions(both, after)]
        change = paired.compare(f"instructions, {way}", old, new, clusters)
        listed.append(Change(change, 1, "instructions", change.name))
    return listed


def _instructions(cases: Sequence[Case], found: Found) -> Iterator[tuple[Case, Instruction, Followed]]:
    for case in cases:
        for instruction, one in zip(case.instructions, found.get(case.prompt.id, ()), strict=False):
            yield case, instruction, one


def _listed(cases: Sequence[Case], found: Found) -> list[dict[str, Any]]:
    return [
        {
            "id": case.prompt.id,
            "instructions": [
                {"id": instruction.id, **one._asdict()} for _, instruction, one in _instructions([case], found)
            ],
        }
        for case in cases
        if case.prompt.id in found
    ]


def _own() -> Iterator[Case]:
    for prompt in tables.builtin_prompts():
        if prompt.split == "test" and prompt.checks:
            yield _checked(prompt)


def _of_file(path: str, lost: list[LeftOut]) -> Iterator[Case]:
    for number, row in enumerate(rows_of(Source(path=path)), 1):
        if _OFFICIAL in row:
            case = _official(row, f"{path}:{number}", lost)
            if case is not None:
                yield case
        else:
            yield _checked(tables.prompt_from_row({"id": f"row-{number}", **row}, f"{path}:{number}"))


def _checked(prompt: Prompt) -> Case:
    """A prompt of our form; its checks were tried when it was read."""
    instructions = [Instruction(check["check"], parameters(check)) for check in prompt.checks]
    return Case(prompt=prompt, instructions=instructions)


def _official(row: Mapping[str, Any], where: str, lost: list[LeftOut]) -> Case | None:
    """A row of IFEval's file; parameters that are null were never set."""
    key, names, kwargs = str(row.get("key", where)), row[_OFFICIAL], row.get("kwargs")
    are_named = isinstance(kwargs, list) and all(isinstance(one, Mapping | None) for one in kwargs)
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        lost.append(LeftOut(key, "no text `prompt`", where))
        return None
    if not isinstance(names, list) or not isinstance(kwargs, list) or len(names) != len(kwargs):
        lost.append(LeftOut(key, f"`{_OFFICIAL}` and `kwargs` are no two lists of one length", where))
        return None
    if not are_named or not all(isinstance(name, str) for name in names):
        lost.append(LeftOut(key, f"`{_OFFICIAL}` are not all names, or `kwargs` not all objects", where))
        return None
    instructions = []
    for name, given in zip(names, kwargs, strict=True):
        parameters = {part: value for part, value in dict(given or {}).items() if value is not None}
        if why := ifeval_instructions.unusable(name, parameters):
            lost.append(LeftOut(f"{key} {name}", why.partition(":")[0], f"{where}: {why}"))
        else:
            instructions.append(Instruction(name, parameters))
    prompt = Prompt(id=key, messages=[Message(role="user", content=row["prompt"])])
    return Case(prompt=prompt, instructions=instructions, whole=len(instructions) == len(names))


def _first(lost: Sequence[LeftOut]) -> str:
    return f"; first: {lost[0].item}: {lost[0].reason}" if lost else ""


BENCH = Benchmark(ABOUT, prompted.OPTIONS, run, plan)
