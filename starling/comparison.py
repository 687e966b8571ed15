"""Several runs side by side: every number of the page and the table of `starling report RUN RUN`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from starling import digest, figures, matched, spending
from starling.benches import told
from starling.errors import UsageError
from starling.matched import Prompts
from starling.store import Run
from starling.writing import without_nan

KIND = "comparison of runs"  # how compare.json is known again
_TONES = {
    "better": "Better than its base",
    "worse": "Worse than its base",
    "unclear": "No difference from its base is shown",
    "unsure": "Without an interval, so not sure",
    "none": "Not measured",
}


class Compared(NamedTuple):
    """The numbers, as JSON holds them, and the cases of the test prompts that all evaluated runs have, a run each."""

    numbers: dict[str, Any]
    cases: list[dict[int, Mapping[str, Any]]]


def compare(runs: Sequence[Run]) -> Compared:
    """Everything there is to say of these runs; one that is not evaluated is there with what it has."""
    names = _names([run.root for run in runs])
    found = [digest.digest(run) for run in runs]
    entries = [_entry(*each) for each in zip(names, runs, found, strict=True)]
    prompts = {
        at: matched.by_prompt(digest.read_cases(run)) for at, run in enumerate(runs) if found[at]["result"] is not None
    }
    pairs = [_pair(entries, prompts, other) for other in list(prompts)[1:]]
    shared, cases = _cases(prompts, entries)
    numbers = {
        "kind": KIND,
        "headline": [*_standing(entries), *_against_first(pairs)],
        "runs": entries,
        "benchmarks": told.beside([(one["result"] or {}).get("benchmarks", []) for one in found]),
        "settings": _settings(runs),
        "pairs": pairs,
        "prompts": shared,
        "notes": _notes(entries, shared),
        "cases": [_case(case) for case in cases],
    }
    return Compared(without_nan(numbers), cases)


def _names(roots: Sequence[Path]) -> list[str]:
    """The end of each folder's path, as long as it takes to tell them apart; the same folder twice is refused."""
    whole = [root.resolve() for root in roots]
    for one, other in combinations(range(len(whole)), 2):
        if whole[one] == whole[other]:
            raise UsageError(f"report: {roots[one]} and {roots[other]} are the same run; name each run once")
    for depth in range(1, max(len(path.parts) for path in whole)):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]


def _entry(name: str, run: Run, found: Mapping[str, Any]) -> dict[str, Any]:
    """One run: what it found, what it was tuned to, what it took."""
    result = found["result"] or {}
    used = {part["stage"]: part["used"] for part in found["budgets"]}
    usd = spending.by_stage(run.config, run.ledger_path)
    return {
        "name": name,
        "folder": str(run.root),
        "evaluated": bool(result),
        "tone": found["tone"],
        "standing": _TONES[found["tone"]],
        "headline": found["headline"],
        "model": run.config.run.model,
        "seed": run.config.run.seed,
        **{key: result.get(key) for key in ("judge", "judge_named", "test_prompts", "comparisons", "unparsed")},
        "sampled_at_test": result.get("settings"),
        "win_rates": result.get("win_rates", []),
        "table": result.get("table", []),
        "tune": _tuned(run),
        "stages": [
            {"stage": step["stage"], "state": step["state"], "seconds": step["seconds"]}
            | {"tokens": used.get(step["stage"]), "asked": step["stage"] in usd, "usd": usd.get(step["stage"])}
            for step in found["road"]
        ],
        "seconds": found["seconds"],
        "tokens": sum(tokens or 0 for tokens in used.values()),
        "asked": bool(usd),
        "usd": None if None in usd.values() else sum(filter(None, usd.values())),
        "peak_memory_mib": found["peak_memory_mib"],
    }


def _tuned(run: Run) -> dict[str, Any]:
    """The kept step, and reward and KL there, on the validation prompts; None where the run did not record it."""
    facts = run.facts("tune") if run.is_done("tune") else {}
    kept = facts.get("kept_step")
    look: dict[str, Any] = next((look for look in facts.get("looks", []) if look["step"] == kept), {})
    rate = {end: look.get(key) for end, key in (("low", "win_rate_low"), ("high", "win_rate_high"))}
    return {
        "done": bool(facts),
        "algorithm": run.config.tune.algorithm,
        "kept_step": kept,
        "steps": facts.get("steps"),
        "stopped_by": facts.get("stopped_by"),
        "reward": look.get("reward"),
        "kl": look.get("kl"),
        "win_rate": {"value": look.get("win_rate"), **rate},
    }


