"""A page that needs nothing but itself."""

import base64
import hashlib
import json
from pathlib import Path

from page_reader import Page

from starling import page


def test_a_pointer_escapes_slash_and_tilde() -> None:
    assert page.pointer(["a/b", 0, "c~d"]) == "/a~1b/0/c~0d"


def test_the_policy_lets_exactly_the_script_of_the_page_run(tmp_path: Path) -> None:
    text = page.render("comparison.html.jinja", NUMBERS, ["report.js"], plots={}, cases=[], kinds=[])
    script = text.partition("<script>")[2].partition("</script>")[0]
    assert script == (Path(page.__file__).parent / "pages" / "report.js").read_text()
    allowed = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for tag, a in Page(text).elements if tag == "meta" and a.get("http-equiv"))
    assert f"script-src '{allowed}';" in str(policy)
