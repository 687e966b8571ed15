"""The options of a benchmark: what it does not look at is refused."""

from pathlib import Path

import pytest

from starling.benches.asked import Asked, refuse_files, refuse_others
from starling.errors import UsageError


def test_an_option_that_means_nothing_to_a_benchmark_is_refused() -> None:
    refuse_others("x", Asked(model="m", out=Path("o")), frozenset(("model", "out")))
    with pytest.raises(UsageError, match="--judge means nothing to x; it takes --model, --out"):
        refuse_others("x", Asked(model="m", judge=("j",)), frozenset(("model", "out")))


def test_files_that_are_not_there_or_in_the_way_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refuse_files(Asked(answers=tmp_path / "file", out=tmp_path))
    refuse_files(Asked(out=tmp_path / "new"))
    with pytest.raises(UsageError, match=r"^bench: --answers .*gone\.jsonl: there is no such file$"):
        refuse_files(Asked(answers=tmp_path / "gone.jsonl"))
    with pytest.raises(UsageError, match=r"^bench: --out .*file is a file; a benchmark writes a folder$"):
        refuse_files(Asked(out=tmp_path / "file"))
