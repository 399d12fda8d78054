"""GET and PUT /KEY over HTTP, for a redis-server on a socket of the working directory, which is the tenant's own."""

import http.server
import shutil
import signal
import socket
import subprocess
import sys
import time

SOCKET = "redis.sock"  # no TCP: whoever can read this directory can talk to redis, nobody else
MAX_BYTES = 1 << 20
# Each write is on disk before it is answered.
OPTIONS = f"--port 0 --unixsocket {SOCKET} --dir . --appendonly yes --appendfsync always --loglevel warning"


def redis(*words):
    """Sends one command; its answer, or None where redis holds nothing."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        connection.sendall(b"*%d\r\n%s" % (len(words), b"".join(parts)))
        answer = connection.makefile("rb")
        line = answer.readline().strip()
        if line.startswith(b"-") or not line:
            raise OSError(f"redis: {line.decode(errors='replace')}")
        return line[1:] if line[:1] != b"$" else None if line == b"$-1" else answer.read(int(line[1:]))


class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        value = redis(b"GET", self.path.encode())
        self.answer(404, b"nothing here\n") if value is None else self.answer(200, value)

    def do_PUT(self):
        length = self.headers["Content-Length"]
        if length is None or int(length) > MAX_BYTES:
            self.close_connection = True
            return self.answer(413, b"send at most 1 MiB, and its length before it\n")
        redis(b"SET", self.path.encode(), self.rfile.read(int(length)))
        self.answer(200, b"stored\n")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """What a tenant asks for stands in no log."""


def ready(child):
    while child.poll() is None:
        try:
            return redis(b"PING")  # refused while there is no socket, and while redis reads its data
        except OSError:
            time.sleep(0.01)


if shutil.which("redis-server") is None:
    sys.exit("redis-server is not installed on this host: run `apt-get install redis-server`")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
child = subprocess.Popen(["redis-server", *OPTIONS.split()])
try:
    ready(child)
    with http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Front) as server:
        server.daemon_threads, server.timeout = True, 1
        while child.poll() is None:
            server.handle_request()
    sys.exit(f"redis-server ended with {child.returncode}")
finally:
    child.terminate()  # redis saves, then ends
    child.wait()
