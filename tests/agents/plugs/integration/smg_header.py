"""smg routes as the plug says. Run in .venv-plugs-smg, with a bundle's folder on PYTHONPATH."""

import importlib.metadata
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from fake_backend import Backend
from production_stack import free_port, until
from recorded import check, record

from plugs.smg_header import ROUTED_HEADER, SmgHeader

NUM_WORKERS, NUM_REQUESTS = 6, 120


def send(url, plug, number, headers=None):
    body = {"model": "fake", "max_tokens": 2}
    body["messages"] = [{"role": "user", "content": "x" * (100 + 700 * (number % 4))}]
    call = plug.route(body)
    asked = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **call.headers},
    )
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            call.answered(answer.headers)
            call.ended(json.loads(answer.read())["usage"]["completion_tokens"])
            return call, answer.headers[ROUTED_HEADER]
    except urllib.error.HTTPError as error:
        call.ended(0)
        return call, error.code


def routes_as_meant(url, plug, backends, count):
    meant = {backend.url: len(backend.bodies) for backend in backends}
    lock = threading.Lock()

    def one(number):
        call, routed = send(url, plug, number)
        assert call.headers
        assert routed == call.url, (routed, call.url)
        with lock:
            meant[call.url] += 1

    failed = []
    threading.excepthook = lambda what: failed.append(what.exc_value)
    for first in range(0, count, 6):
        threads = [threading.Thread(target=one, args=(number,)) for number in range(first, first + 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed, failed[0]
    assert {backend.url: len(backend.bodies) for backend in backends} == meant


def main():
    seen = record()
    backends = [Backend(ttft_s=0.01, waiting=float(place % 2)) for place in range(NUM_WORKERS)]
    port = free_port()
    url, urls = f"http://127.0.0.1:{port}", [backend.url for backend in backends]
    command = [sys.executable, "-m", "smg", "launch", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--prometheus-host",
        "127.0.0.1",
        "--prometheus-port",
        str(free_port()),
        "--log-level",
        "error",
    ]
    command += ["--policy", "consistent_hashing", "--disable-circuit-breaker", "--disable-retries"]
    command += [
        "--health-check-interval-secs",
        "1",
        "--health-failure-threshold",
        "1",
        "--worker-urls",
        *urls,
    ]
    smg = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    plug = SmgHeader(url, interval_s=0.2, seed=0)
    try:
        until(lambda: len(plug._workers) == NUM_WORKERS, smg)
        until(lambda: all(backend.num_scrapes >= 2 for backend in backends), smg)
        order = [worker.url for worker in plug._workers]
        routes_as_meant(url, plug, backends, NUM_REQUESTS)
        assert sum(len(backend.bodies) > 0 for backend in backends) > 1
        print(
            "order on the command line",
            list(range(NUM_WORKERS)),
            "of smg",
            [urls.index(each) for each in order],
        )

        failing = backends[urls.index(order[0])]  # answers, but with errors: no index may move
        failing.status = 500
        for number in range(30):
            send(url, plug, number)
        failing.status = 200
        routes_as_meant(url, plug, backends, 30)
        assert "misrouted" not in plug.counters(), plug.counters()

        backends.remove(failing)  # and is gone: all indices move by one
        failing.end()
        until(lambda: sum(worker.available for worker in plug._workers) == NUM_WORKERS - 1, smg)
        time.sleep(1.5)
        routes_as_meant(url, plug, backends, 30)
        counters = plug.counters()
        assert "misrouted" not in counters, counters
        assert counters["flights"] == 0, counters
        assert not [name for name in counters if "Error" in name or "fallback" in name], counters
        check(seen, NUM_REQUESTS + 90)
        print("smg", importlib.metadata.version("smg"), counters)
    finally:
        plug.stop()
        smg.terminate()
        smg.wait(timeout=20)
        for backend in backends:
            backend.end()


if __name__ == "__main__":
    main()
