"""sample: K answers to each prompt, one from each generator with its seed, and those that came with the source."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starling import chat, choice, models, progress, tables
from starling.client import Client, parse_endpoint
from starling.config import Generator
from starling.device import seed_for
from starling.errors import CallError, DataError, StopStage, UsageError
from starling.generate import Request, generate, stop_ids
from starling.ledger import Ledger
from starling.models import Model
from starling.records import Call, Candidate, Failure, Message, Prompt
from starling.store import Run

Job = tuple[Prompt, int, Generator]
_FROM_SOURCES = "+sources-00000.parquet"  # no model's shard is called so: see `_slug`


def run(run: Run) -> dict[str, Any]:
    """Write `sample/<model>-<shard>.parquet`, then what is kept of the sources' answers; no shard is sampled twice."""
    cfg = run.config.sample
    wanted = _wanted(run)
    brought = choice.by_preference(wanted, _brought(run), cfg, run.config.run.seed)
    _refuse_silence(run, wanted, brought)
    asked = {prompt.id: choice.generators_asked(prompt.id, brought, cfg) for prompt in wanted}
    worst = sum(asked.values()) * cfg.max_new_tokens
    with progress.track("sample", min(worst, cfg.token_budget or worst), "tokens") as advance:
        for name, generators in _by_model(run).items():
            _sample_all(run, name, generators, (wanted, asked), advance)
    sampled = _sampled(run)
    chosen = choice.choose(wanted, sampled, brought, cfg)
    _write_choice(run, chosen)
    candidates = tables.candidates_of(run)
    answered = {candidate.prompt_id for candidate in sampled}
    return {
        "prompts": len({candidate.prompt_id for candidate in candidates}),
        "prompts_left_out_for_budget": sum(asked[p.id] > 0 and p.id not in answered for p in wanted),
        "answers": len(candidates),
        "tokens": sum(candidate.num_tokens for candidate in sampled),
        "finished": sum(candidate.finished for candidate in candidates) / len(candidates),
        "generators": [generator.model_dump() for generator in cfg.generators],
        "from_sources": dict(Counter(candidate.model for candidate in chosen.from_sources)),
        "left_out": dict(Counter(left.reason for left in chosen.left_out)),
        "prompts_with_answers": {str(count): prompts for count, prompts in chosen.prompts_with.items()},
    }


def _brought(run: Run) -> list[Candidate]:
    """The answers that came with the prompts."""
    path = run.folder("prompts") / "answers" / "00000.parquet"
    return [Candidate(**row) for row in tables.read_rows(path)] if path.exists() else []


def _sampled(run: Run) -> list[Candidate]:
    """What generators gave, whether it is kept or not."""
    shards = sorted(path for path in run.folder("sample").glob("*.parquet") if path.name != _FROM_SOURCES)
    return [Candidate(**row) for shard in shards for row in tables.read_rows(shard)]


def _refuse_silence(run: Run, wanted: Sequence[Prompt], brought: Mapping[str, Sequence[Candidate]]) -> None:
    """Stop before anything is sampled where no prompt can get two answers."""
    count = len(run.config.sample.generators)
    most = max((len(brought.get(prompt.id, ())) for prompt in wanted), default=0)
    if count + most < 2:
        raise DataError(
            f"sample: {len(wanted)} prompts bring at most {most} answer each and {count} generators are named, "
            "so there is nothing to rank; name generators in [[sample.generators]] or sources with answers in "
            "[[prompts.sources]]"
        )


def _write_choice(run: Run, chosen: choice.Choice) -> None:
    folder = run.folder("sample")
    listing, from_sources = folder / tables.LEFT_OUT, folder / _FROM_SOURCES
    listing.unlink(missing_ok=True)
    from_sources.unlink(missing_ok=True)
    if chosen.left_out:
        tables.write_jsonl(listing, [left._asdict() for left in chosen.left_out])
    if chosen.from_sources:
        rows = [tables.candidate_row(candidate) for candidate in chosen.from_sources]
        tables.write_parquet(from_sources, rows, tables.CANDIDATES)
    if not chosen.prompts_with:
        reasons = Counter(left.reason for left in chosen.left_out)
        raise StopStage(
            f"sample: no prompt has enough answers ({', '.join(f'{why}: {n}' for why, n in reasons.items())}); "
            f"see {listing}, add generators or sources, or change sample.answers and sample.fewer"
        )


def _wanted(run: Run) -> list[Prompt]:
    """Validation first, so that a spent budget never costs the reward model its test."""
    cfg = run.config.sample
    return [
        *tables.prompts_of(run, "validation")[: cfg.validation_prompts],
        *tables.prompts_of(run, "train")[: cfg.train_prompts],
    ]


def _by_model(run: Run) -> dict[str, list[tuple[int, Generator]]]:
    """Generators with their draw numbers, grouped so that each model is loaded once and serves all its shards."""
    groups: dict[str, list[tuple[int, Generator]]] = {}
    for draw, generator in enumerate(run.config.sample.generators):
        groups.setdefault(generator.model or run.config.run.model, []).append((draw, generator))
    return groups


