"""sample: K answers to each prompt, one from each generator with its seed, and those that came with the source."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starling import chat, choice, data_files, endpoints, models, packing, progress, streams, tables
from starling.client import CHARACTERS_PER_TOKEN, Client
from starling.config import Generator
from starling.device import seed_for
from starling.errors import CallError, DataError, StopStage
from starling.generate import Request, generate, stop_ids
from starling.ledger import Ledger
from starling.limits import Allowance
from starling.models import Model
from starling.records import Call, Candidate, Failure, Message, Prompt, Reply
from starling.spending import allowance, of_stage, report
from starling.store import Run
from starling.streams import Shelf

Job = tuple[Prompt, int, Generator]
Shard = tuple[Path, list[Job]]
MOST_MUTE = 0.2  # of the prompts that an endpoint gets at once
_FROM_SOURCES = "+sources"  # no model's shard is called so: see `_slug`


def run(run: Run) -> dict[str, Any]:
    """Write `sample/<model>-<shard>.parquet`, then what is kept of the sources' answers; no shard is sampled twice."""
    cfg = run.config.sample
    asked = endpoints.of_generators(run.config)
    brought = streams.brought(run)
    _refuse_silence(run, brought)
    answers = sum(_asked(run, brought, prompt) for prompt in streams.wanted(run))
    worst = answers * cfg.max_new_tokens
    with (
        Ledger(run.ledger_path, "sample") as ledger,
        progress.track("sample", min(worst, cfg.token_budget or worst), "tokens") as advance,
    ):
        progress.note_interrupted(ledger.interrupted)
        allowed = allowance(run.config, ledger)

        def told(call: Call, outcome: Reply | Failure) -> None:
            if isinstance(outcome, Reply):
                advance(outcome.completion_tokens)

        clients = {name: Client(endpoint, ledger, on_reply=told, allowance=allowed) for name, endpoint in asked.items()}
        for name, generators in _by_model(run).items():
            missing = _missing(run, brought, name, generators, advance)
            if name in clients:
                _ask_all(run, clients[name], name, missing, allowed)
            else:
                _sample_all(run, name, missing, allowed, advance)
        spending = of_stage(run.config, ledger, clients.values())
    report("sample", spending)
    return _choose(run, brought) | {
        "generators": [generator.model_dump() for generator in cfg.generators],
        "spending": spending,
    }


def _refuse_silence(run: Run, brought: Shelf) -> None:
    """Stop before anything is sampled where no prompt can get two answers."""
    count = len(run.config.sample.generators)
    bring = [brought.count[prompt.id] for prompt in streams.wanted(run)]
    if count + max(bring, default=0) < 2:
        raise DataError(
            f"sample: {len(bring)} prompts bring at most {max(bring, default=0)} answer each and {count} generators "
            "are named, so there is nothing to rank; name generators in [[sample.generators]] or sources with answers "
            "in [[prompts.sources]]"
        )


def _by_model(run: Run) -> dict[str, list[tuple[int, Generator]]]:
    """Generators with their draw numbers, grouped so that each model is loaded once and serves all its shards."""
    groups: dict[str, list[tuple[int, Generator]]] = {}
    for draw, generator in enumerate(run.config.sample.generators):
        groups.setdefault(generator.model or run.config.run.model, []).append((draw, generator))
    return groups


def _choose(run: Run, brought: Shelf) -> dict[str, Any]:
    """Write which answers are left out, and the shards of those from sources that are kept; returns the facts."""
    cfg = run.config.sample
    folder = run.folder("sample")
    listing = folder / tables.LEFT_OUT
    for old in (listing, *folder.glob(f"{_FROM_SOURCES}-*.parquet")):
        old.unlink(missing_ok=True)
    sums = choice.Sums()
    over_budget = 0
    with data_files.listing(listing) as leave_out:
        for number, shard in enumerate(streams.batches(streams.wanted(run), cfg.shard_prompts)):
            given = [path for name in _by_model(run) if (path := _path(run, name, number)).exists()]
            sampled = [Candidate(**row) for path in given for row in data_files.read_rows(path)]
            ours = [one for answers in brought.read(shard).values() for one in answers]
            by_prompt = choice.by_preference(shard, ours, cfg, run.config.run.seed)
            chosen = choice.choose(shard, sampled, by_prompt, cfg)
            for left in chosen.left_out:
                leave_out(left._asdict())
            if chosen.from_sources:
                _write(_path(run, _FROM_SOURCES, number), chosen.from_sources)
            sums.add(sampled, chosen)
            answered = {one.prompt_id for one in sampled}
            over_budget += sum(p.id not in answered and _asked(run, brought, p) > 0 for p in shard)
    if not sums.prompts_with:
        raise StopStage(
            f"sample: no prompt has enough answers ({', '.join(f'{why}: {n}' for why, n in sums.left_out.items())}); "
            f"see {listing}, add generators or sources, or change sample.answers and sample.fewer"
        )
    return {"prompts_left_out_for_budget": over_budget} | sums.facts()


def _asked(run: Run, brought: Shelf, prompt: Prompt) -> int:
    """How many generators, from the first, answer a prompt."""
    return choice.generators_asked(brought.count[prompt.id], run.config.sample)


def _sample_all(run: Run, name: str, missing: Iterable[Shard], allowed: Allowance, advance: progress.Advance) -> None:
    """All shards of one model in this process."""
    model: Model | None = None
    for path, jobs in missing:
        allowed.refuse_late()
        if jobs:
            model = model or models.load_policy(name)
        _write(path, _sample(run, model, jobs, advance) if model and jobs else [])


