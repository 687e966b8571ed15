"""sample: K answers to each prompt, one from each generator, with the seed of every one."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from starling import chat, endpoints, models, progress, streams, tables
from starling.client import Client
from starling.config import Generator
from starling.device import seed_for
from starling.errors import CallError, StopStage
from starling.generate import Request, generate, stop_ids
from starling.ledger import Ledger
from starling.limits import Allowance
from starling.models import Model
from starling.records import Call, Candidate, Failure, Message, Prompt, Reply
from starling.spending import allowance, of_stage, report
from starling.store import Run


def run(run: Run) -> dict[str, Any]:
    """Write `sample/<model>-<shard>.parquet`; a shard that stands is not sampled again."""
    cfg = run.config.sample
    asked = endpoints.of_generators(run.config)
    wanted = sum(1 for _ in _wanted(run))
    worst = wanted * len(cfg.generators) * cfg.max_new_tokens
    with (
        Ledger(run.ledger_path, "sample") as ledger,
        progress.track("sample", min(worst, cfg.token_budget or worst), "tokens") as advance,
    ):
        progress.note_interrupted(ledger.interrupted)
        allowed = allowance(run.config, ledger)
        clients = {name: Client(endpoint, ledger, allowance=allowed) for name, endpoint in asked.items()}
        for name, generators in _by_model(run).items():
            if name in clients:
                _ask_all(run, clients[name], name, generators, allowed)
            else:
                _sample_all(run, name, generators, allowed, advance)
        spending = of_stage(run.config, ledger, clients.values())
    report("sample", spending)
    counted = streams.count_answers(run)
    return counted | {
        "prompts_left_out_for_budget": wanted - counted["prompts"],
        "generators": [generator.model_dump() for generator in cfg.generators],
        "spending": spending,
    }


def _wanted(run: Run) -> Iterator[Prompt]:
    """Validation first, so that a spent budget never costs the reward model its test."""
    cfg = run.config.sample
    yield from islice(streams.prompts(run, "validation"), cfg.validation_prompts)
    yield from islice(streams.prompts(run, "train"), cfg.train_prompts)


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
    allowed: Allowance,
    advance: progress.Advance,
) -> None:
    """All shards of one model in this process."""
    model: Model | None = None
    for path, shard in _missing(run, name, len(generators)):
        allowed.refuse_late()
        model = model or models.load_policy(name)
        _write(path, _sample(run, model, generators, shard, advance))


def _ask_all(
    run: Run, client: Client, name: str, generators: Sequence[tuple[int, Generator]], allowed: Allowance
) -> None:
    """All shards of one endpoint; without a token budget so many at once that all its connections have work."""
    calls = len(generators) * run.config.sample.shard_prompts
    at_once = 1 if run.config.sample.token_budget else -(-16 * client.endpoint.concurrency // calls)
    for some in streams.batches(_missing(run, name, len(generators)), at_once):
        allowed.refuse_late()
        found = iter(_ask(run, client, name, generators, [shard for _, shard in some]))
        for path, _ in some:
            _write(path, next(found))


def _missing(run: Run, name: str, generators: int) -> Iterator[tuple[Path, list[Prompt]]]:
    """Paths and prompts of a model's shards that do not stand yet, until one could pass its part of the budget."""
    cfg = run.config.sample
    budget = cfg.token_budget * generators // len(cfg.generators)
    spent = 0
    for number, shard in enumerate(streams.batches(_wanted(run), cfg.shard_prompts)):
        path = run.folder("sample") / f"{_slug(name)}-{number:05d}.parquet"
        if not path.exists():
            if budget and spent + len(shard) * generators * cfg.max_new_tokens > budget:
                if number == 0:
                    raise StopStage(
                        f"sample: sample.token_budget = {cfg.token_budget:,} does not cover one shard; raise it"
                    )
                return
            yield path, shard
        if budget:
            spent += sum(row["num_tokens"] for row in tables.read_rows(path))


def _write(path: Path, found: Sequence[Candidate]) -> None:
    tables.write_parquet(path, [_row(candidate) for candidate in found], tables.CANDIDATES)


def _sample(
    run: Run,
    model: Model,
    generators: Sequence[tuple[int, Generator]],
    shard: Sequence[Prompt],
    advance: progress.Advance,
) -> list[Candidate]:
    cfg = run.config.sample
    jobs = [(prompt, draw, generator) for prompt in shard for draw, generator in generators]
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


def _ask(
    run: Run,
    client: Client,
    name: str,
    generators: Sequence[tuple[int, Generator]],
    shards: Sequence[Sequence[Prompt]],
) -> list[list[Candidate]]:
    """The answers of an endpoint to the prompts of each shard."""
    cfg = run.config.sample
    jobs = [[(prompt, draw, generator) for draw, generator in generators for prompt in shard] for shard in shards]
    calls = [
        Call(
            messages=_conversation(prompt, generator),
            max_tokens=cfg.max_new_tokens,
            temperature=generator.temperature,
            top_p=generator.top_p,
            draw=draw,
        )
        for shard in jobs
        for prompt, draw, generator in shard
    ]
    replies = client.chat(calls)
    failures = [reply for reply in replies if isinstance(reply, Failure)]
    if failures:
        raise CallError(f"sample: {len(failures)} of {len(calls)} calls to {name} failed, first: {failures[0].reason}")
    answers = iter(replies)
    return [[_candidate(prompt, draw, generator, next(answers)) for prompt, draw, generator in shard] for shard in jobs]


def _candidate(prompt: Prompt, draw: int, generator: Generator, reply: Reply | Failure) -> Candidate:
    assert isinstance(reply, Reply)
    return Candidate(
        prompt_id=prompt.id,
        model=generator.name,
        draw=draw,
        answer=reply.text.strip(),
        finished=reply.finished,
        weakened=generator.weakened,
        num_tokens=reply.completion_tokens,
        call=reply.key,
    )


def _conversation(prompt: Prompt, generator: Generator) -> list[Message]:
    system = [Message(role="system", content=generator.system)] if generator.system else []
    return [*system, *prompt.messages]


def _row(candidate: Candidate) -> dict[str, Any]:
    return {name: getattr(candidate, name) for name in tables.CANDIDATES.names}


def _slug(name: str) -> str:
    """The whole name as part of a file name: two models or endpoints may share its end."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[-100:]
