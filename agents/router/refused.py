"""A request that is answered with an error of the router's own."""

from __future__ import annotations

import json


class RefusedError(Exception):
    """The message is for the client.

    Args:
        status: Of HTTP.
        kind: The error's type, as OpenAI's API names them.
        message: What is wrong.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind

    @property
    def body(self) -> str:
        """As JSON in the form of OpenAI's errors."""
        said = {"message": str(self), "type": self.kind, "code": self.status, "param": None}
        return json.dumps({"error": said})

    @property
    def headers(self) -> dict[str, str]:
        """What goes with it."""
        own = {"Content-Type": "application/json; charset=utf-8"}
        return own | {"Retry-After": "1"} if self.status in (429, 503) else own
