"""What `starling run` says before it begins and when it is done."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from starling import builtin, digest, figures, progress
from starling.before_after import SIDES, judge_named
from starling.benches import told
from starling.config import PANEL, Config, JudgeTable
from starling.endpoints import judges_of
from starling.errors import ModelError
from starling.judge_settings import NO_MODEL
from starling.judges.llm import calls_of
from starling.store import Run
from starling.texts import terminal
from starling.tune_settings import TuneTable, as_read, is_online

_COLOURS = {"better": "green", "worse": "red"}


def print_plan(config: Config) -> None:
    """What will be done, in derived numbers, with the budgets and the judge."""
    for line in plan(config):
        progress.say(line, "dim" if line.startswith(" ") else "")


def plan(config: Config) -> list[str]:
    """The lines of the plan, one for each stage of the road."""
    prompts, sample, rank, fit = config.prompts, config.sample, config.rank, config.fit
    k = sample.answers or len(sample.generators)
    answers = f"{k} answers" if sample.generators else "their sources' answers"
    weakened = sum(generator.weakened for generator in sample.generators)
    calls = (sample.train_prompts + sample.validation_prompts) * len(sample.generators)
    sampled = calls * sample.max_new_tokens
    steps = fit.epochs * -(-sample.train_prompts // fit.prompts_per_step)
    epochs = f" x {fit.epochs} epochs" if fit.epochs > 1 else ""
    probe = f"; {config.run.model} itself also judges {rank.probe_prompts}, as a probe" if rank.probe_prompts else ""
    who = "the policy starts" if fit.reward_model else "policy and reward model both start"
    return [
        f"model: {config.run.model}, which {who} from",
        f"prompts: {prompts.train} train, {prompts.validation} validation, {prompts.test} test, split by family",
        f"sample: {sample.train_prompts} + {sample.validation_prompts} prompts x {answers} "
        f"({_count(weakened, 'generator')} weakened), {_at_most(sample.token_budget, sampled)}",
        f"rank: by {_judge(config, rank, k)}{probe}",
        f"fit: nothing, {fit.reward_model} is the reward model"
        if fit.reward_model
        else f"fit: {sample.train_prompts} rankings{epochs}, {fit.prompts_per_step} a step, {_count(steps, 'step')}, "
        f"{_at_most(fit.token_budget)}",
        f"tune: {_tuning(as_read(config.tune))}",
        f"  kept: the step whose answers to {prompts.validation} validation prompts {_chooser(config)} likes best, "
        f"in a look {_when(config.tune.validate_every)}",
        f"evaluate: {prompts.test} test prompts x 2 models x {_count(config.evaluate.draws, 'answer')}; "
        f"judge: {_judge(config, config.evaluate, 2)}; "
        f"with validation {_at_most(config.evaluate.token_budget)}",
        *([f"  benchmarks: {_benchmarks(config)}"] if config.evaluate.benchmarks else []),
    ]


def print_summary(run: Run) -> None:
    """The before/after table, what it cost, and where the report is."""
    found = digest.digest(run)
    console = progress.console
    console.print()
    for number, line in enumerate(found["headline"]):
        colour = _COLOURS.get(found["tone"]) if number == 0 else None
        progress.say(line, f"bold {colour}" if colour else "bold" if number == 0 else "")
    if found["result"]:
        console.print(before_after_table(found["result"]))
        console.print(win_rate_table(found["result"]))
        if found["result"]["benchmarks"]:
            console.print(told.table(found["result"]["benchmarks"]))
    console.print(cost_table(found))
    if run.report_path.exists():
        progress.say(f"report: {run.report_path}")


def print_comparison(numbers: Mapping[str, Any]) -> None:
    """What differs between runs, as far as it fits a terminal."""
    for number, line in enumerate([*numbers["headline"], *numbers["notes"]]):
        progress.say(line, "" if number else "bold")
    progress.console.print(comparison_table(numbers))


def comparison_table(numbers: Mapping[str, Any]) -> Table:
    """One row for each run: how its tuned model fares against its base, and what it took."""
    table = _table(
        "tuned against base, ties half, 95 % intervals", "run", "win rate", "held-out checks", "tokens", "KL", "time"
    )
    table.columns[0].overflow = "fold"  # a name is read whole
    for column in table.columns[3:]:
        column.no_wrap = True
    asked = any(run["asked"] for run in numbers["runs"])
    if asked:
        table.add_column("cost")
    for run in numbers["runs"]:
        rates = {rate["key"]: rate | {"n": 0} for rate in run["win_rates"]}
        rows = {row["key"]: row["tuned"] or {} for row in run["table"]}
        told = [figures.share_interval(rates.get(key, {})) for key in ("win_rate", "win_rate_held_out_checks")]
        told += [figures.number(rows.get(key, {}).get("value")) for key in ("tokens", "kl")]
        table.add_row(
            terminal(run["name"]),
            *(told if run["evaluated"] else ("not evaluated", "", "", "")),
            figures.duration(run["seconds"]),
            *([figures.money(run["usd"]) if run["asked"] else ""] if asked else []),
            style=_COLOURS.get(run["tone"]),
        )
    return table


def before_after_table(result: Mapping[str, Any]) -> Table:
    """One row for each figure: base, tuned, and the paired change with its interval; narrow enough for 80 columns."""
    table = _table("before and after", "figure", "base", "tuned", "change (95 % interval)", "n", "")
    table.columns[3].no_wrap = True
    for row in result["table"]:
        bare, change = figures.FORMATS[row["kind"]], figures.FORMATS[f"{row['kind']}_change"]
        says = row["says"] if row["says"] in _COLOURS else ""
        table.add_row(
            terminal(row["label"]),
            *(bare(row[side]["value"]) if row[side] else "" for side in SIDES),
            change(row["change"]) if row["change"] else "",
            figures.number(row["tuned"]["n"]) if row["tuned"] else "",
            says,
            style=_COLOURS.get(says),
        )
    return table


def win_rate_table(result: Mapping[str, Any]) -> Table:
    """The win rates of tuned over base, ties half."""
    table = _table("tuned against base, ties half", "prompts", "win rate (95 % interval)")
    for row in result["win_rates"]:
        table.add_row(terminal(row["label"]), figures.share_interval(row))
    return table


def cost_table(found: Mapping[str, Any]) -> Table:
    """Time of each stage, and tokens used of those allowed."""
    budgets = {part["stage"]: part for part in found["budgets"]}
    table = _table("cost", "stage", "state", "time", "tokens")
    for step in found["road"]:
        part = budgets.get(step["stage"])
        used = f"{figures.used_of(part)} {part['label']}" if part and part["used"] is not None else ""
        table.add_row(step["stage"], step["state"], figures.duration(step["seconds"]), used)
    table.add_section()
    memory = f"peak memory {found['peak_memory_mib'] / 1024:.1f} GiB" if found["peak_memory_mib"] else ""
    table.add_row("in all", "", figures.duration(found["seconds"]), memory)
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(
        *columns,
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _tuning(cfg: TuneTable) -> str:
    """How the policy learns: from ranked answers, from its own, or from those and then these."""
    parts = []
    if cfg.ranked_prompts:
        parts.append(f"{_count(cfg.ranked_epochs, 'pass', 'passes')} over up to {cfg.ranked_prompts} ranked prompts")
    if is_online(cfg.algorithm):
        answers = cfg.prompts_per_step * cfg.rollouts_per_prompt
        updates = cfg.updates_per_step * cfg.epochs_per_step
        limit = f", to the one that reaches {cfg.token_budget:,}" if cfg.token_budget else ""
        parts.append(
            f"{_count(cfg.steps, 'step')} of {cfg.prompts_per_step} prompts x {cfg.rollouts_per_prompt} = {answers} "
            f"answers, {_count(updates, 'update')} each, "
            f"{_at_most(0, cfg.steps * answers * cfg.max_new_tokens)}{limit}"
        )
    return f"{cfg.algorithm}, {', then '.join(parts)}"


def _chooser(config: Config) -> str:
    return "the judge" if config.chooser is config.rank else "evaluate's judge"


def _judge(config: Config, cfg: JudgeTable, answers: int) -> str:
    if cfg.judge == PANEL:
        return f"a panel: {'; '.join(_judge(config, one, answers) for one in judges_of(cfg))}"
    named = judge_named(cfg.judge)
    if cfg.judge in NO_MODEL:
        return named
    elsewhere = cfg.judge.startswith("openai:") or cfg.judge in [endpoint.name for endpoint in config.endpoints]
    if not elsewhere and cfg.judge != builtin.NAME and _is_by_reward(cfg.judge):
        return f"{cfg.judge}, a reward model, which is asked nothing"
    least, most = calls_of(cfg, answers)
    calls = _count(least, "call") if least == most else f"{least} to {most} calls"
    often = f", {calls} a prompt" if answers else ""  # how many answers the sources bring is not known yet
    corrected = ", corrected for place" if cfg.position_corrected else ""
    return f"{named}, asked {cfg.strategy} in {cfg.output}{often}{corrected}"


def _is_by_reward(model: str) -> bool:
    """Whether a MODEL in this process is a reward model; what is no model at all is refused when the stages begin."""
    from starling import models  # loads PyTorch, which a plan with other judges need not wait for

    try:
        return models.is_reward_model(model)
    except ModelError:
        return False


def _benchmarks(config: Config) -> str:
    """Their names, each with its judges."""
    asked = config.evaluate.benchmarks
    return ", ".join(one.title + (f" (judge: {', '.join(one.judge)})" if one.judge else "") for one in asked)


def _when(every: int) -> str:
    """When looks come."""
    return f"every {_count(every, 'step')}" if every else "at each quarter of the way"


def _count(number: int, noun: str, several: str = "") -> str:
    return f"{number} {noun if number == 1 else several or noun + 's'}"


def _at_most(budget: int, worst: int | None = None) -> str:
    """The bound that binds: the budget, or what the settings can use at the very most."""
    bounds = [bound for bound in (budget, worst) if bound]
    return f"<= {min(bounds):,} tokens" if bounds else "no token limit"
