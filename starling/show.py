"""Reads any table, a stage or a run for a person; one prompt id shows that prompt's whole road."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from starling import data_files, digest, figures, lineage, progress, show_row, sources, summary, tables
from starling.before_after import SIDES, outcome
from starling.errors import DataError
from starling.records import Ranking
from starling.store import Run, is_run
from starling.texts import terminal

_IDS = ("prompt_id", "id")


def show(source: Path, count: int, row: str) -> None:
    """Print the first `count` rows of a table, the state of a run, or all rows of the prompt `row` in road order."""
    if is_run(source):
        run = Run.read(source)
        _print_road_of(run, row) if row else _print_run(run)
        return
    if (facts := _stage_facts(source)) is not None:
        progress.show(Panel(_fields(facts), title=Text(source.name), title_align="left"))
        return
    rows = _rows(source)
    chosen = _named(rows, row) if row else rows
    if row and not chosen:
        raise DataError(
            f"show: no row of {source} has the prompt id {row!r}; the first is "
            f"{(_id(rows[0]) or 'without an id: give its number, 1') if rows else 'missing'}"
        )
    for number, one in enumerate(chosen[:count] if not row else chosen, 1):
        if row and _are_ranked(one.get("answers")):
            _print_row(source, tables.ranking_from_row(one, f"{source}:{number}"))
        else:
            progress.show(Panel(_fields(one), title=terminal(_id(one)), title_align="left"))
    progress.show(
        Text(f"{min(count, len(chosen)) if not row else len(chosen):,} of {len(rows):,} rows of {source}", style="dim")
    )


def shown(source: Path, count: int, row: str) -> Any:
    """The same for programs: a run's manifest or its lineage of one prompt, a stage's facts, or rows of a table."""
    if is_run(source):
        run = Run.read(source)
        return lineage.of_prompt(run, row) if row else run.manifest
    if (facts := _stage_facts(source)) is not None:
        return facts
    rows = _rows(source)
    return _named(rows, row) if row else rows[:count]


def _named(rows: Sequence[dict[str, Any]], row: str) -> list[dict[str, Any]]:
    """The rows of this id; where no row has an id, the row of this number, counted from 1."""
    if any(_id(one) for one in rows):
        return [one for one in rows if row in map(str, _ids(one))]
    return [rows[int(row) - 1]] if row.isdecimal() and 1 <= int(row) <= len(rows) else []


def _rows(source: Path) -> list[dict[str, Any]]:
    """The rows of a file, or of a stage's folder: its test prompts, else its Parquet shards, else its JSON lines."""
    if source.is_dir():
        cases = source / "cases.jsonl"
        files = [cases] if cases.exists() else [] if any(source.glob("*.parquet")) else sorted(source.glob("*.jsonl"))
        if files:
            return [row for file in files for row in data_files.read_rows(file)]
    return [row for _where, row in sources.table_rows(str(source))]


def _stage_facts(source: Path) -> Mapping[str, Any] | None:
    """The facts of a stage that keeps no table; None where `source` is no such folder."""
    if source.name not in digest.STAGES or not is_run(source.parent):
        return None
    if any(source.glob("*.parquet")) or any(source.glob("*.jsonl")):
        return None
    return Run.read(source.parent).facts(source.name)


def _print_run(run: Run) -> None:
    found = digest.digest(run)
    progress.show(Text(f"run {run.root}", style="bold"))
    for line in found["headline"]:
        progress.show(terminal(line))
    progress.show(summary.cost_table(found))
    counts = Table("stage", "counted", title="main facts", title_justify="left")
    for step in found["road"]:
        counted = [f"{count['label']} {figures.number(count['value'])}" for count in step["counts"]]
        if step["stage"] == "rank" and found["judge"]:
            counted.append(f"judge {found['judge']['judge_named']}")
        if step["stage"] == "fit":
            counted += [f"{line['label'].lower()} {figures.share_interval(line)}" for line in found["fit"]["held_out"]]
        if counted:
            counts.add_row(step["stage"], terminal("\n".join(counted)), end_section=True)
    if counts.row_count:
        progress.show(counts)
    if found["result"]:
        progress.show(summary.win_rate_table(found["result"]))


