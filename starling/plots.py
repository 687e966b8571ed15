"""The plots of the pages. Each says what it shows in one sentence with its figures, for those who cannot see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from starling import figures, texts
from starling.svg import BAD, BASE, GOOD, MUTED, TUNED, Plot, plot

_HEADING = 0.8  # of a row's height


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or cloud of points of a curve."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = TUNED
    points: bool = False


def forest(name: str, title: str, rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Shares with their intervals, one under the other, against the 50 % line; above it is good.

    Rows of one `group` stand together below its name.
    """
    known = [row for row in rows if row.get("value") is not None]
    groups = {
        group: "; ".join(f"{row['label']} {figures.share_interval(row)}" for row in own)
        for group, own in groupby(known, lambda row: row.get("group", ""))
    }
    values = ". ".join(f"{group}: {values}" if group else values for group, values in groups.items())
    summary = f"{title}: {values}." if known else f"{title}: no cases."
    places, headings = _places(known)
    lines = places[-1] + 1 if places else 1

    def draw(axes: Axes) -> None:
        low = min([0.5, *(_end(row, "low") for row in known)])
        high = max([0.5, *(_end(row, "high") for row in known)])
        margin = 0.08 * (high - low or 1)
        axes.set_xlim(max(0.0, low - margin) - 0.005, min(1.0, high + margin) + 0.005)
        axes.set_ylim(lines - 0.25, -0.75)
        axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        frame = axes.get_yaxis_transform()
        for place, heading in headings:
            axes.text(0.0, place - 0.1, texts.visible(heading), transform=frame, va="bottom", ha="left", weight="bold")
        for place, row in zip(places, known, strict=True):
            ends = _end(row, "low"), _end(row, "high")
            colour = _good_or_bad(row)
            axes.plot(ends, (place, place), color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot([row["value"]], [place], "o", color=colour, markersize=5.5)
            axes.text(0.0, place - 0.25, _short(row["label"]), transform=frame, va="bottom", ha="left")
            said = figures.share_interval(row)
            axes.text(1.0, place - 0.25, said, transform=frame, va="bottom", ha="right", color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.grid(axis="y", visible=False)
        axes.tick_params(left=False, labelleft=False)
        axes.spines["left"].set_visible(False)

    return plot(name, title, summary, 0.5 + 0.44 * lines, draw)


def _places(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where each row stands, from the top, and the names of groups, which take most of a line."""
    places: list[float] = []
    headings: list[tuple[float, str]] = []
    place, group = 0.0, ""
    for row in rows:
        if row.get("group", "") != group:
            group = row["group"]
            headings.append((place, group))
            place += _HEADING
        places.append(place)
        place += 1
    return places, headings


def curve(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    kept: float | None = None,
    unit: str = "",
    level: float | None = None,
) -> Plot:
    """Figures against the step; the step whose weights were kept is marked, and a level to compare with."""
    known = [line for line in series if line.x]
    render = figures.share if unit == "%" else figures.number
    said = "; ".join(
        f"{line.label} from {render(line.y[0])} at step {line.x[0]:g} to {render(line.y[-1])} at step {line.x[-1]:g}"
        for line in known
    )
    summary = f"{title}: {said or 'nothing measured yet'}." + (f" Step {kept:g} was kept." if kept is not None else "")

    def draw(axes: Axes) -> None:
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        if kept is not None:
            axes.axvline(kept, color=GOOD, linewidth=1.4, linestyle=(0, (2, 2)))
            offset, side = ((-3, -9), "right") if kept > 1 else ((3, -9), "left")
            frame = axes.get_xaxis_transform()
            axes.annotate(
                "kept", (kept, 1), xycoords=frame, xytext=offset, textcoords="offset points", color=GOOD, ha=side
            )
        for line in known:
            style = {"marker": "o", "markersize": 5} if line.points else {"linewidth": 1.7}
            axes.plot(line.x, line.y, color=line.colour, label=line.label, **style)
        _steps(axes)
        if unit == "%":
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        if len(known) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(known), borderaxespad=0.1)

    return plot(name, title, summary, 2.0, draw)


def reward_against_kl(
    name: str,
    title: str,
    *,
    kl: Sequence[float],
    reward: Sequence[float],
    steps: Sequence[int],
    kept: int | None,
    looks: Sequence[Mapping[str, Any]] = (),
) -> Plot:
    """The path of tuning: what reward was had for how much distance from the base.

    On an axis of its own what the judge said at each look (`step`, `kl`, `win_rate` with `low` and `high`, and whether
    they had `parted`): where the one goes up and the other down, the reward is optimised past what it stands for. The
    step that was `kept` is marked there, since a step's rollouts are of the policy before it.
    """
    summary = f"{title}: nothing measured yet."
    if steps:
        summary = (
            f"{title}: from reward {figures.number(reward[0])} at KL {figures.number(kl[0])} (step {steps[0]}) to "
            f"reward {figures.number(reward[-1])} at KL {figures.number(kl[-1])} (step {steps[-1]})."
        )

    if looks:
        first, last = looks[0], looks[-1]
        summary += (
            f" The judge's win rate went from {figures.share(first['win_rate'])} at KL {figures.number(first['kl'])} "
            f"to {figures.share(last['win_rate'])} at KL {figures.number(last['kl'])} (step {last['step']})."
        )
        parted = [str(look["step"]) for look in looks if look["parted"]]
        summary += f" Reward and judge had parted at steps {', '.join(parted)}." if parted else ""

    def draw(axes: Axes) -> None:
        if looks:
            _draw_looks(axes, looks, kept)
        axes.plot(kl, reward, color=TUNED, linewidth=1.1, marker="o", markersize=4, label="reward")
        for step, x, y in list(zip(steps, kl, reward, strict=True))[:: max(len(steps) - 1, 1)]:
            axes.annotate(f"{step}", (x, y), xytext=(4, -10), textcoords="offset points", color=MUTED)
        axes.set_xlabel("KL to the base, nats an answer")
        axes.set_ylabel("reward, in spreads")
        axes.margins(x=0.1, y=0.12)

    return plot(name, title, summary, 2.7, draw)


def _draw_looks(axes: Axes, looks: Sequence[Mapping[str, Any]], kept: int | None) -> None:
    """The judge's win rate with its interval over the same KL, against an axis on the right; red where they parted."""
    right: Any = axes.twinx()
    right.spines["right"].set_visible(True)
    right.grid(visible=False)
    for look in looks:
        colour = BAD if look["parted"] else BASE
        right.plot((look["kl"], look["kl"]), (_end(look, "low"), _end(look, "high")), color=colour, linewidth=1)
        where = look["kl"], look["win_rate"]
        right.plot(*([value] for value in where), "s", color=colour, markersize=4)
        if look["step"] == kept:
            right.plot(
                *([value] for value in where), "o", color=GOOD, markersize=10, fillstyle="none", markeredgewidth=1.8
            )
            text = f"step {kept}, kept"
            right.annotate(text, where, xytext=(8, 6), textcoords="offset points", color=GOOD)
    right.plot([look["kl"] for look in looks], [look["win_rate"] for look in looks], color=BASE, linewidth=0.8)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    right.set_ylabel("judge's win rate (squares)")


def reliability(name: str, title: str, points: Sequence[Mapping[str, Any]], error: float | None) -> Plot:
    """How often the better answer is where the reward model says so, against how sure it says it is."""
    said = "; ".join(f"stated {figures.share(p['stated'])}, observed {figures.share(p['observed'])}" for p in points)
    summary = f"{title}: {said or 'nothing measured yet'}. Expected calibration error {figures.number(error)}."

    def draw(axes: Axes) -> None:
        axes.plot((0, 1), (0, 1), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot([p["stated"] for p in points], [p["observed"] for p in points], color=TUNED, linewidth=1.1)
        most = max((p["n"] for p in points), default=1)
        for point in points:
            axes.plot(
                [point["stated"]], [point["observed"]], "o", color=TUNED, markersize=3 + 7 * (point["n"] / most) ** 0.5
            )
        percent = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(percent)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="stated: the one answer is better", ylabel="observed")

    return plot(name, title, summary, 2.7, draw)


def mean_ranks(name: str, title: str, rows: Sequence[Mapping[str, Any]]) -> Plot:
    """The mean rank of every generator, best on top; the deliberately weakened ones are hollow."""
    labels = [f"{row['model']}{' (weakened)' if row['weakened'] else ''}" for row in rows]
    said = "; ".join(f"{label} {figures.number(float(row['rank']))}" for label, row in zip(labels, rows, strict=True))
    summary = f"{title}, 1 is best: {said}."

    def draw(axes: Axes) -> None:
        frame = axes.get_yaxis_transform()
        for place, (label, row) in enumerate(zip(labels, rows, strict=True)):
            colour, fill = (BASE, "none") if row["weakened"] else (TUNED, "full")
            rank = float(row["rank"])
            axes.plot((1, rank), (place, place), color=colour, linewidth=3, alpha=0.45, solid_capstyle="butt")
            axes.plot([rank], [place], "o", color=colour, markersize=6, fillstyle=fill)
            axes.text(0.0, place - 0.28, _short(label), transform=frame, va="bottom")
            axes.text(1.0, place - 0.28, figures.number(rank), transform=frame, va="bottom", ha="right", color=MUTED)
        axes.set_xlim(0.9, max([2.0, *(row["rank"] for row in rows)]) + 0.2)
        axes.set_ylim(len(rows) - 0.4, -0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", visible=False)
        axes.tick_params(left=False, labelleft=False)
        axes.spines["left"].set_visible(False)

    return plot(name, title, summary, 0.5 + 0.38 * max(len(rows), 1), draw)


def by_place(name: str, title: str, scores: Sequence[Mapping[str, Any]], *, even: float, unit: str = "") -> Plot:
    """A figure with its interval for each place at which an answer was shown, against its level without any effect."""
    render = figures.share if unit == "%" else figures.number
    said = "; ".join(f"place {place} {render(score['value'])}" for place, score in enumerate(scores, 1))
    summary = f"{title}: {said}. Without any effect of place {render(even)}."

    def draw(axes: Axes) -> None:
        axes.axhline(even, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for place, score in enumerate(scores, 1):
            ends = _end(score, "low"), _end(score, "high")
            colour = MUTED if ends[0] <= even <= ends[1] else BASE
            axes.plot((place, place), ends, color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot([place], [score["value"]], "o", color=colour, markersize=5.5)
        axes.set_xlabel("place at which the answer was shown")
        axes.set_xlim(0.5, len(scores) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(len(scores), integer=True))
        if unit == "%":
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
            axes.set_ylim(bottom=0)
        else:
            axes.invert_yaxis()  # rank 1 is best
        axes.grid(axis="x", visible=False)

    return plot(name, title, summary, 2.5, draw)


def _steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _short(label: str, most: int = 26) -> str:
    """A label that leaves room for the figures beside it; the plot's sentence has it whole."""
    label = texts.visible(label)
    return label if len(label) <= most else label[: most - 3] + "..."


def _good_or_bad(row: Mapping[str, Any]) -> str:
    """Green or red where the whole interval is on one side of 50 %; a baseline is neither."""
    if row.get("baseline") or not figures.has_interval(row):
        return MUTED
    return GOOD if row["low"] > 0.5 else BAD if row["high"] < 0.5 else MUTED


def _end(row: Mapping[str, Any], end: str) -> float:
    return float(row["value"] if row.get(end) is None else row[end])
