"""Records what the Rust routers choose, request by request. ``run.py`` runs it in .venv-golden-rust.

    python rust_routers.py FOLDER [RUN ...]

A router stands before backends that hold each request until they are told to answer it, so that what is in
flight where is known at every choice. Written is the backend of each request, one file a run.
"""

import importlib.metadata
import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from fake_backend import Backend, Handler
from production_stack import free_port, until
from sequences import NUM_BACKENDS, RUNS

RUST = ("--host", "127.0.0.1", "--log-level", "error")
PROGRAMS = {
    "vllm-router": ("-m", "vllm_router.launch_router", *RUST),
    "sglang-router": ("-m", "sglang_router.launch_router", *RUST),
    "smg": ("-m", "smg", "launch", *RUST, "--disable-circuit-breaker", "--disable-retries"),
}


class Holding(Handler):
    """Answers a completion once it is told to."""

    def do_POST(self):  # noqa: N802
        body = json.loads(self.read())
        if (
            self.path == "/tokenize"
        ):  # vllm-router asks every backend for each prompt's tokens: here its characters
            tokens = [ord(letter) for letter in body["prompt"]]
            answer = {"count": len(tokens), "max_model_len": 100_000, "tokens": tokens, "token_strs": None}
            self.answer(200, json.dumps(answer).encode())
            return
        if self.path != "/v1/completions":
            self.answer(404, b"{}")
            return
        number = self.server.numbers[body["prompt"]]
        self.server.chosen[number] = self.server
        self.server.arrived[number].set()
        assert self.server.answer[number].wait(60)
        choice = {"index": 0, "finish_reason": "length", "text": "a"}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        common = {"id": "x", "created": 1, "model": "fake", "object": "text_completion"}
        self.answer(200, json.dumps({**common, "choices": [choice], "usage": usage}).encode())

    def read(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        whole = b""
        while length := int(self.rfile.readline(), 16):  # smg streams what it does not look at
            whole += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return whole


class Fleet:
    """Backends behind a router."""

    def __init__(self, program, policy, options):
        self.chosen, self.arrived, self.answer, self.numbers, self.threads = {}, {}, {}, {}, {}
        self.backends = [Backend() for _ in range(NUM_BACKENDS)]
        for backend in self.backends:
            backend.RequestHandlerClass = Holding
            backend.chosen, backend.numbers = self.chosen, self.numbers
            backend.arrived, backend.answer = self.arrived, self.answer
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, *PROGRAMS[program], "--port", str(port), "--policy", policy, *options]
        command += ["--prometheus-port", str(free_port())]
        command += ["--worker-urls", *[backend.url for backend in self.backends]]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self):
        """Until it has all backends."""
        until(lambda: urllib.request.urlopen(f"{self.url}/readiness", timeout=5).status == 200, self.process)
        time.sleep(1.0)

    def send(self, number, prompt, headers):
        """Send a request; return once a backend has it."""
        self.arrived[number], self.answer[number] = threading.Event(), threading.Event()
        self.numbers[prompt] = number
        body = {"model": "fake", "prompt": prompt, "max_tokens": 1}
        asked = urllib.request.Request(
            f"{self.url}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **headers},
        )

        self.threads[number] = threading.Thread(
            target=lambda: urllib.request.urlopen(asked, timeout=60).read()
        )
        self.threads[number].start()
        assert self.arrived[number].wait(20), "no backend got the request"

    def end(self, number):
        """Let a request be answered; return once the router counts it no more."""
        self.answer[number].set()
        self.threads.pop(number).join()
        time.sleep(0.03)

    def place(self, number):
        return self.backends.index(self.chosen[number])

    def stop(self):
        for number in list(self.threads):
            self.end(number)
        self.process.terminate()
        self.process.wait(timeout=20)
        for backend in self.backends:
            backend.end()


def play(run):
    """Play a run; return the backend of each request."""
    fleet = Fleet(run.program, run.policy, run.options)
    choices = []
    try:
        fleet.wait()
        for number, prompt, session in run.events:
            if prompt is None:
                fleet.end(number)
            else:
                fleet.send(number, prompt, {} if session is None else {"X-Session-ID": session})
                choices.append(fleet.place(number))
    finally:
        fleet.stop()
    return choices


def main():
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    for name, run in RUNS.items():
        if wanted and name not in wanted:
            continue
        choices = play(run)
        of = " ".join((run.program, importlib.metadata.version(run.program), run.policy, *run.options))
        (folder / f"{name}.json").write_text(
            json.dumps({"of": of, "choices": choices}) + "\n", encoding="utf-8"
        )
        print(f"{name}: {len(choices)} choices of {of}", flush=True)


if __name__ == "__main__":
    main()
