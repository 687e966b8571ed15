"""The one door to the Hugging Face Hub for what leaves this machine; used only where a person asks for it."""

import os
import re
from pathlib import Path

from starling import keys
from starling.errors import CallError, UsageError

TOKEN = "HF_TOKEN"


def token(name: str) -> str:
    """The token from the environment; refuses a name that the Hub does not take, or a missing token."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise UsageError(f"export: --push {name!r} is no name on the Hub; write OWNER/NAME")
    found = keys.read(TOKEN)
    if not found:
        raise UsageError(f"export: --push needs a token of yours in the environment variable {TOKEN}; it is not set")
    return found


def push(folder: Path, name: str, *, public: bool) -> str:
    """Upload a folder as the data set `name`, private unless `public`; returns its address.

    A data set that is public already is left alone unless `public` says so, and a private one is never opened.
    """
    secret = token(name)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=secret)
    try:
        address = str(api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True))
        private = api.dataset_info(name).private
        if public and private:
            raise UsageError(f"export: {name} is private on the Hub; open it there, or push without --public")
        if not public and not private:
            raise UsageError(f"export: {name} is public on the Hub; add --public, or push under another name")
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset", commit_message="Export from Starling")
    except (OSError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).replace(secret, "***").split())[:300]
        raise CallError(f"export: pushing to {name} failed; the export stands in {folder}: {said}") from error
    return address
