"""`--estimate`: the calls, tokens, money and time that a run's endpoints will take, before anything is spent.

Nothing here is exact: every assumption is in the result, and what cannot be known is named.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from starling import choice, endpoints, ledger, schedule, spending, streams, tables
from starling.agreeing import asked_anew, stages_that_agree
from starling.client import CHARACTERS_PER_TOKEN, FEWEST_CHARACTERS_PER_TOKEN, SHARE_OF_CAP
from starling.config import Config, JudgeTable
from starling.endpoints import Endpoint
from starling.judges.asking import template_text
from starling.judges.llm import calls_of
from starling.ledger import Spent
from starling.records import SPLITS
from starling.store import Run, is_run
from starling.tune_settings import as_read

STAGES = ("sample", "rank", "tune", "evaluate")
PROMPT_CHARACTERS = 400  # of a prompt that has not been read yet
BORDER_CHARACTERS = 60  # around each answer that a judge is shown, and around the conversation
PAIR_CHARACTERS = 8  # of each pair that the K-wise template names
PAIR_TOKENS = 6  # what a judge writes for each pair of answers
RANKING_TOKENS = 40  # and for all else
SHOWN = {"pairwise": 2, "pointwise": 1}  # answers in a call, where it is not all
UNREAD_ANSWERS = 7  # of a prompt whose source has not been read yet, where there are no generators
SECONDS_BEFORE_TEXT = 1.0
TOKENS_PER_SECOND = 50.0
PROMPTS_LOOKED_AT = 2000

Range = tuple[float, float]  # as expected, and at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one stage asks of one endpoint: calls in all, and characters in and tokens out of one of them."""

    stage: str
    endpoint: Endpoint
    calls: Range
    characters_in: Range
    tokens_out: Range


def estimate(
    config: Config, root: Path, stages: Sequence[str] = STAGES, *, taken_from: Path | None = None
) -> dict[str, Any]:
    """The stages' calls to endpoints, less those that the run in `root` has on file; and their sums.

    `taken_from` is the run from which one that is begun in `root` would take over what agrees; what it spent is not
    this one's, and which of its replies fit what does not agree is not known.
    """
    own = is_run(root)
    found_in = root if own else taken_from
    run = _standing(Run.read(found_in), config) if found_in else None
    spent = ledger.read_spent(run.ledger_path) if run and own else []
    prompt_characters = _prompt_characters(run)
    assumptions = [
        f"a token is {CHARACTERS_PER_TOKEN} characters, at the most expensive {FEWEST_CHARACTERS_PER_TOKEN}",
        f"a call takes {SECONDS_BEFORE_TEXT:g} s and {TOKENS_PER_SECOND:g} tokens a second, until calls were seen",
        f"an answer takes {SHARE_OF_CAP:.0%} of its token cap, until replies were seen; a border round what a judge is "
        f"shown {BORDER_CHARACTERS} characters",
        f"a judge's reply takes {RANKING_TOKENS} tokens, and K-wise {PAIR_TOKENS} more for each pair of answers",
    ]
    if prompt_characters is None:
        assumptions.append(f"a prompt has {PROMPT_CHARACTERS} characters, since none are read yet (`starling prompts`)")
        if not config.sample.generators:
            assumptions.append(f"a prompt brings {UNREAD_ANSWERS} answers")
    done = [stage for stage in stages if run and run.is_done(stage)]
    left = [stage for stage in stages if stage not in done]
    parts = [
        part
        for stage in left
        for part in _parts(config, run, stage, prompt_characters or (PROMPT_CHARACTERS, PROMPT_CHARACTERS * 2.0))
    ]
    found = [
        _estimated(part, [s for s in spent if (s.stage, s.name) == (part.stage, part.endpoint.name)]) for part in parts
    ]
    if config.evaluate.benchmarks and "evaluate" in stages and "evaluate" not in done:
        asked, assumed = _benchmarks(config, found_in or root)
        found += asked
        assumptions.append(assumed)
    unknown = [
        f"the price of {part['endpoint']}: give price_in and price_out in [[endpoints]]"
        for part in found
        if part["usd"] is None
    ]
    return {
        "stages": found,
        "free": [
            {"stage": stage, "judge": judge} for stage in left for judge in endpoints.local_judges(config, [stage])
        ],
        "usd": _sum([part["usd"] for part in found]),
        "seconds": sum(part["seconds"] for part in found),
        "spent_usd": spending.usd_of(config, spent),
        "budget_usd": config.run.budget_usd,
        "assumptions": [*assumptions, f"shipped prices are of {endpoints.prices_as_of()}; check your provider"],
        "unknown": list(dict.fromkeys(unknown)),
    }


def _standing(run: Run, config: Config) -> Run:
    """The run as these settings leave it: with the stages that agree with them."""
    agreeing = set(stages_that_agree(config, run.config)) - set(asked_anew(run.config, config))
    stages = {stage: entry for stage, entry in run.manifest["stages"].items() if stage in agreeing}
    return Run(run.root, config, run.manifest | {"stages": stages})


