"""`fit` and `score` on the user's own files, without a run folder."""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starling import began, data_files, device, models, progress, reward, sources, tables, unusable
from starling.at_work import alone
from starling.config import Config, Source
from starling.errors import DataError, UsageError, explained
from starling.metrics import Recorder
from starling.records import Message, Ranking
from starling.reward import Precision, Question
from starling.stages import fit as stage
from starling.store import versions
from starling.writing import replace_folder, sha256, write_json

FACTS = "fit.json"
_NO_RANKING = "not a ranking"


def fit(settings: Config, rankings: list[Path], model: str, out: Path, held_out: float) -> dict[str, Any]:
    """Fit a reward model on ranking files into the folder `out`, with `fit.json` beside the weights.

    What is under way stands in `<out>.partial`, so that `out` is whole or not there, and the same call goes on after
    an interruption. A call that was finished before does nothing.
    """
    if not 0 <= held_out < 1:
        raise UsageError(f"fit: --held-out {held_out} is no share; give 0 (none) up to less than 1")
    if settings.fit.reward_model:
        raise UsageError(
            "fit: fit.reward_model takes a finished reward model, so there is nothing to do with --rankings"
        )
    out = out.resolve()
    work = out.with_name(out.name + ".partial")
    files = [_fingerprint(path) for path in rankings]
    request = {
        "rankings": files,
        "model": model,
        "weights": models.weights_of(model),
        "held_out": held_out,
        "seed": settings.run.seed,
        "settings": settings.fit.settled(),
    }
    finished = _finished(out, request)
    if finished is not None:
        if _saved(work / "request.json") == request:
            shutil.rmtree(work)  # of this very fit, which was killed before it had cleared up
        progress.say(f"fit: done already in {out}")
        return finished
    read, unread = _read(rankings)
    train, test = split(read, held_out)
    if held_out and not test:
        progress.say(
            f"fit: none of {len(read)} rankings fell into the held-out share of {held_out}, so nothing is tested, and "
            "rewards have no scale; raise --held-out, or give rankings of more prompts"
        )
    with alone(work):
        _claim(work, request)
        device.setup(settings.run.threads, settings.run.seed)
        recorder = Recorder(work / "metrics.jsonl", "fit")
        origin = stage.Origin(files, unread)
        facts = stage.fit(settings.fit, model, train, test, work, recorder, seed=settings.run.seed, origin=origin)
        facts = {"split": {"train": len(train), "held_out": len(test)}, **facts}
        write_json(work / "model" / FACTS, {"request": request, "versions": versions(), "facts": facts})
        with explained(f"writing {out}"):
            for name in ("metrics.jsonl", unusable.FILE):
                if (work / name).exists():
                    shutil.copy2(work / name, work / "model" / name)
            if (work / "adapter").exists():
                shutil.copytree(work / "adapter", work / "model" / "adapter")
            replace_folder(work / "model", out)
            shutil.rmtree(work)
    return facts


def split(rankings: Sequence[Ranking], held_out: float) -> tuple[list[Ranking], list[Ranking]]:
    """Rankings to train on and to test on; the conversation alone decides, so a prompt never stands on both sides."""
    train = [ranking for ranking in rankings if _place(ranking.messages) >= held_out]
    test = [ranking for ranking in rankings if _place(ranking.messages) < held_out]
    if not train:
        raise DataError(
            f"fit: all {len(rankings)} rankings fell into the held-out share of {held_out}; lower --held-out"
        )
    return train, test


def score(model: str, source: Path, out: Path, *, scaled: bool = False, dtype: Precision = "float32") -> int:
    """Write the rows of `source`, each with the `rewards` of its answers, to `out`; returns how many.

    An empty answer has the reward null; how many do is told. Where the model has an uncertainty, each row has `spreads`
    too. `scaled` is as in `RewardModel.score`, `dtype` as in `load_reward_model`.
    """
    located = list(sources.located_rows(str(source)))
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"score: --out {out} is the file that is read; choose another")
    if out.exists() and not out.is_file():
        raise UsageError(f"score: --out {out} is no file that can be replaced; choose another")
    if not out.name.endswith(".jsonl"):
        raise UsageError(f"score: --out {out} will hold JSON lines; give it a name that ends on .jsonl")
    questions = [question(row, where) for where, row in located]
    if not questions:
        raise DataError(f"score: {source} holds no rows")
    judge = reward.load_reward_model(model, dtype)
    with progress.track("score", sum(len(asked.answers) for asked in questions), "answers") as advance:
        if judge.has_spreads:
            scored = judge.score_questions_with_spread(questions, advance, scaled=scaled)
            columns = [{"rewards": [s.reward for s in row], "spreads": [s.spread for s in row]} for row in scored]
        else:
            columns = [{"rewards": row} for row in judge.score_questions(questions, advance, scaled=scaled)]
    columns = _without_empty(questions, columns)
    data_files.write_jsonl(out, [_plain(row) | column for (_where, row), column in zip(located, columns, strict=True)])
    return len(located)


