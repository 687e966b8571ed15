"""Files that stand whole or not at all, and JSON that any reader takes."""

import json
import math
from pathlib import Path

from starling import writing


def test_what_is_not_finite_becomes_none() -> None:
    assert writing.without_nan({"a": [math.nan, 1.5, (math.inf,)], 2: "x"}) == {"a": [None, 1.5, [None]], "2": "x"}


def test_json_has_no_word_for_what_is_no_number(tmp_path: Path) -> None:
    writing.write_json(tmp_path / "deeper" / "one.json", {"value": math.nan, "name": "é"})
    text = (tmp_path / "deeper" / "one.json").read_text()
    assert "NaN" not in text
    assert json.loads(text) == {"value": None, "name": "é"}
