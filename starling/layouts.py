"""One ranking in the forms that other tools read: its rows, and what it had to leave out and why.

Ties are no preference, so they give no pair. Where a number is made of ranks, tied answers share the mean of the
places that they take.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from starling import tables, turns
from starling.judges.ranks import middle_ranks
from starling.records import Candidate, Message, Ranking

Row = dict[str, Any]
PAIRS = ("all", "adjacent", "best_worst")
NAME = "starling"  # LLaMA-Factory knows a split as `starling_<split>`

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ANSWERS = pa.list_(pa.struct([("answer", pa.string()), ("model", pa.string()), ("rank", pa.float64())]))
_ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A ranking on its way out: the row it was read from, its place in the export, and the choice of pairs.

    `systems` is the system prompt of each generator by name, as far as they are known.
    """

    ranking: Ranking
    row: Mapping[str, Any]
    split: str = "train"
    index: int = 0
    pairs: str = "all"
    systems: Mapping[str, str] | None = None


LeftOut = Counter[str]
Write = Callable[[Item, LeftOut], Iterator[Row]]


class Form(NamedTuple):
    """A form: how a ranking is written in it, its Parquet columns (None = JSON lines), what one of its rows is."""

    write: Write
    schema: pa.Schema | None
    row_is: Literal["ranking", "pair", "answer"]
    about: str

    @property
    def ending(self) -> str:
        return ".jsonl" if self.schema is None else ".parquet"


class Pair(NamedTuple):
    """A better and a worse answer; `margin` is the distance of their ranks as a share of the longest possible."""

    better: Candidate
    worse: Candidate
    margin: float


def pairs(ranking: Ranking, which: str, left_out: LeftOut) -> Iterator[Pair]:
    """The pairs of a ranking: all, neighbours in the ranking, or its best with its worst answer."""
    ranks = middle_ranks(ranking.ranks)
    best_first = sorted(range(len(ranks)), key=ranks.__getitem__)
    if len(best_first) < 2:
        left_out["rankings of fewer than two answers"] += 1
        return
    chosen = {
        "all": combinations(best_first, 2),
        "adjacent": pairwise(best_first),
        "best_worst": [(best_first[0], best_first[-1])],
    }[which]
    for i, j in chosen:
        better, worse = ranking.answers[i], ranking.answers[j]
        if ranks[i] == ranks[j]:
            placed = math.isfinite(ranking.ranks[i])
            left_out["pairs that are tied" if placed else "pairs of which neither answer has a place"] += 1
        elif not better.answer.strip() or not worse.answer.strip():
            left_out["pairs with an empty answer"] += 1
        elif better.answer == worse.answer:
            left_out["pairs of the same text"] += 1
        else:
            yield Pair(better, worse, (ranks[j] - ranks[i]) / (len(ranks) - 1))


def _nectar(item: Item, left_out: LeftOut) -> Iterator[Row]:
    row = tables.ranking_row(replace(item.ranking, orders=(), panel=()))  # which Nectar does not have
    kept = {name: row[name] for name in _NECTAR.names if name not in ("answers", "prompt", "source")}
    answers = [{name: answer[name] for name in ("answer", "model", "rank")} for answer in row["answers"]]
    text = item.row.get("prompt")
    prompt = text if isinstance(text, str) else row["prompt"]  # Nectar's own text stays as it is
    yield kept | {"prompt": prompt, "answers": answers, "source": _sources(item)}


def _trl(item: Item, left_out: LeftOut) -> Iterator[Row]:
    for pair in pairs(item.ranking, item.pairs, left_out):
        yield {
            "prompt": list(item.ranking.messages),
            "chosen": [_said(pair.better)],
            "rejected": [_said(pair.worse)],
            "margin": pair.margin,
            "prompt_id": item.ranking.prompt_id,
            "chosen_model": pair.better.model,
            "rejected_model": pair.worse.model,
        }


def _unpaired(item: Item, left_out: LeftOut) -> Iterator[Row]:
    """The better half of a ranking is labelled true, the worse half false; what stands in the middle is neither."""
    middle = (len(item.ranking.answers) + 1) / 2
    for answer, rank in zip(item.ranking.answers, middle_ranks(item.ranking.ranks), strict=True):
        if not answer.answer.strip():
            left_out["answers that are empty"] += 1
        elif rank == middle:
            left_out["answers in the middle of their ranking"] += 1
        else:
            yield {
                "prompt": list(item.ranking.messages),
                "completion": [_said(answer)],
                "label": rank < middle,
                "prompt_id": item.ranking.prompt_id,
                "model": answer.model,
            }


def _ultrafeedback(item: Item, left_out: LeftOut) -> Iterator[Row]:
    """The overall score goes from 10 for the first place to 1 for the last; no aspect was rated, none is made up."""
    ranking, k = item.ranking, len(item.ranking.answers)
    said = [at for at, answer in enumerate(ranking.answers) if answer.answer.strip()]
    if len(said) < k:
        left_out["answers that are empty"] += k - len(said)
    ranks = middle_ranks(ranking.ranks)
    single = len(ranking.messages) == 1
    yield {
        "source": ", ".join(_sources(item)),
        "instruction": ranking.messages[0]["content"] if single else turns.text_from_messages(ranking.messages),
        "models": [ranking.answers[at].model for at in said],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
        "completions": [
            {
                "model": ranking.answers[at].model,
                "principle": "",
                "custom_system_prompt": (item.systems or {}).get(ranking.answers[at].model, ""),
                "response": ranking.answers[at].answer,
                "annotations": {aspect: {"Rating": "N/A", "Rationale": "not rated: ranked"} for aspect in _ASPECTS},
                "critique": "",
                "fine-grained_score": None,
                "overall_score": 10 - 9 * (ranks[at] - 1) / (k - 1) if k > 1 else None,
                "rank": tables.told_rank(ranking.ranks[at]),
            }
            for at in said
        ],
        "prompt_id": ranking.prompt_id,
    }


def _nemo_rl(item: Item, left_out: LeftOut) -> Iterator[Row]:
    """Two completions a row: its schema has room for more, its trainer takes two."""
    for pair in pairs(item.ranking, item.pairs, left_out):
        yield {
            "context": list(item.ranking.messages),
            "completions": [
                {"rank": 0, "completion": [_said(pair.better)]},
                {"rank": 1, "completion": [_said(pair.worse)]},
            ],
            "prompt_id": item.ranking.prompt_id,
        }


def _verl(item: Item, left_out: LeftOut) -> Iterator[Row]:
    """A prompt to answer; the best answer stands as `ground_truth`, all of them with their ranks in `extra_info`."""
    ranking = item.ranking
    best = min(range(len(ranking.ranks)), key=ranking.ranks.__getitem__)
    ranked = zip(ranking.answers, ranking.ranks, strict=True)
    yield {
        "data_source": ", ".join(_sources(item)) or NAME,
        "prompt": list(ranking.messages),
        "ability": "alignment",
        "reward_model": {"style": "model", "ground_truth": ranking.answers[best].answer},
        "extra_info": {
            "split": item.split,
            "index": item.index,
            "prompt_id": ranking.prompt_id,
            "answers": [{"answer": a.answer, "model": a.model, "rank": tables.told_rank(rank)} for a, rank in ranked],
        },
    }


def _llamafactory(item: Item, left_out: LeftOut) -> Iterator[Row]:
    turns = [message["role"] for message in item.ranking.messages]
    turns = turns[1:] if turns[0] == "system" else turns
    if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(turns)):
        left_out["rankings whose turns do not alternate"] += 1  # it would skip them while training
        return
    for pair in pairs(item.ranking, item.pairs, left_out):
        yield {
            "messages": list(item.ranking.messages),
            "chosen": _said(pair.better),
            "rejected": _said(pair.worse),
            "prompt_id": item.ranking.prompt_id,
        }


def dataset_info(files: Mapping[str, str]) -> dict[str, Any]:
    """What LLaMA-Factory's `dataset_info.json` says of the files of these splits."""
    return {
        f"{NAME}_{split}": {
            "file_name": file,
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
            "tags": {
                "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }
        for split, file in files.items()
    }  # fmt: skip


def _said(answer: Candidate) -> Message:
    return Message(role="assistant", content=answer.answer)


def _sources(item: Item) -> list[str]:
    source = item.row.get("source")
    listed: Sequence[Any] = source if isinstance(source, list) else [item.ranking.source]
    return [str(name) for name in listed if name]


_NECTAR = pa.schema([
    ("prompt", pa.string()), ("answers", _ANSWERS), ("turns", pa.int64()), ("num_responses", pa.int64()),
    ("source", pa.list_(pa.string())), ("good_natured", pa.bool_()),
])  # fmt: skip
_TRL = pa.schema([
    ("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES), ("margin", pa.float64()),
    ("prompt_id", pa.string()), ("chosen_model", pa.string()), ("rejected_model", pa.string()),
])  # fmt: skip
_UNPAIRED = pa.schema([
    ("prompt", _MESSAGES), ("completion", _MESSAGES), ("label", pa.bool_()), ("prompt_id", pa.string()),
    ("model", pa.string()),
])  # fmt: skip
_VERL = pa.schema([
    ("data_source", pa.string()), ("prompt", _MESSAGES), ("ability", pa.string()),
    ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
    ("extra_info", pa.struct([
        ("split", pa.string()), ("index", pa.int64()), ("prompt_id", pa.string()), ("answers", _ANSWERS),
    ])),
])  # fmt: skip

EXPORTS: Mapping[str, Form] = {
    "nectar": Form(_nectar, _NECTAR, "ranking", "Nectar's columns and no others"),
    "trl": Form(_trl, _TRL, "pair", "TRL preference pairs as message lists, with `margin`"),
    "unpaired": Form(_unpaired, _UNPAIRED, "answer", "TRL unpaired preferences: `prompt`, `completion`, `label`"),
    "ultrafeedback": Form(_ultrafeedback, None, "ranking", "UltraFeedback's `instruction` and `completions`"),
    "nemo-rl": Form(_nemo_rl, None, "pair", "NeMo-RL's `context` and `completions` with `rank`"),
    "verl": Form(_verl, _VERL, "ranking", "verl's prompts with `reward_model` and `extra_info`"),
    "llamafactory": Form(_llamafactory, None, "pair", "LLaMA-Factory pairs with `dataset_info.json`"),
}