def _ask_all(run: Run, client: Client, name: str, missing: Iterable[Shard], allowed: Allowance) -> None:
    """All shards of one endpoint; without a token budget so many at once that all its connections have work."""
    calls = len(_by_model(run)[name]) * run.config.sample.shard_prompts
    at_once = 1 if run.config.sample.token_budget else -(-16 * client.endpoint.concurrency // calls)
    for some in streams.batches(missing, at_once):
        allowed.refuse_late()
        found = iter(_ask(run, client, name, [sorted(jobs, key=lambda job: job[1]) for _, jobs in some]))
        for path, _ in some:
            _write(path, next(found))


def _missing(
    run: Run, brought: Shelf, name: str, generators: Sequence[tuple[int, Generator]], advance: progress.Advance
) -> Iterator[Shard]:
    """Paths and jobs of a model's shards that do not stand yet, until one could pass its part of the budget."""
    cfg = run.config.sample
    budget = cfg.token_budget * len(generators) // len(cfg.generators)
    spent = 0
    for number, shard in enumerate(streams.batches(streams.wanted(run), cfg.shard_prompts)):
        path = _path(run, name, number)
        is_there = path.exists()
        if not is_there:
            asked = {prompt.id: _asked(run, brought, prompt) for prompt in shard}
            jobs = [(p, draw, generator) for p in shard for draw, generator in generators if draw < asked[p.id]]
            if budget and spent + len(jobs) * cfg.max_new_tokens > budget:
                if number == 0:
                    raise StopStage(
                        f"sample: sample.token_budget = {cfg.token_budget:,} does not cover one shard; raise it"
                    )
                return
            yield path, jobs
        if budget or is_there:
            rows = data_files.read_rows(path)
            tokens = sum(row["num_tokens"] or len(row["answer"]) // CHARACTERS_PER_TOKEN for row in rows)
            spent += tokens
            if is_there:
                advance(tokens, found=True)


def _path(run: Run, name: str, number: int) -> Path:
    slug = name if name == _FROM_SOURCES else _slug(name, _by_model(run))
    return run.folder("sample") / f"{slug}-{number:05d}.parquet"


def _write(path: Path, found: Sequence[Candidate]) -> None:
    data_files.write_parquet(path, [asdict(candidate) for candidate in found], tables.CANDIDATES)


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
    _refuse_long(model, jobs, requests, cfg.max_new_tokens)
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


def _ask(run: Run, client: Client, name: str, shards: Sequence[Sequence[Job]]) -> list[list[Candidate]]:
    """The answers of an endpoint to the jobs of each shard."""
    cfg = run.config.sample
    calls = [
        Call(
            messages=_conversation(prompt, generator),
            max_tokens=cfg.max_new_tokens,
            temperature=generator.temperature,
            top_p=generator.top_p,
            draw=draw,
        )
        for jobs in shards
        for prompt, draw, generator in jobs
    ]
    replies = client.chat(calls)
    _refuse_failures(name, replies, [prompt.id for jobs in shards for prompt, _, _ in jobs])
    answers = iter(replies)
    return [[_candidate(prompt, draw, generator, next(answers)) for prompt, draw, generator in jobs] for jobs in shards]


def _refuse_failures(name: str, replies: Sequence[Reply | Failure], asked: Sequence[str]) -> None:
    """Stop where calls failed that may be answered another time, or had nothing to say on too many of the prompts."""
    failures = [reply for reply in replies if isinstance(reply, Failure)]
    prompts = {prompt for prompt, reply in zip(asked, replies, strict=True) if isinstance(reply, Failure)}
    if all(one.mute for one in failures) and len(prompts) <= max(MOST_MUTE * len(set(asked)), 1):
        return
    raise CallError(f"sample: {len(failures)} of {len(replies)} calls to {name} failed, first: {failures[0].reason}")


def _refuse_long(model: Model, jobs: Sequence[Job], requests: Sequence[Request], max_new_tokens: int) -> None:
    """Stop where system prompt and worked examples take a prompt, which fits alone, past the model's window."""
    window = packing.window(model.network.config)
    over = [
        (prompt.id, generator.name, len(request.prompt))
        for (prompt, _, generator), request in zip(jobs, requests, strict=True)
        if len(request.prompt) + max_new_tokens > window
    ]
    if over:
        prompt_id, name, length = over[0]
        raise DataError(
            f"sample: {len(over)} of {len(requests)} prompts with what their generator shows before them leave no room "
            f"for {max_new_tokens} tokens in a window of {window}, first {prompt_id!r} of {name!r} with {length}; "
            "give that generator fewer or shorter examples, or lower prompts.max_tokens"
        )


def _candidate(prompt: Prompt, draw: int, generator: Generator, reply: Reply | Failure) -> Candidate:
    if isinstance(reply, Failure):
        return Candidate(
            prompt_id=prompt.id, model=generator.name, draw=draw, answer="", finished=False, call=reply.key,
            failure=reply.reason,
        )  # fmt: skip
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
    """What the generator is shown: its system prompt and worked examples, then the prompt."""
    before = [Message(role="system", content=generator.system)] if generator.system else []
    for question, answer in generator.examples:
        before += [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return [*before, *prompt.messages]


def _slug(name: str, names: Iterable[str]) -> str:
    """The name as part of a file name; where another of `names` would have the same one, with a hash of the whole."""
    alike = [other for other in names if _plain(other) == _plain(name)]
    return _plain(name) + (f"-{hashlib.sha256(name.encode()).hexdigest()[:12]}" if alike[1:] else "")


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[-100:]
