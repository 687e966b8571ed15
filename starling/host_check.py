"""What stands before a page on loopback: only who asks for it by this machine's own names is let in.

A page of another site whose name was made to lead here (DNS rebinding) still sends that name.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starling.addresses import host_of, is_loopback

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SAID = b"only this machine's own names are served"


class OwnNames:
    """An ASGI app that answers 403 in the place of `app` unless the request's one Host is a loopback address."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request; what is no request, such as the server's start, is let through."""
        hosts = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name.lower() == b"host"]
        if scope["type"] == "lifespan" or (len(hosts) == 1 and is_loopback(host_of(hosts[0]))):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(SAID)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": SAID})
