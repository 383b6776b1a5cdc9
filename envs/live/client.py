"""One endpoint's HTTP, but for the streams of requests."""

from __future__ import annotations

import errno
from typing import NoReturn

from envs.live.endpoint import Endpoint
from envs.live.limits import Limits

try:
    import aiohttp
except ImportError as error:  # pragma: no cover
    raise ImportError(
        f"a live cluster needs {error.name}, which is not installed: pip install 'routegym[live]'"
    ) from error

KEEP_ALIVE = 2.0
"""Seconds that an idle connection is kept: less than the 5 after which vLLM's server closes it, so that no
request is sent into a connection that is being closed."""
BROKE_OFF = "connection broke off"
MOST_SAID = 300
"""Characters of what a server said that are worth being logged."""


class NoAnswerError(Exception):
    """A server that did not do what it was asked for.

    Args:
        reason: In a few words, without anything that the server said.
        status: Of HTTP, where there was an answer.
        mend: What to do about it, where the reason alone tells.
    """

    def __init__(self, reason: str, status: int | None = None, mend: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.mend = mend

    @property
    def is_down(self) -> bool:
        """Whether it speaks against the server and not against what it was asked."""
        return self.status is None or self.status >= 500


class Client:
    """Talks to one endpoint; made, used and closed in one loop.

    Args:
        speed_factor: Cluster seconds per second.
    """

    def __init__(self, endpoint: Endpoint, limits: Limits, speed_factor: float = 1.0) -> None:
        self.endpoint, self.limits = endpoint, limits
        self._speed_factor = speed_factor
        headers = endpoint.headers()
        self._secret = headers.get("Authorization", "").removeprefix("Bearer ")
        connect = limits.connect_timeout_s / speed_factor
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=KEEP_ALIVE),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()

    async def get(self, path: str, timeout_s: float) -> str:
        """Return what the server says. Raises ``NoAnswerError``."""
        return await self._ask("GET", path, timeout_s)

    async def is_up(self) -> bool:
        """Whether ``/health`` answers that it is."""
        try:
            await self.get("/health", self.limits.connect_timeout_s)
        except NoAnswerError:
            return False
        return True

    async def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache; return whether the server did, which those in development mode can."""
        try:
            await self._ask("POST", "/reset_prefix_cache", self.limits.connect_timeout_s)
        except NoAnswerError:
            return False
        return True

    async def beginning(self, content: aiohttp.StreamReader) -> str:
        """The beginning of what a server says, without the API key or any part of it should it repeat that.

        Raises what aiohttp does; what had come by then may end within the key, and is kept to itself.
        """
        num_secret = len(self._secret.encode())
        wanted, said = MOST_SAID + num_secret, b""
        while len(said) < wanted and (more := await content.read(wanted - len(said))):
            said += more
        text = said.decode("utf-8", "replace")
        if self._secret:
            text = text.replace(self._secret, "***")
            if len(said) == wanted:  # and so may end within the key
                text = text[:-num_secret]
        return text[:MOST_SAID]

    async def _ask(self, method: str, path: str, timeout_s: float) -> str:
        timeout = aiohttp.ClientTimeout(total=timeout_s / self._speed_factor)
        url = self.endpoint.url + path
        try:
            async with self.session.request(method, url, timeout=timeout, allow_redirects=False) as response:
                text = (await response.read()).decode("utf-8", "replace")
                status = response.status
        except (aiohttp.ClientError, OSError) as error:
            raise_as_no_answer(error, f"timed out: no answer within {timeout_s:g} s")
        if status != 200:
            raise NoAnswerError(f"http {status}", status)
        return text


def raise_as_no_answer(error: BaseException, timed_out: str) -> NoReturn:
    """Raise ``NoAnswerError`` for what aiohttp raised, which may hold the headers and so the API key."""
    reason, mend = f"no HTTP ({type(error).__name__})", ""
    if isinstance(error, TimeoutError):
        reason = timed_out
    elif isinstance(error, aiohttp.ClientConnectorCertificateError):  # in aiohttp 3.10 without os_error
        why = getattr(error.certificate_error, "verify_message", "")
        reason = "certificate not trusted" + (f": {why}" if why else "")
        mend = "export SSL_CERT_FILE, the path of a file with its issuer's certificate"
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        reason = f"no connection: {cause.strerror or type(cause).__name__}"
        if cause.errno == errno.ECONNREFUSED:
            reason = "connection refused"
    elif isinstance(error, OSError | aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        reason = BROKE_OFF
    raise NoAnswerError(reason, mend=mend) from None
