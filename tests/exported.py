"""A small table of rankings, and what comes of its export."""

from pathlib import Path
from typing import Any

from datasets import load_dataset
from small_road import write_lines

from starling import export

NECTAR = {
    "prompt": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: what is rain?\n\nAssistant: ",
    "answers": [
        {"answer": "water", "model": "a", "rank": 1.0},
        {"answer": "drops", "model": "b", "rank": 2.0},
        {"answer": "clouds", "model": "c", "rank": 2.0},
    ],
    "turns": 2,
    "num_responses": 3,
    "source": ["hand", "other"],
    "good_natured": True,
}
PAIR = {"prompt": "What is snow?", "chosen": "frozen water", "rejected": "sand"}


def write_table(folder: Path) -> Path:
    """Rankings in two forms; the first has a tie."""
    return write_lines(folder / "rankings.jsonl", [NECTAR, PAIR])


def exported(table: Path, form: str, **more: Any) -> dict[str, Any]:
    """What the export into the folder `out` beside the table tells."""
    return export.export(table, form, table.parent / "out", **more)


def loaded(table: Path) -> Any:
    """What `datasets` makes of that folder, by the header of its card."""
    return load_dataset(str(table.parent / "out"), cache_dir=str(table.parent / "cache"))
