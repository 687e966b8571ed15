"""sample: K answers to each prompt, one from each generator, with the seed of every one."""

from collections.abc import Iterator, Sequence
from typing import Any

from starling import chat, models, progress, tables
from starling.client import Client, parse_endpoint
from starling.config import Generator
from starling.device import seed_for
from starling.errors import CallError, StopStage, UsageError
from starling.generate import Request, generate, stop_ids
from starling.ledger import Ledger
from starling.models import Model
from starling.records import Call, Candidate, Failure, Message, Prompt
from starling.store import Run


def run(run: Run) -> dict[str, Any]:
    """Write `sample/<model>-<shard>.parquet`; a shard that stands is not sampled again."""
    cfg = run.config.sample
    wanted = _wanted(run)
    worst = len(wanted) * len(cfg.generators) * cfg.max_new_tokens
    with progress.track("sample", min(worst, cfg.token_budget or worst), "tokens") as advance:
        for name, generators in _by_model(run).items():
            _sample_all(run, name, generators, wanted, advance)
    candidates = tables.candidates_of(run)
    prompts = {candidate.prompt_id for candidate in candidates}
    return {
        "prompts": len(prompts),
        "prompts_left_out_for_budget": len(wanted) - len(prompts),
        "answers": len(candidates),
        "tokens": sum(candidate.num_tokens for candidate in candidates),
        "finished": sum(candidate.finished for candidate in candidates) / len(candidates),
        "generators": [generator.model_dump() for generator in cfg.generators],
    }


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
    wanted: Sequence[Prompt],
    advance: progress.Advance,
) -> None:
    """All shards of one model, until the next could pass the model's part of the token budget."""
    cfg = run.config.sample
    budget = cfg.token_budget * len(generators) // len(cfg.generators)
    spent = 0
    model: Model | None = None
    for number, shard in enumerate(_shards(wanted, cfg.shard_prompts)):
        path = run.folder("sample") / f"{_slug(name)}-{number:05d}.parquet"
        if not path.exists():
            if budget and spent + len(shard) * len(generators) * cfg.max_new_tokens > budget:
                if number == 0:
                    raise StopStage(
                        f"sample: sample.token_budget = {cfg.token_budget:,} does not cover one shard; raise it"
                    )
                break
            if name.startswith("openai:"):
                found = _ask(run, name, generators, shard)
            else:
                model = model or models.load_policy(name)
                found = _sample(run, model, generators, shard, advance)
            tables.write_parquet(path, [tables.candidate_row(candidate) for candidate in found], tables.CANDIDATES)
        spent += sum(row["num_tokens"] for row in tables.read_rows(path))


def _shards(prompts: Sequence[Prompt], size: int) -> Iterator[Sequence[Prompt]]:
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]


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


def _ask(run: Run, name: str, generators: Sequence[tuple[int, Generator]], shard: Sequence[Prompt]) -> list[Candidate]:
    cfg = run.config.sample
    jobs = [(prompt, draw, generator) for draw, generator in generators for prompt in shard]
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