def _benchmarks(config: Config, root: Path) -> tuple[list[dict[str, Any]], str]:
    """What the benchmarks ask of models behind a URL and in this process, as `_estimated` has it; what is assumed."""
    from starling import run_benchmarks  # loads PyTorch, which no other estimate needs

    found = []
    for part in run_benchmarks.expected(config, root):
        seconds = SECONDS_BEFORE_TEXT * part["calls"] + part["completion_tokens"]["expected"] / TOKENS_PER_SECOND
        found.append(
            {
                "stage": f"evaluate, {part['benchmark']} {part['purpose']}",
                "endpoint": part["model"],
                "model": part["model"],
                "calls": {"expected": part["calls"], "at_most": part["calls"]},
                "on_file": part["on_file"],
                "prompt_tokens": part["prompt_tokens"],
                "completion_tokens": part["completion_tokens"],
                "usd": part["usd"],
                "seconds": round(seconds / part["concurrency"], 1) if part["concurrency"] else 0.0,
                "in_this_process": part["in_this_process"],
            }
        )
    return found, run_benchmarks.ASSUMED


def _parts(config: Config, run: Run | None, stage: str, prompt: Range) -> list[Part]:
    """What a stage asks of each of its endpoints."""
    if stage == "sample":
        return _sample_parts(config, run, prompt)
    asked = endpoints.judging(config)[stage]
    judges = [(one, endpoint) for one, endpoint in endpoints.of_judges(config, asked) if endpoint]
    if not judges:
        return []
    kinds: list[tuple[Mapping[int, int], int]]  # so many prompts with so many answers each, and the cap of an answer
    if stage == "rank":
        kinds = [(_answers(config, run), config.sample.max_new_tokens)]
    elif stage == "tune":
        kinds = _tune_kinds(config)
    else:
        kinds = [({2: config.prompts.test * config.evaluate.draws}, config.evaluate.answer_tokens)]
    several = [({k: n for k, n in prompts.items() if k > 1}, cap) for prompts, cap in kinds]
    return _of_one_endpoint(
        [
            _judging(stage, endpoint, one, prompts, (prompt, cap))
            for one, endpoint in judges
            for prompts, cap in several
            if prompts
        ]
    )


