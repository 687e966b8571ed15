"""The one door to the Hugging Face Hub for what leaves this machine; used only where a person asks for it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from starling import keys, texts
from starling.errors import CallError, UsageError

TOKEN = "HF_TOKEN"
Kind = Literal["dataset", "model"]


def token(name: str) -> str:
    """The token from the environment; refuses a name that the Hub does not take, or a missing token."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise UsageError(f"export: --push {name!r} is no name on the Hub; write OWNER/NAME")
    found = keys.read(TOKEN)
    if not found:
        raise UsageError(f"export: --push needs a token of yours in the environment variable {TOKEN}; it is not set")
    return found


def files_of(folder: Path) -> dict[str, Path]:
    """What of a folder goes to the Hub, by path: all but what is hidden."""
    found = {file.relative_to(folder): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {
        path.as_posix(): file for path, file in found.items() if not any(part.startswith(".") for part in path.parts)
    }


def push(files: Mapping[str, Path | str], name: str, stands: Path, *, kind: Kind, public: bool) -> str:
    """Upload files, each a path or its text, as the data set or model `name`, private unless `public`; returns its
    address. The export itself `stands` there, whatever becomes of the push.

    What is public already is left alone unless `public` says so, and what is private is never opened.
    """
    secret = token(name)
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError  # its HTTP library's own, which one depends on its version

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=secret)
    try:
        address = str(api.create_repo(name, repo_type=kind, private=not public, exist_ok=True))
        private = api.repo_info(name, repo_type=kind).private
        if public and private:
            raise UsageError(f"export: {name} is private on the Hub; open it there, or push without --public")
        if not public and not private:
            raise UsageError(f"export: {name} is public on the Hub; add --public, or push under another name")
        added = [
            CommitOperationAdd(path, content.encode() if isinstance(content, str) else content)
            for path, content in files.items()
        ]
        api.create_commit(name, added, repo_type=kind, commit_message="Export from Starling")
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        said = texts.passed_on(error, secret, 300)
        raise CallError(f"export: pushing to {name} failed; the export stands in {stands}: {said}") from error
    return address
