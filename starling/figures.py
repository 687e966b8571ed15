"""Numbers as people read them: three significant digits, shares in per cent, intervals with their n."""

import math
from collections.abc import Callable, Mapping
from typing import Any

NOTHING = "n/a"


def number(value: float | None) -> str:
    """A count with thousands marked, any other number with three significant digits: 48,674, 0.562, 46.8."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else _fixed(value, _decimals(value))


def share(value: float | None) -> str:
    """A share of 1 in per cent: 57.3 %."""
    return NOTHING if value is None or math.isnan(value) else f"{_percent(value)} %"


def duration(seconds: float | None) -> str:
    """A time in the two units that matter: 0.7 s, 12 s, 2 min 37 s, 1 h 12 min."""
    if seconds is None or math.isnan(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def rate(per_second: float) -> str:
    """How much is done in the shortest time that sees at least one done: 421/s, 4.2/s, 14/min, 2.5/h."""
    if not per_second > 0:
        return "0/s"
    times = (("s", 1), ("min", 60), ("h", 3600), ("day", 86_400))
    unit, seconds = next((one for one in times if per_second * one[1] >= 1), times[-1])
    value = per_second * seconds
    return f"{value:.1f}/{unit}" if value < 9.95 else f"{value:,.0f}/{unit}"


def pace(done: float, total: float, per_second: float | None) -> str:
    """How fast work goes, and how long it will take: 14/min, about 2 min 37 s left. None before that is known."""
    if not per_second:
        return "just begun"
    return f"{rate(per_second)}, about {duration(max(total - done, 0) / per_second)} left"


def has_interval(score: Mapping[str, Any]) -> bool:
    """Whether the interval says anything: cases that all agree, or all of one family, give one without width."""
    if _is_missing(score.get("low")) or _is_missing(score.get("high")):
        return False
    return bool(score["high"] - score["low"] > 1e-9)


def share_interval(score: Mapping[str, Any]) -> str:
    """57.3 % (52.1 to 62.4), n = 100."""
    return _interval(score, share, _percent)


def number_interval(score: Mapping[str, Any]) -> str:
    """46.8 (44.2 to 49.1), n = 100; all three with as many decimals as the largest needs."""
    if _is_missing(score.get("value")):
        return _interval(score, number, number)
    decimals = min(_decimals(score[end]) for end in ("value", "low", "high") if not _is_missing(score.get(end)))
    return _interval(score, lambda value: _fixed(value, decimals), lambda value: _fixed(value, decimals))


def share_change(score: Mapping[str, Any]) -> str:
    """+5.2 pt (+1.1 to +9.3): percentage points."""
    return _change(score, lambda value: f"{100 * value:+.1f}", " pt")


def number_change(score: Mapping[str, Any]) -> str:
    """-4.8 (-6.9 to -2.7)."""
    if _is_missing(score.get("value")):
        return NOTHING
    decimals = min(_decimals(score[end]) for end in ("value", "low", "high") if not _is_missing(score.get(end)))
    return _change(score, lambda value: f"{value:+,.{decimals}f}", "")


def money(usd: float | None) -> str:
    """Dollars, to the hundredth of a cent: calls can be that cheap."""
    return "price unknown" if usd is None else f"${usd:,.4f}"


def used_of(budget: Mapping[str, Any]) -> str:
    """48,674 of 60,000; 48,674, no limit."""
    allowed = budget["allowed"]
    return f"{number(budget['used'])} of {number(allowed)}" if allowed else f"{number(budget['used'])}, no limit"


FORMATS: Mapping[str, Callable[[Any], str]] = {
    "text": str,
    "number": number,
    "share": share,
    "duration": duration,
    "share_interval": share_interval,
    "number_interval": number_interval,
    "share_change": share_change,
    "number_change": number_change,
    "money": money,
    "used_of": used_of,
}


def _interval(score: Mapping[str, Any], whole: Callable[[float], str], end: Callable[[float], str]) -> str:
    if _is_missing(score.get("value")):
        return "no cases"
    text = whole(score["value"])
    if not _is_missing(score.get("low")):
        text += f" ({end(score['low'])} to {end(score['high'])})" if has_interval(score) else " (no interval)"
    return text + (f", n = {number(score['n'])}" if score.get("n") else "")


def _change(score: Mapping[str, Any], render: Callable[[float], str], unit: str) -> str:
    if _is_missing(score.get("value")):
        return NOTHING
    text = render(score["value"]) + unit
    if _is_missing(score.get("low")):
        return text
    return (
        f"{text} ({render(score['low'])} to {render(score['high'])})"
        if has_interval(score)
        else f"{text} (no interval)"
    )


def _is_missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _percent(value: float) -> str:
    text = f"{100 * value:.1f}"
    return {"0.0": "0", "-0.0": "0", "100.0": "100"}.get(text, text)


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def _decimals(value: float) -> int:
    """How many decimals three significant digits take."""
    rounded = abs(float(f"{value:.3g}"))
    return 0 if rounded >= 100 else min(6, 2 - math.floor(math.log10(rounded))) if rounded else 2
