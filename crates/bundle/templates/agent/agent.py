"""Does the jobs of its object one by one, and shows its state over HTTP.

It never decides whether to stay awake: it does its work, and the object's rules see that there is none left.
"""

import http.client
import http.server
import json
import os
import socket
import sys
import threading
import time


class Object(http.client.HTTPConnection):
    """The agent socket: HTTP and JSON over a Unix socket."""

    def __init__(self):
        super().__init__("agent", timeout=10)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.environ["SUIJURIS_AGENT_SOCKET"])


def ask(method, path, body=None):
    """One question to the object; the answer's status and JSON."""
    connection = Object()
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        connection.close()


def memory():
    status, answer = ask("GET", "/v1/memory")
    if status != 200:
        raise RuntimeError(f"memory cannot be read: {answer}")
    return {name: field.get("value") for name, field in answer["fields"].items()}


def change(fields, expect):
    """Writes `fields` if `expect` still holds; whether it did. The write is durable when this returns."""
    status, answer = ask("PATCH", "/v1/memory", {"set": fields, "expect": expect})
    if status == 409 and answer["code"] == "memory_conflict":
        return False
    if status != 200:
        raise RuntimeError(f"memory cannot be written: {answer}")
    return True


def work(job):
    """Put the real work here."""
    print(f"working on {job}", flush=True)
    time.sleep(1)


def do_one():
    """Does one job under a hold; whether there was one."""
    now = memory()
    if not now["jobs"]:
        return False
    job = now["jobs"][0]
    ask("PUT", "/v1/holds/job", {"for": "1m"})
    try:
        work(job)
        while True:
            now = memory()
            after = {
                "jobs": [other for other in now["jobs"] if other != job],
                "done": now["done"] + 1,
            }
            if change(after, {name: now[name] for name in after}):
                return True
    finally:
        ask("DELETE", "/v1/holds/job")


class State(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = json.dumps(memory(), indent=2).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), State)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ask("POST", "/v1/ready")
    # Awake without a job: the timer or a person woke it, and wants the housekeeping done.
    change({"jobs": ["housekeeping"]}, {"jobs": []})
    while True:
        if not do_one():
            time.sleep(0.2)


main()