def _pair(entries: Sequence[Mapping[str, Any]], prompts: Mapping[int, Prompts], other: int) -> dict[str, Any]:
    """A run against the first evaluated one."""
    first = next(iter(prompts))
    rates = {}
    if entries[first]["model"] != entries[other]["model"]:
        rates = dict.fromkeys(("verdict", "held_out_verdict"), "since the base models are not the same")
    elif entries[first]["judge"] != entries[other]["judge"]:
        rates["verdict"] = "since the judges are not the same"
    return {
        "first": first,
        "other": other,
        "title": f"{entries[other]['name']} against {entries[first]['name']}",
        "prompts": len(matched.common([prompts[first], prompts[other]])),
        "figures": matched.against(prompts[first], prompts[other], rates=rates),
    }


def _cases(
    prompts: Mapping[int, Prompts], entries: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[dict[int, Mapping[str, Any]]]]:
    """The prompts that all evaluated runs have, a case for each draw that all have, and what is left out of them."""
    keys = matched.common(list(prompts.values()))
    cases, draws_left_out = [], 0
    for key in keys:
        drawn = {at: own[key] for at, own in prompts.items()}
        fewest = min(map(len, drawn.values()))
        cases += [{at: own[draw] for at, own in drawn.items()} for draw in range(fewest)]
        draws_left_out += sum(len(own) - fewest for own in drawn.values())
    left_out = {at: sorted({own[key][0]["prompt_id"] for key in own.keys() - set(keys)}) for at, own in prompts.items()}
    shared = {
        "common": len(keys),
        "draws_left_out": draws_left_out,
        "left_out": [
            {"run": at, "name": entries[at]["name"], "count": len(ids), "ids": ids}
            for at, ids in left_out.items()
            if ids
        ],
    }
    return shared, cases


def _case(case: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of one test prompt; the texts stay in the runs."""
    some = next(iter(case.values()))
    scores = [own["tuned"]["score"] for own in case.values()]
    return {
        "prompt_id": some["prompt_id"],
        "apart": max(scores) - min(scores),
        "runs": {str(at): digest.case_numbers(own) for at, own in case.items()},
    }


def _standing(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which tuned models are better than their bases, in one sentence."""
    groups = {said: [entry["name"] for entry in entries if entry["tone"] == tone] for tone, said in _TONES.items()}
    return [" ".join(f"{said}: {', '.join(names)}." for said, names in groups.items() if names)]


def _against_first(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{pair['title']}: {pair['figures'][0]['sentence']}" for pair in pairs]


def _notes(entries: Sequence[Mapping[str, Any]], shared: Mapping[str, Any]) -> list[str]:
    """What to keep in mind when these runs are compared."""
    known = [entry for entry in entries if entry["evaluated"]]
    notes = []
    for left in shared["left_out"]:
        count, of = figures.number(left["count"]), figures.number(entries[left["run"]]["test_prompts"])
        notes.append(
            f"{left['name']}: {count} of its {of} test prompts are not in every other evaluated run; its own figures "
            "count them, the answers below leave them out."
        )
    if shared["draws_left_out"]:
        more = figures.number(shared["draws_left_out"])
        notes.append(
            f"Not all runs answered a prompt equally often: {more} further answers are in the figures, not below."
        )
    for key, what in (
        ("model", "Base models"),
        ("judge_named", "Judges of the test"),
        ("sampled_at_test", "Sampling at the test"),
    ):
        values = {entry["name"]: _written(entry[key]) for entry in known}
        if len(set(values.values())) > 1:
            told = "; ".join(f"{name}: {value}" for name, value in values.items())
            notes.append(f"{what} differ ({told}), so that figures of these runs do not measure quite the same.")
    return notes


def _settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The settings and versions that are not the same in all runs; None where a run has no such setting."""
    flat = [
        dict(_flat(run.config.model_dump(mode="json")))
        | {f"version of {name}": version for name, version in run.versions.items()}
        for run in runs
    ]
    keys = dict.fromkeys(key for own in flat for key in own)
    found = [{"key": key, "values": [_written(own[key]) if key in own else None for own in flat]} for key in keys]
    return [row for row in found if len(set(row["values"])) > 1]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting under its whole key; tables in a list go by their name where each has one of its own."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
        return
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        names = [item["name"] for item in value]
        if len(set(names)) == len(names):
            yield key, names
            for item in value:
                yield from _flat(
                    {name: inner for name, inner in item.items() if name != "name"}, f"{key}.{item['name']}"
                )
            return
    yield key, value


def _written(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