def _print_road_of(run: Run, prompt_id: str) -> None:
    """A prompt, its answers with their ranks, and how base and tuned policy answered it, as far as they are there."""
    prompts = {prompt.id: prompt for prompt in tables.prompts_of(run, "train", "validation", "test")}
    if prompt_id not in prompts:
        first = next(iter(prompts), "missing")
        raise DataError(f"show: there is no prompt {prompt_id!r} in {run.root}; the first is {first!r}")
    prompt = prompts[prompt_id]
    progress.show(Panel(_fields(tables.prompt_row(prompt)), title=Text(f"prompts: {prompt_id}"), title_align="left"))
    ranked = lineage.of_prompt(run, prompt_id)
    for found in ranked:
        _print_all(show_row.panels(found))
    if not ranked:
        sampled = [row for row in _read(run, "sample") if row["prompt_id"] == prompt_id]
        if sampled:
            progress.show(Panel(_answers(sampled, "draw"), title=Text("sample: not ranked"), title_align="left"))
    unranked = sorted((run.root / "unranked").glob("*.jsonl"))
    for row in (row for shard in unranked for row in data_files.read_rows(shard)):
        if row["prompt_id"] == prompt_id:
            progress.show(Panel(_fields(row), title=Text("rank: no readable ranking"), title_align="left"))
            _print_all(show_row.calls(lineage.calls_of(run, row.get("calls") or ())))
    cases = digest.read_cases(run) if run.is_done("evaluate") else []
    for case in cases:
        if case["prompt_id"] == prompt_id:
            said = Text(f"evaluate: tuned is {outcome(case['verdict'])}")
            progress.show(Panel(_case(case), title=said, title_align="left"))
    if not ranked and prompt.split != "test":
        progress.show(Text(f"this {prompt.split} prompt was not ranked; tune may use it all the same", style="dim"))
    if prompt.split == "test" and not cases:
        progress.show(Text("a test prompt: it is answered when evaluate runs", style="dim"))


def _print_row(source: Path, ranking: Ranking) -> None:
    """A ranking of a table, with its whole lineage where the table still stands in its run."""
    run = lineage.run_of(source)
    asked = Group(*(terminal(f"{message['role']}: {message['content']}") for message in ranking.messages))
    progress.show(Panel(asked, title=terminal(ranking.prompt_id), title_align="left"))
    _print_all(show_row.panels(lineage.explain_alone(ranking) if run is None else lineage.explain(run, ranking)))


def _print_all(panels: Iterable[RenderableType]) -> None:
    for panel in panels:
        progress.show(panel)


def _read(run: Run, stage: str) -> list[dict[str, Any]]:
    folder = run.root / stage
    return data_files.read_rows(folder) if any(folder.glob("*.parquet")) else []


def _answers(rows: Sequence[Mapping[str, Any]], number: str) -> Table:
    """Answers one under the other, each with its rank or draw and who gave it."""
    table = Table(number, "model", "answer", show_lines=True)
    worst = max((row[number] or 1 for row in rows), default=1)
    for row in rows:
        notes = [name for name, on in (("weakened", row.get("weakened")), ("cut", row.get("finished") is False)) if on]
        model = terminal("\n".join([str(row.get("model") or ""), *notes]))
        place = row[number]
        said = Text(str(place))
        if number == "rank":
            said = Text(show_row.place(place), style=show_row.colour(place, worst))
        table.add_row(said, model, terminal(row["answer"]))
    return table


def _case(case: Mapping[str, Any]) -> Group:
    answers = Table(*SIDES, show_lines=True)
    answers.add_row(*(terminal(case[side]["answer"]) for side in SIDES))
    found = Table("aspect", *SIDES)
    for name in ("score", "held_out", "reward", "tokens"):
        found.add_row(name, *(figures.number(case[side][name]) for side in SIDES))
    for aspect in sorted({aspect for side in SIDES for aspect in case[side]["aspects"]}):
        found.add_row(aspect, *(figures.number(case[side]["aspects"].get(aspect)) for side in SIDES))
    return Group(answers, found)


def _fields(row: Mapping[str, Any]) -> Table:
    """Names and values of a row; conversations and answers one under the other."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for name, value in row.items():
        if value is None or value == "" or value == []:
            continue
        table.add_row(terminal(name), _value(value))
    return table


def _value(value: Any) -> RenderableType:
    if isinstance(value, Mapping):
        return _fields(value)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        if all(set(item) == {"role", "content"} for item in value):
            return Group(*(terminal(f"{item['role']}: {item['content']}") for item in value))
        if all("answer" in item for item in value) and _are_ranked(value):
            return _answers(value, "rank")
        return Group(*(_fields(item) for item in value))
    return terminal(f"{value:,.6g}" if isinstance(value, float) else str(value))


def _id(row: Mapping[str, Any]) -> str:
    return next((str(one) for one in _ids(row) if one), "")


def _ids(row: Mapping[str, Any]) -> list[Any]:
    """The names of a row; an export to verl keeps its prompt's id one level down."""
    deeper = row.get("extra_info")
    return [place.get(name) for place in (row, deeper) if isinstance(place, Mapping) for name in _IDS]


def _are_ranked(answers: Any) -> bool:
    """Whether this is a list of answers with a rank each, of which one at least is known."""
    if not isinstance(answers, list) or not all(isinstance(answer, Mapping) for answer in answers):
        return False
    ranks = [answer.get("rank", "none") for answer in answers]
    return any(ranks) and all(isinstance(rank, int | float | None) for rank in ranks)
