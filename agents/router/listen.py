"""Opening the sockets at which a router listens."""

from __future__ import annotations

from aiohttp import web


async def listen(runner: web.BaseRunner, setting: str, host: str, port: int) -> None:
    """Listen at ``host`` and ``port``; 0: any port that is free.

    Args:
        runner: What answers there.
        setting: Name of the setting that says where, for the error.
        host: A name or address of this machine.
        port: See there.

    Raises:
        OSError: It cannot be; names the setting.
    """
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    except OSError as error:
        why = (error.strerror or str(error)).rpartition(": ")[2]
        raise OSError(f"cannot listen at {host}:{port} ({why}); change {setting}") from error
