"""What the arena's page shows, as HTML in which every text of a person or a model is plain text."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from starling import texts
from starling.benches.arena import interval, said
from starling.records import Message
from starling.votes import Winner

VERDICTS: Mapping[Winner, str] = {
    "model_a": "A is better", "tie": "Both are as good", "tie (bothbad)": "Neither is good", "model_b": "B is better",
}  # fmt: skip


def plain(text: object) -> str:
    """Text as HTML that means nothing but itself; braces and dollars too, for a page that knows templates."""
    shown = escape(texts.visible(str(text)))
    return shown.replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;")


def panel(side: str, messages: Sequence[Message], *, name: str = "", won: bool = False, waiting: bool = False) -> str:
    """One model's conversation under A or B; `name` is the model's once it may be known."""
    heading = f"<h2>{side}{f' <span>{plain(name)}</span>' if name else ''}{' <b>your choice</b>' if won else ''}</h2>"
    said = "".join(f'<div class="said {plain(m["role"])}">{plain(m["content"])}</div>' for m in messages)
    if waiting:
        said += '<div class="said assistant wait" role="status">writing ...</div>'
    empty = "" if said else '<p class="quiet">Both models get the same message.</p>'
    return f'<section class="panel{" won" if won else ""}" aria-label="Model {side}">{heading}{said}{empty}</section>'


def notice(text: str, *, problem: bool = False) -> str:
    """One line on what to do now, or on what went wrong."""
    return f'<p class="{"problem" if problem else "notice"}" role="status">{plain(text)}</p>'


def ratings(result: Mapping[str, Any]) -> str:
    """The table of ratings with their intervals, and in words what the votes allow one to say."""
    votes = f"{result['votes']:,} vote{'' if result['votes'] == 1 else 's'}"
    if not result["ratings"]:
        reason = str(result["reason"])
        told = f"{votes} so far. {reason[:1].upper()}{reason[1:]}."
        return f'<div class="ratings"><h2>Ratings</h2><p class="quiet">{plain(told)}</p></div>'
    rows = "".join(
        f"<tr><th scope='row'>{plain(row['model'])}</th><td>{plain(interval(row))}</td>"
        f"<td>{plain(interval(row['at_equal_length']))}</td><td>{row['n']:,}</td><td>{row['wins']:,}</td>"
        f"<td>{row['ties']:,}</td></tr>"
        for row in result["ratings"]
    )
    rows += "".join(
        f"<tr><th scope='row'>{plain(row['model'])}</th><td colspan='2'>{plain(row['reason'])}</td>"
        f"<td>{row['n']:,}</td><td>{row['wins']:,}</td><td>{row['ties']:,}</td></tr>"
        for row in result["not_rated"]
    )
    heads = ("model", "rating (95 % interval)", "at equal length", "votes", "won", "tied")
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    return (
        f'<div class="ratings"><h2>Ratings by {votes}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="quiet">{plain(" ".join(said(result)))}</p></div>'
    )
