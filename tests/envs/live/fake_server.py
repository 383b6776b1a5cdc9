"""A stand-in for vLLM's API server: it answers /health, after having started a process of its own."""

import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()


behaviour = os.environ.get("FAKE_SERVER", "")
print("arguments:", *sys.argv[1:], flush=True)
subprocess.Popen(["sleep", "600"])
if behaviour == "die":
    sys.exit("no such model, says the fake")
if behaviour == "hang":
    time.sleep(600)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
