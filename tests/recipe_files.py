"""Recipes with the least that a configuration needs."""

from pathlib import Path

TWO_GENERATORS = '[[sample.generators]]\nname = "a"\n[[sample.generators]]\nname = "b"\n'


def toml(folder: Path, text: str = "") -> Path:
    """A file with the least that a configuration needs, and `text` before it."""
    path = folder / "mine.toml"
    path.write_text(text + TWO_GENERATORS)
    return path
