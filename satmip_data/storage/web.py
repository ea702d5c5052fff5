"""Requests to web servers: another try where one says that it is busy, and an end where it says nothing."""

import asyncio
from typing import Any

BUSY = (429, 500, 502, 503, 504)
"""Statuses after which a request is made again."""

TRIES = 4
"""Requests for one thing, at most."""

WAIT = 1.0
"""Seconds before the second request; each further wait is twice as long, or as long as the server says (Retry-After)."""

LONGEST_WAIT = 30.0
"""Seconds between two requests, at most, whatever the server says."""

SILENCE = 60.0
"""Seconds without a byte after which a request has failed."""


def http_options() -> dict[str, Any]:
    """Return the options of fsspec's file system of http(s).

    Raises:
        ImportError: aiohttp is not installed.
    """
    try:
        import aiohttp
    except ImportError as error:
        raise ImportError("URLs of http(s) need aiohttp, which is not installed") from error
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
    return {"client_kwargs": {"timeout": timeout, "middlewares": (_patiently,)}}


async def _patiently(request: Any, handler: Any) -> Any:
    """Make a request of aiohttp, and again where the server is busy; the last answer counts."""
    for attempt in range(TRIES):
        response = await handler(request)
        if response.status not in BUSY or request.method not in ("GET", "HEAD") or attempt == TRIES - 1:
            break
        wait = _seconds(response.headers.get("Retry-After", ""), WAIT * 2**attempt)
        response.release()
        await asyncio.sleep(wait)
    return response


def _seconds(said: str, default: float) -> float:
    """Return how long to wait: what the server says in seconds, which may also be a date, bounded."""
    return min(float(said) if said.isdecimal() else default, LONGEST_WAIT)
