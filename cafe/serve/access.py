"""Who may ask, and how much: checks before anything of a request is looked at.

- A `Host` that is no address of this machine is refused: a page elsewhere may let its own name
  point here (DNS rebinding).
- What changes something is refused where another page asks for it (`Origin`, CSRF).
- Where a token is set, nothing is answered without it.
- A body has a limit of bytes, and a time in which it must come.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import HTTPException

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 64 << 20
"""Of the body of a request."""

SECONDS = 60.0
"""In which a body must be here."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain")


def is_loopback(host: str) -> bool:
    """Whether a host that a server is bound to is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES


@dataclass
class Access:
    """An ASGI application behind the checks.

    Attributes
    ----------
    app : callable
    host : str
        What the server is bound to.
    token : str
        "" asks for none.
    most_bytes, seconds : int, float
        Of the body of a request.
    """

    app: App
    host: str = "127.0.0.1"
    token: str = ""
    most_bytes: int = MOST_BYTES
    seconds: float = SECONDS
    cookie: str = field(default="cafe-token")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        if self.token and not self._has_token(headers):
            await self._ask_for_token(scope, send)
            return
        await self._run(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_own(host):
            return 421, f"this server does not answer for '{host[:200]}'."
        if scope["method"] not in ("GET", "HEAD") and not _is_same_origin(headers, host):
            return 403, "a page of another site may not ask for this."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self.most_bytes:
            return 413, f"a request may have {self.most_bytes:,} bytes."
        return None

    def _is_own(self, host: str) -> bool:
        """Whether a `Host` names this server: an address, or the name that it was bound to."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name == self.host.lower() or name in _LOOPBACK_NAMES:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # no name points anywhere by a number; of loopback only loopback's own
        return address.is_loopback or not is_loopback(self.host)

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(given.strip()):
            return True
        try:
            jar = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return self.cookie in jar and self._is_token(jar[self.cookie].value)

    def _is_token(self, given: str) -> bool:
        # compared in a time that says nothing of where they differ
        return secrets.compare_digest(given.encode(), self.token.encode())

    async def _ask_for_token(self, scope: Scope, send: Send) -> None:
        """Exchange `/?token=` for a cookie, so that the token does not stay in the address."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and scope["method"] == "GET" and self._is_token(given):
            cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            await _answer(send, 303, "", {"location": "/", "set-cookie": cookie})
        else:
            words = "open the address with the token that 'cafe serve' printed, or send it as "
            words += "'Authorization: Bearer TOKEN'."
            await _answer(send, 401, words, {"www-authenticate": "Bearer"})

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0
        ends = asyncio.get_running_loop().time() + self.seconds
        is_read = False

        async def bounded_receive() -> MutableMapping[str, Any]:
            nonlocal taken, is_read
            if is_read:
                return await receive()
            left = ends - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, left))
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the request took over {self.seconds:g} s.") from None
            taken += len(message.get("body", b""))
            is_read = not message.get("more_body", False)
            if taken > self.most_bytes:
                raise HTTPException(413, f"a request may have {self.most_bytes:,} bytes.")
            return message

        async def sealed_send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self.app(scope, bounded_receive, sealed_send)


def _is_same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Whether a request is of the server's own page, or of a program, which names no origin."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


async def _answer(
    send: Send, status: int, words: str, headers: Mapping[str, str] | None = None
) -> None:
    own = {"content-type": "application/json", **HEADERS, **(headers or {})}
    pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in own.items()]
    body = json.dumps({"detail": words}).encode() if words else b""
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
