"""The options of a benchmark: what it does not look at is refused."""

from pathlib import Path

import pytest

from starling.benches.asked import Asked, refuse_others
from starling.errors import UsageError


def test_an_option_that_means_nothing_to_a_benchmark_is_refused() -> None:
    refuse_others("x", Asked(model="m", out=Path("o")), frozenset(("model", "out")))
    with pytest.raises(UsageError, match="--judge means nothing to x; it takes --model, --out"):
        refuse_others("x", Asked(model="m", judge=("j",)), frozenset(("model", "out")))
