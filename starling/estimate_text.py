"""`--estimate` on a terminal."""

from typing import Any

from starling import figures


def lines(found: dict[str, Any]) -> list[str]:
    """The estimate for people."""
    free = [f"{one['stage']}: judge {one['judge']} runs in this process: 0 calls" for one in found["free"]]
    if not found["stages"]:
        return [*free, "cost: no stage that is left asks an endpoint; nothing is spent"]
    told = [
        f"{part['stage']}: {part['endpoint']}: {_span(part['calls'])} calls"
        + (f" ({part['on_file']:,} more are on file)" if part["on_file"] else "")
        + f", {_span(part['prompt_tokens'])} tokens in, {_span(part['completion_tokens'])} out, {_took(part)}"
        for part in found["stages"]
    ]
    told += free
    more = " and what is unknown" if found["unknown"] else ""
    total = f"cost: {_money(found['usd'])}{more}, about {figures.duration(found['seconds'])} of calls"
    if found["spent_usd"]:
        total += f"; ${found['spent_usd']:,.4f} is spent already"
    told.append(total)
    if budget := found["budget_usd"]:
        left = max(0.0, budget - found["spent_usd"])
        most = None if found["unknown"] else found["usd"]["at_most"]
        enough = (
            "" if most is None else ": enough" if most <= left else ": may stop the run, which then goes on with more"
        )
        told.append(f"budget: ${budget:,.2f} (run.budget_usd), ${left:,.4f} left{enough}")
    told += [f"unknown: {line}" for line in found["unknown"]]
    return told + [f"  assumed: {line}" for line in found["assumptions"]]


def _took(part: dict[str, Any]) -> str:
    if part["in_this_process"]:
        return "in this process, whose time is not estimated"
    return f"{_money(part['usd'])}, about {figures.duration(part['seconds'])}"


def _span(numbers: dict[str, float]) -> str:
    low, high = numbers["expected"], numbers["at_most"]
    return f"{low:,}" if low == high else f"{low:,} (at most {high:,})"


def _money(usd: dict[str, float] | None) -> str:
    return "price unknown" if usd is None else f"${usd['expected']:,.2f} (at most ${usd['at_most']:,.2f})"
