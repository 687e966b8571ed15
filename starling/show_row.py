"""One ranking that explains itself on a terminal: answers by rank, who gave them, who judged, by which calls."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from starling import figures
from starling.judges.naming import is_by_reward
from starling.judges.parse import letters
from starling.texts import terminal

_COLOURS = ("bright_green", "green", "yellow", "dark_orange", "red")  # best to worst


def panels(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What `lineage.explain` found, from the answers to their use."""
    judge = str(found["judge"] or "a judge that is not named")
    yield Panel(_answers(found["answers"]), title=terminal(f"rank: by {judge}"), title_align="left")
    yield Panel(_judged(found), title=terminal("how it was judged"), title_align="left")
    yield from calls(found["calls"])
    if found["used"]:
        yield Panel(Group(*map(terminal, found["used"])), title=terminal("what it was used for"), title_align="left")


def calls(found: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """A panel for each call to a judge."""
    for number, call in enumerate(found, 1):
        title = f"judge's call {number} of {len(found)}"
        yield Panel(_call(call), title=terminal(title), title_align="left")


def colour(rank: float | None, worst: float) -> str:
    """Green for the first rank, red for the worst, and where no place is known."""
    if not rank:
        return _COLOURS[-1]
    share = (rank - 1) / (worst - 1) if worst > 1 else 0.0
    return _COLOURS[int(share * (len(_COLOURS) - 1) + 0.5)]


def place(rank: float | None) -> str:
    """A rank in words; a dash where it is not known."""
    if not rank:
        return "-"
    return f"{rank:g}" if isinstance(rank, float) else str(rank)


def _answers(answers: Sequence[Mapping[str, Any]]) -> Table:
    worst = max((answer["rank"] or 1 for answer in answers), default=1)
    table = Table("rank", "model", "answer", "made by", show_lines=True)
    for answer in answers:
        style = colour(answer["rank"], worst)
        notes = [name for name, on in (("weakened", answer["weakened"]), ("cut", not answer["finished"])) if on]
        table.add_row(
            Text(place(answer["rank"]), style=style),
            terminal("\n".join([answer["model"], *notes])),
            terminal(answer["answer"], style),
            terminal("\n".join(_made_by(answer))),
        )
    return table


def _made_by(answer: Mapping[str, Any]) -> Iterator[str]:
    """The settings of an answer's generator, and its seed or the call that gave it."""
    generator, call = answer.get("generator"), answer.get("call")
    if generator is None:
        yield "came with the prompt's source" if "generator" in answer else "generator not known"
    else:
        yield generator["model"]
        yield f"temperature {generator['temperature']:g}, top-p {generator['top_p']:g}"
        yield f"system: {generator['system'] or 'that of the template'}"
        if generator["examples"]:
            yield f"worked examples: {len(generator['examples'])}"
    yield "finished" if answer["finished"] else "cut by the token cap"
    if answer["num_tokens"]:
        yield f"{answer['num_tokens']:,} tokens"
    if answer.get("seed"):
        yield f"seed {answer['seed']}"
    if call is not None:
        yield f"call {call['key'][:12]} to {call['endpoint']}, sent {_when(call)}, {len(call['attempts'])} attempt(s)"


def _judged(found: Mapping[str, Any]) -> Table:
    rows = {
        "judge": found["judge"],
        "strategy": found.get("strategy"),
        "template hash": found["template_hash"],
        "good-natured": "yes" if found["good_natured"] else "no",
        "pair verdicts upheld": figures.share(found["agreement"]) if found["agreement"] is not None else None,
    }
    table = _grid()
    for name, value in rows.items():
        if value:
            table.add_row(Text(name), terminal(value))
    models = [answer["model"] or f"answer {place}" for place, answer in enumerate(found["answers"], 1)]
    orders = found["orders"]
    if is_by_reward(str(found["judge"])):
        orders = []
        table.add_row(Text("rewards"), terminal(_rewards(found, models)))
    for number, order in enumerate(orders, 1):
        shown = ", ".join(f"{letter} {models[at]}" for letter, at in zip(letters(len(order)), order, strict=True))
        table.add_row(Text(f"shown in order {number}"), terminal(shown))
    for one in found.get("panel", ()):
        table.add_row(terminal(one["judge"]), terminal(_said(one, models)))
    table.add_row(Text("calls"), terminal(_calls_said(found)))
    return table


def _said(member: Mapping[str, Any], models: Sequence[str]) -> str:
    """How a judge of a panel ranked, and in which orders it was shown the answers."""
    if not member["ranks"]:
        return f"could not be read: {member['reason']}"
    ranks = ", ".join(f"{model} {rank:g}" for model, rank in zip(models, member["ranks"], strict=True))
    if is_by_reward(member["judge"]):
        return f"ranks: {ranks}\nrewards: {_rewards(member, models)}"
    orders = (
        ", ".join(f"{letter} {models[at]}" for letter, at in zip(letters(len(order)), order, strict=True))
        for order in member["orders"]
    )
    return "\n".join([f"ranks: {ranks}", *(f"shown in order: {order}" for order in orders)])


def _rewards(said: Mapping[str, Any], models: Sequence[str]) -> str:
    """What a reward model gave each answer, which it read alone."""
    looks = zip(said["orders"], said["marks"], strict=True)
    return ", ".join(f"{models[at]} {reward:.4f}" for (at,), reward in looks)


def _calls_said(found: Mapping[str, Any]) -> str:
    keys, calls = found["call_keys"], found["calls"]
    if not keys:
        return "none in a ledger: no endpoint was asked, or the table is older than this column"
    if not calls:
        return f"{', '.join(key[:12] for key in keys)}: not in a ledger here; show the run to see them"
    lost = len(keys) - len(calls)
    return f"{len(calls)} in calls.sqlite" + (f", {lost} more that it does not hold" if lost else "")


def _call(call: Mapping[str, Any]) -> Table:
    table = _grid()
    tokens = f"{call['prompt_tokens'] or 0:,} in, {call['completion_tokens'] or 0:,} out"
    rows = {
        "key": call["key"],
        "endpoint": call["endpoint"] or "in flight, nothing came back yet",
        "model": call["model"],
        "draw": call["draw"],
        "sent at": _when(call),
        "tokens": tokens if call["reply"] is not None else None,
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(Text(name), terminal(value))
    for number, attempt in enumerate(call["attempts"], 1):
        seconds = None if attempt["ended"] is None else attempt["ended"] - attempt["sent"]
        took = "" if seconds is None else f" after {figures.duration(seconds)}"
        table.add_row(Text(f"attempt {number}"), terminal(f"{attempt['outcome'] or 'in flight'}{took}"))
    table.add_row(Text("reply"), terminal(call["reply"] if call["reply"] is not None else "none"))
    return table


def _when(call: Mapping[str, Any]) -> str:
    attempts = call["attempts"]
    if not attempts:
        return "not known: taken over from another ledger"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(attempts[-1]["sent"]))


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    return table
