"""Foreign text that must not steer a terminal, nor become Markdown."""

import pytest

from starling.texts import markdown, passed_on, terminal, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nwith lines", "plain\ttext\nwith lines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\rb\x08\x00", r"a\rb\x08\x00"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202edef", r"abc\u202edef"),
        ("half \ud800", r"half \ud800"),
        ("Zoë 東京 🌧", "Zoë 東京 🌧"),
    ],
)
def test_only_what_steers_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert terminal(text).plain == shown


def test_text_on_a_terminal_is_no_markup_and_may_be_coloured() -> None:
    assert (terminal("[bold]7[/bold]").plain, terminal("x", "red").style) == ("[bold]7[/bold]", "red")
    assert terminal(7).plain == "7"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a | b\nc", r"a \| b c"),
        ("<script>x</script> & y", "&lt;script&gt;x&lt;/script&gt; &amp; y"),
        ("[click](http://x) **bold** `code`", r"\[click\](http://x) \*\*bold\*\* \`code\`"),
        (r"back\slash ${x}", r"back\\slash \$\{x\}"),
        (7, "7"),
    ],
)
def test_text_in_markdown_means_only_itself(text: object, line: str) -> None:
    assert markdown(text) == line


def test_what_a_server_says_is_passed_on_as_a_short_line_without_the_key() -> None:
    said = "bad\n \x1b[31mkey: sesame-1, or sk-proj-abc"
    assert passed_on(said, "sesame-1") == r"bad \x1b[31mkey: ***, or ***"
    assert passed_on(" " * 500 + "sesame-1 " * 100, "sesame-1") == ("*** " * 50)
    assert passed_on("half \ud800") == "half ?"
    assert passed_on(None) == "None"