def _without_empty(questions: Sequence[Question], columns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns with null where an answer is empty, and a line that says how many are."""
    empty = [[not answer.strip() for answer in asked.answers] for asked in questions]
    if count := sum(map(sum, empty)):
        first = next(asked.where for asked, row in zip(questions, empty, strict=True) if any(row))
        progress.say(f"score: {count:,} answers are empty, first at {first}; they have no reward (null)")
    return [
        {
            name: [None if lacks else value for lacks, value in zip(row, values, strict=True)]
            for name, values in of.items()
        }
        for row, of in zip(empty, columns, strict=True)
    ]


def question(row: Mapping[str, Any], where: str) -> Question:
    """A row's conversation and answers, from `answers`, `answer`, or `chosen` and `rejected`."""
    given = {key: value for key, value in row.items() if value is not None}
    if "answers" not in given and "answer" not in given and "chosen" in given and "rejected" in given:
        pair = tables.ranking_from_row(given, where)
        return Question(
            messages=pair.messages,
            answers=[answer.answer for answer in pair.answers],
            finished=[answer.finished for answer in pair.answers],
            reads_empty=True,
            where=where,
        )
    entries = given.get("answers", [row.get("answer")])
    prompt = given.get("messages", given.get("prompt"))
    if prompt is None or ("answers" not in given and "answer" not in row):
        raise DataError(
            f"{where}: a row needs `prompt` or `messages` with `answers` or `answer`, or `prompt`, `chosen` and "
            f"`rejected`; found: {', '.join(sorted(given))}"
        )
    if not isinstance(entries, list):
        raise DataError(f"{where}: `answers` must be a list")
    described = [entry if isinstance(entry, Mapping) else {"answer": entry} for entry in entries]
    texts: list[Any] = ["" if entry.get("answer", "none") is None else entry.get("answer") for entry in described]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: every answer must be a text, or an object with a text `answer`")
    of_row = given.get("finished")  # of a row with one answer, or a list beside the answers
    of_row = of_row if isinstance(of_row, list) else [of_row] * len(described)
    if len(of_row) != len(described):
        raise DataError(f"{where}: `finished` must say of each of the {len(described)} answers whether it was")
    told = [
        own if entry.get("finished") is None else entry["finished"]
        for entry, own in zip(described, of_row, strict=True)
    ]
    finished = [tables.is_true(one, "finished", where) for one in told]
    messages = reward.conversation(prompt, where)
    return Question(messages=messages, answers=texts, finished=finished, reads_empty=True, where=where)


def _read(files: Sequence[Path]) -> tuple[list[Ranking], list[dict[str, str]]]:
    """The files' rankings, and a note for each row that is none."""
    found: list[Ranking] = []
    unread: list[dict[str, str]] = []
    for path in files:
        of_file, notes = _read_one(path)
        found += of_file
        unread += notes
    if not found and not unread:
        raise DataError(f"fit: no rankings in {', '.join(map(str, files))}")
    if not found:
        more = f" (and {len(unread) - 1:,} rows after it are no rankings either)" if len(unread) > 1 else ""
        raise DataError(f"{unread[0]['detail']}{more}")
    _tell_odd_ranks(found)
    if unread:
        progress.say(
            f"fit: {len(unread):,} of {len(unread) + len(found):,} rows are no rankings and left out; first "
            f"{unread[0]['detail']}"
        )
    return found, unread


def _tell_odd_ranks(found: Sequence[Ranking]) -> None:
    """Say where ranks may be marks, of which a higher one is better: none is a first place."""
    odd = [one for one in found if _seem_marks(one.ranks)]
    if odd:
        progress.say(
            f"fit: in {len(odd):,} of {len(found):,} rankings no answer has rank 1, as where they are a part of longer "
            f"ones, first {odd[0].where}; 1 is best: marks, where more is better, would be learnt upside down"
        )


def _seem_marks(ranks: Sequence[float]) -> bool:
    known = [rank for rank in ranks if 0 < rank < math.inf]
    return bool(known) and min(known) >= 2 and not len(known) == len(ranks) >= max(known)


def _read_one(path: Path) -> tuple[list[Ranking], list[dict[str, str]]]:
    """A file's rankings and notes. Where one row's ranks seem to count from 0, no other's 0 is an unknown place."""
    found: list[Ranking] = []
    unread: list[dict[str, str]] = []
    with_zero: set[str] = set()
    from_zero = ""
    for where, row in sources.located_rows(str(path)):
        try:
            found.append(tables.ranking_from_row(row, where))
            if tables.has_rank_zero(row):
                with_zero.add(where)
        except DataError as error:
            prompt_id = str(row.get("prompt_id") or where)
            unread.append(unusable.line(prompt_id, where, "ranking", _NO_RANKING, str(error)))
            if isinstance(error, tables.RanksFromZero):
                from_zero = from_zero or where
    if not from_zero:
        return found, unread
    why = f"there is a rank 0, and at {from_zero} ranks seem to count from 0; write null for a place that is not known"
    refused = [one for one in found if one.where in with_zero]
    unread += [unusable.note(one, "ranking", _NO_RANKING, f"{one.where}: {why}") for one in refused]
    return [one for one in found if one.where not in with_zero], unread


def _finished(out: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The facts, where `out` holds the result of this very request; refuses a folder that holds anything else."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"fit: --out {out} is a file, not a folder; choose another")
    if not out.exists() or not any(out.iterdir()):
        return None
    saved = _saved(out / FACTS)
    if saved.get("request") == request:
        return saved["facts"]
    what = "a reward model from other files or settings" if saved else "other files"
    raise UsageError(f"fit: {out} holds {what}; choose another --out folder")


def _claim(work: Path, request: dict[str, Any]) -> None:
    """Make the folder of a fit under way, or go on in one that the same request left behind."""
    begun = work / "request.json"
    if work.exists() and any(work.iterdir()) and _trains(_saved(begun)) != _trains(request):
        if not begun.exists() or (work / "checkpoint.pt").exists():
            what = "another, interrupted fit" if begun.exists() else "other files"
            raise UsageError(f"fit: {work} holds {what}; delete it or choose another --out folder")
        _empty(work)  # of a request of ours that failed before it trained; the lock is on the folder itself
    write_json(begun, request)


def _empty(folder: Path) -> None:
    with explained(f"clearing {folder}"):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _trains(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the steps of a fit follow from; what is made after the last of them may change."""
    settings = {key: value for key, value in request.get("settings", {}).items() if key not in began.FREE}
    return {**request, "settings": settings}


def _saved(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fingerprint(path: Path) -> dict[str, str]:
    """A file's name and the SHA-256 of its content; a folder's is of its tables' hashes, a data set's of its rows."""
    if not sources.is_local(str(path)) and "/" not in str(path):  # a data set is called OWNER/NAME
        raise DataError(f"fit: {path}: there is no such file")
    if path.is_dir() and (tables_there := sources.files(path)):
        hashes = b"".join(bytes.fromhex(_sha256(file)) for file in tables_there)
        return {"name": path.name, "sha256": hashlib.sha256(hashes).hexdigest()}
    if path.is_dir() or not sources.is_local(str(path)):
        rows = hashlib.sha256()
        for row in sources.rows(Source(path=str(path))):
            rows.update(json.dumps(row, default=str).encode())
        return {"name": path.name if path.is_dir() else str(path), "sha256": rows.hexdigest()}
    return {"name": path.name, "sha256": _sha256(path)}


def _sha256(file: Path) -> str:
    if not file.is_file():
        raise DataError(f"fit: {file}: there is no such file")
    return sha256(file)


def _place(messages: Sequence[Message]) -> float:
    """A number in [0, 1) that follows from the conversation, whatever its spacing."""
    turns = [[message["role"], " ".join(message["content"].split())] for message in messages]
    return int.from_bytes(hashlib.sha256(json.dumps(turns).encode()).digest()[:8], "big") / 2**64


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as JSON can hold it: dates and the like become text, and what is no number null."""
    return json.loads(json.dumps(row, default=str), parse_constant=lambda _name: None)
