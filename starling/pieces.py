"""Token ids as they come -> pieces of text, up to a stop string."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from starling import chat

_BROKEN = "\ufffd"  # what a tokenizer writes for bytes that are no whole character yet


class Pieces:
    """The text of one answer, piece by piece.

    A piece is held back while its last character is not whole, and while it could be the beginning of a stop string.
    All pieces together are the text before the stop string that is complete first, however the text falls into tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        self._start = 0  # a piece is read together with the one before it: blanks depend on what precedes them
        self._read = 0
        self._held = ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that is certain now that `token` has come."""
        self._ids.append(token)
        return self._release(self._unread(), last=False)

    def end(self) -> str:
        """What is left when no further token comes."""
        return self._release(self._unread(whole=False), last=True)

    def _unread(self, *, whole: bool = True) -> str:
        before = chat.bare_text(self._tokenizer, self._ids[self._start : self._read])
        now = chat.bare_text(self._tokenizer, self._ids[self._start :])
        if whole and now.endswith(_BROKEN):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _release(self, text: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        held = self._held + text
        places = [(at + len(stop), at) for stop in self._stop if (at := held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return held[: min(places)[1]]
        kept = 0 if last else max((_begun(held, stop) for stop in self._stop), default=0)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]


def _begun(text: str, stop: str) -> int:
    """How many characters of `stop` the text ends on."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
