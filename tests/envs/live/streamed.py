"""One streamed completion by the standard library, as plain as can be."""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field


@dataclass
class Streamed:
    """What came of one request."""

    sent_at_s: float
    token_at_s: list[float] = field(default_factory=list)
    usage: dict = field(default_factory=dict)

    @property
    def ttft_s(self):
        return self.token_at_s[0] - self.sent_at_s

    @property
    def tpot_s(self):
        return (self.token_at_s[-1] - self.token_at_s[0]) / (len(self.token_at_s) - 1)


def stream(port, prompt, max_tokens, **body):
    """Ask for so many tokens after a prompt of token ids; instants are of ``time.monotonic``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    body |= {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    streamed = Streamed(time.monotonic())
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    for line in response:
        now_s = time.monotonic()
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if chunk["choices"]:
            streamed.token_at_s.append(now_s)
        else:
            streamed.usage = chunk["usage"]
    connection.close()
    return streamed


def stream_all(port, prompts, max_tokens, **body):
    """All at once."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda prompt: stream(port, prompt, max_tokens, **body), prompts))


def metric(port, name):
    """The value of a gauge or counter without regard to its labels."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (line,) = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return float(line.rpartition(" ")[2])
