"""Files and folders that stand whole or not at all, and the hash of a file."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from starling.errors import explained


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(path.name + ".partial")
    with explained(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write what any JSON reader takes: what is no finite number is null."""
    write_atomically(path, json.dumps(without_nan(value), indent=1, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """The same with None for what is not a finite number, since JSON has no word for it."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fill_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder under a temporary name, and put it in this place."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    replace_folder(partial, folder)


def replace_folder(partial: Path, final: Path) -> None:
    """Put a completely written folder in the place of `final`; the old one is gone only after the new one stands.

    Until then it stands beside it in a folder of a new name: `final.old` may be somebody's own.
    """
    if not final.exists():
        os.replace(partial, final)
        return
    aside = Path(mkdtemp(prefix=f"{final.name}.old-", dir=final.parent))
    os.replace(final, aside / final.name)
    os.replace(partial, final)
    shutil.rmtree(aside, ignore_errors=True)


def sha256(path: Path) -> str:
    """The hash of a file's content; "" where there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