def _sample_all(
    run: Run,
    name: str,
    generators: Sequence[tuple[int, Generator]],
    wanted: tuple[Sequence[Prompt], Mapping[str, int]],
    advance: progress.Advance,
) -> None:
    """All shards of one model, until the next could pass the model's part of the token budget.

    `wanted` are the prompts, and of each how many generators are asked.
    """
    cfg = run.config.sample
    prompts, asked = wanted
    budget = cfg.token_budget * len(generators) // len(cfg.generators)
    spent = 0
    model: Model | None = None
    for number, shard in enumerate(_shards(prompts, cfg.shard_prompts)):
        path = run.folder("sample") / f"{_slug(name)}-{number:05d}.parquet"
        if not path.exists():
            jobs = [(p, draw, generator) for p in shard for draw, generator in generators if draw < asked[p.id]]
            if budget and spent + len(jobs) * cfg.max_new_tokens > budget:
                if number == 0:
                    raise StopStage(
                        f"sample: sample.token_budget = {cfg.token_budget:,} does not cover one shard; raise it"
                    )
                break
            if not jobs:
                found = []
            elif name.startswith("openai:"):
                found = _ask(run, name, generators, sorted(jobs, key=lambda job: job[1]))
            else:
                model = model or models.load_policy(name)
                found = _sample(run, model, jobs, advance)
            tables.write_parquet(path, [tables.candidate_row(candidate) for candidate in found], tables.CANDIDATES)
        spent += sum(row["num_tokens"] for row in tables.read_rows(path))


def _shards(prompts: Sequence[Prompt], size: int) -> Iterator[Sequence[Prompt]]:
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]


def _sample(run: Run, model: Model, jobs: Sequence[Job], advance: progress.Advance) -> list[Candidate]:
    cfg = run.config.sample
    seeds = [seed_for(run.config.run.seed, "sample", prompt.id, draw) for prompt, draw, _ in jobs]
    requests = [
        Request(
            prompt=chat.prompt_ids(model.tokenizer, _conversation(prompt, generator)),
            seed=seed,
            temperature=generator.temperature,
            top_p=generator.top_p,
        )
        for (prompt, _, generator), seed in zip(jobs, seeds, strict=True)
    ]
    sampled = generate(
        model.network,
        requests,
        max_new_tokens=cfg.max_new_tokens,
        stop=stop_ids(model.network),
        slots=cfg.slots,
        on_tokens=advance,
    )
    return [
        Candidate(
            prompt_id=prompt.id,
            model=generator.name,
            draw=draw,
            answer=chat.answer_text(model.tokenizer, answer.ids),
            finished=answer.finished,
            weakened=generator.weakened,
            seed=seed,
            num_tokens=len(answer.ids),
        )
        for (prompt, draw, generator), seed, answer in zip(jobs, seeds, sampled, strict=True)
    ]


def _ask(run: Run, name: str, generators: Sequence[tuple[int, Generator]], jobs: Sequence[Job]) -> list[Candidate]:
    cfg = run.config.sample
    calls = [
        Call(
            messages=_conversation(prompt, generator),
            max_tokens=cfg.max_new_tokens,
            temperature=generator.temperature,
            top_p=generator.top_p,
            draw=draw,
        )
        for prompt, draw, generator in jobs
    ]
    with Ledger(run.ledger_path) as ledger:
        progress.note_interrupted(ledger.interrupted)
        replies = Client(parse_endpoint(name, key_env=_key_env(name, generators)), ledger).chat(calls)
    failures = [reply for reply in replies if isinstance(reply, Failure)]
    if failures:
        raise CallError(f"sample: {len(failures)} of {len(calls)} calls to {name} failed, first: {failures[0].reason}")
    return [
        Candidate(
            prompt_id=prompt.id,
            model=generator.name,
            draw=draw,
            answer=reply.text.strip(),
            finished=reply.finished,
            weakened=generator.weakened,
            num_tokens=reply.completion_tokens,
        )
        for (prompt, draw, generator), reply in zip(jobs, replies, strict=True)
        if not isinstance(reply, Failure)
    ]


def _key_env(name: str, generators: Sequence[tuple[int, Generator]]) -> str:
    """The environment variable with the key of one model, which all its generators share."""
    told = {generator.key_env for _, generator in generators}
    if len(told) > 1:
        raise UsageError(f"sample: the generators of {name} name different keys: {', '.join(map(repr, sorted(told)))}")
    return told.pop()


def _conversation(prompt: Prompt, generator: Generator) -> list[Message]:
    system = [Message(role="system", content=generator.system)] if generator.system else []
    return [*system, *prompt.messages]


def _slug(name: str) -> str:
    """The whole name as part of a file name: two models or endpoints may share its end."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[-100:]
