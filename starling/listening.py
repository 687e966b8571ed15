"""A port of this machine: taken before anything else is begun, held until Ctrl-C."""

import asyncio
import errno
import signal
import socket

from starling.errors import UsageError


def bound(who: str, host: str, port: int) -> socket.socket:
    """The socket on which the command `who` listens there; port 0 takes a free one."""
    try:
        family, kind, protocol, _name, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UsageError(f"{who}: --host {host}: {error.strerror}") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"{who}: port {port} on {host} is in use; stop what holds it or give --port") from error
        raise UsageError(f"{who}: cannot listen on {host} port {port}: {error.strerror}") from error
    return listening


def stop_asked() -> asyncio.Event:
    """What is set once Ctrl-C or SIGTERM asks the running loop's program to end."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped
