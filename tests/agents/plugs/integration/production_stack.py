"""production-stack's router routes by the plug.

Run in .venv-plugs-stack, with a bundle's folder and the router's ``src`` on PYTHONPATH. The router is a
process of its own, this file with ``--serve``: it holds its decisions against the bundle as it ends.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

NUM_REQUESTS = 60


def serve():
    from recorded import check, record

    from plugs import production_stack

    seen = record()
    with contextlib.suppress(KeyboardInterrupt):
        production_stack.main()
    check(seen, NUM_REQUESTS)
    first, _ = seen[0]
    assert first["instances"][:, 0].tolist() == [0.0, 2.0, 4.0], "the scrapes are not seen"
    in_flight = max(float(observation["instances"][:, 5].max()) for observation, _ in seen)
    assert in_flight >= 2, "requests in flight are not seen"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def until(condition, process, limit_s=60.0):
    deadline = time.monotonic() + limit_s
    while True:
        assert process.poll() is None, "the router ended"
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.1)


def counters(url):
    lines = [line for line in get(f"{url}/metrics").splitlines() if line.startswith("routegym_plug{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def ask(url, backends):
    def one(number):
        body = {"model": "fake", "max_tokens": 3, "stream": number % 2 == 0}
        body["messages"] = [{"role": "user", "content": "x" * (100 + 700 * (number % 4))}]
        answer = post(f"{url}/v1/chat/completions", body)
        assert ("[DONE]" in answer) == body["stream"], answer

    for first in range(0, NUM_REQUESTS, 6):
        threads = [threading.Thread(target=one, args=(number,)) for number in range(first, first + 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    served = [len(backend.bodies) for backend in backends]
    assert sum(served) == NUM_REQUESTS
    assert sum(count > 0 for count in served) > 1, served
    return served


def main():
    from fake_backend import Backend

    backends = [Backend(ttft_s=0.02, token_interval_s=0.01, waiting=2.0 * place) for place in range(3)]
    port = free_port()
    url, urls = f"http://127.0.0.1:{port}", [backend.url for backend in backends]
    plug = {"seed": 0, "scrape_interval_s": 0.2, "profiles": {urls[0]: {"decode_step_s": 0.02}}}
    command = [sys.executable, __file__, "--serve", "--plug", json.dumps(plug), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--service-discovery", "static", "--static-backends", ",".join(urls)]
    command += ["--static-models", "fake,fake,fake", "--log-level", "error"]
    router = subprocess.Popen(command)
    try:
        until(lambda: get(f"{url}/health") is not None, router)
        until(lambda: all(backend.num_scrapes >= 2 for backend in backends), router)
        served = ask(url, backends)
        until(lambda: counters(url)["flights"] == 0, router)
        said = counters(url)
        assert said["decisions"] == NUM_REQUESTS, said
        assert not [name for name in said if "Error" in name or "fallback" in name], said
        for backend in backends:
            backend.status = 500
        with contextlib.suppress(urllib.error.HTTPError):
            post(f"{url}/v1/completions", {"model": "fake", "prompt": "x"})
        backends[0].end()
        until(lambda: counters(url)["flights"] == 0, router)
        router.send_signal(signal.SIGINT)
        assert router.wait(timeout=30) == 0, "the router's decisions are not the bundle's"
        print("production-stack, requests served by each:", served, said)
    finally:
        if router.poll() is None:
            router.kill()
            router.wait()
        for backend in backends[1:]:
            backend.end()


if __name__ == "__main__":
    if "--serve" in sys.argv:
        sys.argv.remove("--serve")
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
        serve()
    else:
        main()
