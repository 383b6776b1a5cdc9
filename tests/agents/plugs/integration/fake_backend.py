"""A small OpenAI server of the standard library alone, for environments in which nothing of ours is.

It answers as vLLM does, as far as routers look, and remembers who asked. It is a thread of the process that
makes it.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

METRICS = """\
vllm:num_requests_running{{engine="0",model_name="fake"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="fake"}} {waiting}
vllm:kv_cache_usage_perc{{engine="0",model_name="fake"}} 0.25
vllm:prefix_cache_queries_total{{engine="0",model_name="fake"}} 100.0
vllm:prefix_cache_hits_total{{engine="0",model_name="fake"}} 40.0
"""


class Backend(ThreadingHTTPServer):
    """Listens from its making on; ``bodies`` are those of the completions that were asked for."""

    daemon_threads = True

    def __init__(self, ttft_s=0.0, token_interval_s=0.0, running=0.0, waiting=0.0, status=200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ttft_s, self.token_interval_s = ttft_s, token_interval_s
        self.running, self.waiting, self.status = running, waiting, status
        self.bodies, self.num_scrapes = [], 0
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def end(self):
        """Listen no more."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        server = self.server
        if self.path == "/metrics":
            server.num_scrapes += 1
            text = METRICS.format(running=server.running, waiting=server.waiting)
            self.answer(200, text.encode(), "text/plain")
        elif self.path == "/v1/models":
            self.answer(
                200, json.dumps({"object": "list", "data": [{"id": "fake", "object": "model"}]}).encode()
            )
        elif self.path in ("/health", "/get_server_info", "/get_model_info", "/server_info", "/model_info"):
            self.answer(200, json.dumps({"model_path": "fake", "served_model_name": "fake"}).encode())
        else:
            self.answer(404, b"{}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self.server.bodies.append(body)
        if self.server.status != 200:
            self.answer(
                self.server.status, json.dumps({"error": {"message": "told to", "code": 500}}).encode()
            )
            return
        chat, num_tokens = "messages" in body, body.get("max_tokens", 3)
        common = {"id": "x", "created": 1, "model": "fake"}
        usage = {"prompt_tokens": 9, "completion_tokens": num_tokens, "total_tokens": 9 + num_tokens}
        time.sleep(self.server.ttft_s)
        if not body.get("stream"):
            choice = {"index": 0, "finish_reason": "length"}
            choice |= {"message": {"role": "assistant", "content": "a"}} if chat else {"text": "a"}
            kind = "chat.completion" if chat else "text_completion"
            whole = {**common, "object": kind, "choices": [choice], "usage": usage}
            self.answer(200, json.dumps(whole).encode())
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        kind = "chat.completion.chunk" if chat else "text_completion"
        try:
            for number in range(num_tokens):
                choice = {"index": 0, "finish_reason": "length" if number == num_tokens - 1 else None}
                choice |= {"delta": {"role": "assistant", "content": "a"}} if chat else {"text": "a"}
                self.event({**common, "object": kind, "choices": [choice]})
                time.sleep(self.server.token_interval_s)
            if (body.get("stream_options") or {}).get("include_usage"):
                self.event({**common, "object": kind, "choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass

    def event(self, data):
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def answer(self, status, content, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *values):
        pass