def _tune_kinds(config: Config) -> list[tuple[Mapping[int, int], int]]:
    """Looks, of which the first needs no judge, and where the judge rewards fresh answers; the ranked ones it knows."""
    tune = as_read(config.tune)
    steps = tune.steps + tune.ranked_epochs * -(-tune.ranked_prompts // tune.prompts_per_step)
    looks = schedule.num_looks(tune.validate_every, steps)
    looked_at = looks * config.prompts.validation * tune.validation_draws
    kinds: list[tuple[Mapping[int, int], int]] = [({2: looked_at}, config.evaluate.answer_tokens)]
    if tune.steps and any(reward.name == "judge" for reward in tune.rewards):
        kinds.append(({tune.rollouts_per_prompt: tune.steps * tune.prompts_per_step}, tune.max_new_tokens))
    return kinds


def _of_one_endpoint(parts: Sequence[Part]) -> list[Part]:
    """The parts with those of one endpoint, which a panel asks in several ways, as one."""
    found: dict[str, Part] = {}
    for part in parts:
        before = found.get(part.endpoint.name)
        found[part.endpoint.name] = part if before is None else _sum_of(before, part)
    return list(found.values())


def _sum_of(one: Part, other: Part) -> Part:
    calls = one.calls[0] + other.calls[0]

    def mean(of_one: Range, of_other: Range) -> Range:
        expected = (one.calls[0] * of_one[0] + other.calls[0] * of_other[0]) / max(1, calls)
        return expected, max(of_one[1], of_other[1])

    return replace(
        one,
        calls=(calls, one.calls[1] + other.calls[1]),
        characters_in=mean(one.characters_in, other.characters_in),
        tokens_out=mean(one.tokens_out, other.tokens_out),
    )


def _judging(
    stage: str, endpoint: Endpoint, asked: JudgeTable, prompts: Mapping[int, int], shown: tuple[Range, int]
) -> Part:
    """The calls about so many prompts with so many answers each; `shown` are a prompt's length and an answer's cap."""
    (characters, longest), cap = shown
    calls = [sum(calls_of(asked, k)[most] * n for k, n in prompts.items()) for most in (0, 1)]
    a_call = {k: SHOWN.get(asked.strategy, k) for k in prompts}
    at_once = sum(calls_of(asked, k)[0] * n * a_call[k] for k, n in prompts.items()) / max(1, calls[0])
    pairs = sum(calls_of(asked, k)[0] * n * k * (k - 1) / 2 for k, n in prompts.items()) / max(1, calls[0])
    if asked.strategy != "kwise":
        pairs = 0
    written = RANKING_TOKENS + PAIR_TOKENS * pairs
    answers, most_shown = cap * CHARACTERS_PER_TOKEN, max(a_call.values(), default=0)
    frame = len(template_text(asked.strategy, asked.output)) + PAIR_CHARACTERS * pairs
    return Part(
        stage=stage,
        endpoint=endpoint,
        calls=(calls[0], calls[1] * asked.attempts),
        characters_in=(
            frame + characters + BORDER_CHARACTERS * (1 + at_once) + SHARE_OF_CAP * answers * at_once,
            frame + longest + BORDER_CHARACTERS * (1 + most_shown) + answers * most_shown,
        ),
        tokens_out=(min(asked.max_new_tokens, written), asked.max_new_tokens),
    )


def _sample_parts(config: Config, run: Run | None, prompt: Range) -> list[Part]:
    cfg, found = config.sample, endpoints.of_generators(config)
    asked: Counter[int] = Counter()
    for brought, prompts in _brought(config, run).items():
        asked[choice.generators_asked(brought, cfg)] += prompts
    return [
        Part(
            stage="sample",
            endpoint=endpoint,
            calls=(calls, calls),
            characters_in=(prompt[0] + before, prompt[1] + before),
            tokens_out=(SHARE_OF_CAP * cfg.max_new_tokens, cfg.max_new_tokens),
        )
        for model, endpoint in found.items()
        if (mine := [(draw, one) for draw, one in enumerate(cfg.generators) if one.model == model])
        for before in [max(len(own.system) + sum(map(len, chain(*own.examples))) for _, own in mine)]
        for calls in [sum(prompts * sum(draw < count for draw, _ in mine) for count, prompts in asked.items())]
    ]


def _estimated(part: Part, seen: Sequence[Spent]) -> dict[str, Any]:
    """A part's sums, from what was seen of it where the run is under way."""
    on_file = sum(spent.calls for spent in seen)
    tokens_in = part.characters_in[0] / CHARACTERS_PER_TOKEN, part.characters_in[1] / FEWEST_CHARACTERS_PER_TOKEN
    tokens_out = part.tokens_out
    seconds = SECONDS_BEFORE_TEXT + tokens_out[0] / TOKENS_PER_SECOND
    if on_file:
        tokens_in = sum(spent.prompt_tokens for spent in seen) / on_file, tokens_in[1]
        tokens_out = min(tokens_out[1], sum(spent.completion_tokens for spent in seen) / on_file), tokens_out[1]
        seconds = sum(spent.seconds for spent in seen) / on_file
    calls = [max(0.0, number - on_file) for number in part.calls]
    read, written = (
        {"expected": round(calls[0] * tokens[0]), "at_most": round(calls[1] * max(tokens))}
        for tokens in (tokens_in, tokens_out)
    )
    usd = {key: part.endpoint.usd(read[key], written[key]) for key in read}
    minutes = [
        calls[0] * seconds / part.endpoint.concurrency / 60,
        calls[0] / (part.endpoint.requests_per_minute or float("inf")),
        (read["expected"] + written["expected"]) / (part.endpoint.tokens_per_minute or float("inf")),
    ]
    return {
        "stage": part.stage,
        "endpoint": part.endpoint.name,
        "model": part.endpoint.model,
        "calls": {"expected": round(calls[0]), "at_most": round(calls[1])},
        "on_file": on_file,
        "prompt_tokens": read,
        "completion_tokens": written,
        "usd": None if usd["at_most"] is None else usd,
        "seconds": round(60 * max(minutes), 1),
        "in_this_process": False,
    }


def _prompt_characters(run: Run | None) -> Range | None:
    """Mean and greatest length of the run's first prompts, None before they are read."""
    if run is None or not run.is_done("prompts"):
        return None
    found = islice(tables.stream_prompts(run, *SPLITS), PROMPTS_LOOKED_AT)
    lengths = [sum(len(message["content"]) for message in prompt.messages) for prompt in found]
    return sum(lengths) / len(lengths), float(max(lengths))


def _brought(config: Config, run: Run | None) -> dict[int, int]:
    """How many of the prompts that are to be answered bring how many answers."""
    if run is not None and run.is_done("prompts"):
        shelf = streams.brought(run)
        return Counter(shelf.count[prompt.id] for prompt in streams.wanted(run))
    cfg, own = config.sample, config.prompts
    prompts = min(cfg.train_prompts, own.train) + min(cfg.validation_prompts, own.validation)
    return {0 if cfg.generators else UNREAD_ANSWERS: prompts}


def _answers(config: Config, run: Run | None) -> dict[int, int]:
    """How many prompts have how many answers to rank."""
    if run is not None and run.is_done("sample"):
        return dict(streams.Answers(run).sizes())
    cfg = config.sample
    found: Counter[int] = Counter()
    for brought, prompts in _brought(config, run).items():
        k = brought + choice.generators_asked(brought, cfg)
        found[min(k, cfg.answers or k)] += prompts
    if cfg.fewer == "leave_out":
        return {k: prompts for k, prompts in found.items() if k >= cfg.answers}
    return dict(found)


def _sum(parts: Sequence[dict[str, float] | None]) -> dict[str, float]:
    """The sum of what is known."""
    return {key: sum(part[key] for part in parts if part is not None) for key in ("expected", "at_most")}
