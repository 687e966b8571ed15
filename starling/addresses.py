"""Which addresses only this machine reaches, and the token that all others ask for."""

import ipaddress
import re

from starling import keys
from starling.errors import UsageError

KEY = "STARLING_API_KEY"


def key(who: str, host: str) -> str:
    """The token that clients give, "" where there is none; refused where other machines would reach `host` without."""
    found = keys.read(KEY)
    if found or is_loopback(host):
        return found
    raise UsageError(
        f"{who}: --host {host} can be reached from other machines; put a token of your choice into the environment "
        f"variable {KEY}, which clients then give as their key or password"
    )


def host_of(header: str) -> str:
    """The host that an HTTP Host header names, without its port and IPv6's brackets; "" where it has another form."""
    match = re.fullmatch(r"(?:\[([\da-fA-F:.]+)\]|([\w.-]+))(?::\d+)?", header)
    return (match[1] or match[2]) if match else ""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; a name that merely looks like one is not asked where it leads."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
