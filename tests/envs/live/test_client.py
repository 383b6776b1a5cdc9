"""What is told of a server that cannot be asked, and what is kept to itself of what it says."""

import asyncio
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from envs.live.client import MOST_SAID, Client, NoAnswerError, raise_as_no_answer
from envs.live.endpoint import Endpoint
from envs.live.limits import Limits

KEY = "sk-" + "0123456789" * 4
URL = "https://host:8000"


def beginning(pieces):
    """Of a server that says ``pieces``, each in a packet of its own."""

    async def heard():
        client = Client(Endpoint("a", URL, api_key_env="MY_KEY"), Limits())
        reader = asyncio.StreamReader()

        async def say():
            for piece in pieces:
                reader.feed_data(piece.encode())
                await asyncio.sleep(0.001)
            reader.feed_eof()

        try:
            text, _ = await asyncio.gather(client.beginning(reader), say())
            return text
        finally:
            await client.close()

    return asyncio.run(heard())


@pytest.mark.parametrize("at", [0, 1, MOST_SAID - len(KEY), MOST_SAID - 20, MOST_SAID - 1, MOST_SAID])
@pytest.mark.parametrize("before", ["", KEY])
def test_no_part_of_the_key_is_repeated(monkeypatch, at, before):
    monkeypatch.setenv("MY_KEY", KEY)
    said = before + "." * at + KEY + "." * 400
    half = len(before) + at + 7
    for pieces in ([said], [said[:half], said[half:]], list(said)):
        text = beginning(pieces)
        assert "sk" not in text
        assert len(text) <= MOST_SAID


def test_what_is_short_is_told_whole(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    assert beginning([f"bad key {KEY[:9]}", KEY[9:], ", go away"]) == "bad key ***, go away"
    assert beginning([]) == ""


def test_a_certificate_that_is_not_trusted():
    class Older(aiohttp.ClientConnectorCertificateError):
        """As of aiohttp 3.10, where the class sets none."""

        @property
        def os_error(self):
            raise AttributeError("'ClientConnectorCertificateError' object has no attribute '_os_error'")

    key = ConnectionKey("host", 8000, True, True, None, None, None)
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed")
    refused.verify_message = "self-signed certificate"
    with pytest.raises(NoAnswerError, match=r"^certificate not trusted: self-signed certificate$") as told:
        raise_as_no_answer(Older(key, refused), "timed out")
    assert "SSL_CERT_FILE" in told.value.mend
    assert told.value.is_down
