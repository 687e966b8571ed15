"""Keys and tokens, which come from the environment alone."""

import os
import re

from starling.errors import UsageError


def read(variable: str) -> str:
    """The key that an environment variable holds, "" where there is none; refused is what no header could carry."""
    found = os.environ.get(variable, "").strip()
    if re.search(r"[\x00-\x1f\x7f]", found):
        raise UsageError(f"the key in {variable} holds a line break or control character; set it to the key alone")
    return found
