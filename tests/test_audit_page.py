"""What `starling audit --out` writes."""

import re

import pytest
from test_judgements import HOSTILE, shown, write

from starling import audit, audit_page, audit_text, judgements


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("audit")
    hostile = [{"answer": text, "model": "<script>alert(1)</script> $_{x}$"} for text in HOSTILE]
    rows = [shown(), *[shown(answers=hostile)] * audit.FEW, shown("<b>[[A]]</b>")]
    files = [write(folder / "one.jsonl", *rows), write(folder / "two<i>.jsonl", shown())]
    logs = [judgements.read(file) for file in files]
    audit_page.write(folder / "page.html", [audit.audit(log) for log in logs], audit.between(logs))
    return (folder / "page.html").read_text()


def test_a_page_has_every_plot_and_its_figures_in_words(page: str) -> None:
    assert page.count("<svg") == page.count('role="img"') == 7  # first, rank, half twice; models once
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "Ranked first, by place of 3: place 1 0 %; place 2 0 %; place 3 100 %" in page


def test_the_page_says_what_the_terminal_says(page: str) -> None:
    assert "Side by side" in page and "one" in page
    for label in ("without a readable ranking", "longer answer ranked above", "first-named of a pair wins"):
        assert label in page
    assert all(column in page for column in audit_text.SIDE_BY_SIDE)


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert "<script" not in page and "<b>[[" not in page and "two<i>" not in page
    assert re.findall(r'(?:src|href)="(?!#)', page) == []
    assert "default-src 'none'" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
