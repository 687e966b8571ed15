"""A page that needs nothing but itself."""

import base64
import hashlib
import json
from pathlib import Path

import runs
from page_reader import Page

from starling import page
from starling.stages import report


def test_a_pointer_escapes_slash_and_tilde() -> None:
    assert page.pointer(["a/b", 0, "c~d"]) == "/a~1b/0/c~0d"


def test_the_policy_lets_exactly_the_script_of_the_page_run(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ())
    report.run(run)
    text = run.report_path.read_text()
    script = text.partition("<script>")[2].partition("</script>")[0]
    assert script == (Path(page.__file__).parent / "pages" / "report.js").read_text()
    allowed = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for tag, a in Page(text).elements if tag == "meta" and a.get("http-equiv"))
    assert f"script-src '{allowed}';" in str(policy)


def test_a_number_is_what_the_json_has_and_names_its_place() -> None:
    assert page.figure({"a/b": [0.573]}, "share", "a/b", 0) == (
        '<span data-figure="share" data-at="/a~1b/0">57.3\u00a0%</span>'
    )


def test_numbers_stand_beside_the_page(tmp_path: Path) -> None:
    page.write(tmp_path / "a.html", "<p>", {"x": 0.5, "y": "\u00e9"})
    assert (tmp_path / "a.html").read_text() == "<p>"
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 0.5, "y": "\u00e9"}
    page.write(tmp_path / "b.html", "<p>", {"x": float("nan")})
    assert json.loads((tmp_path / "b.json").read_text()) == {"x": None}
