"""GET and PUT /KEY over HTTP, for a redis-server on a socket of the working directory, which is the tenant's own."""
import http.server, shutil, signal, socket, subprocess, sys, time
# No TCP: whoever can read this directory can talk to redis, nobody else. Each write is on disk before it is answered.
OPTIONS = "--port 0 --unixsocket redis.sock --dir . --appendonly yes --appendfsync always --loglevel warning"
def redis(*words):  # sends one command; its answer, or None where redis holds nothing
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("redis.sock")
        connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        answer = connection.makefile("rb")
        kind, line = answer.read(1), answer.readline().strip()
        if kind not in (b"+", b"$"): raise OSError(f"redis: {line.decode(errors='replace')}")  # it reads its data, or goes
        return line if kind == b"+" else None if line == b"-1" else answer.read(int(line))

class Front(http.server.BaseHTTPRequestHandler):
    log_message = lambda *_: None  # what a tenant asks for stands in no log
    def do_GET(self):
        value = redis(b"GET", self.path.encode())
        self.answer(404, b"nothing here\n") if value is None else self.answer(200, value)
    def do_PUT(self):
        length = int(self.headers["Content-Length"] or 1 << 30)
        stored = length <= 1 << 20 and redis(b"SET", self.path.encode(), self.rfile.read(length))
        self.answer(200, b"stored\n") if stored else self.answer(413, b"send at most 1 MiB, and its length before it\n")
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

def is_up():
    try: return redis(b"PING")  # refused while there is no socket, and while redis reads its data
    except OSError: time.sleep(0.01)

shutil.which("redis-server") or sys.exit("redis-server is not installed on this host: run `apt-get install redis-server`")
with subprocess.Popen(["redis-server", *OPTIONS.split()]) as child:
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # redis saves, then ends, and so do we
    while child.poll() is None and not is_up(): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Front)
    server.timeout = 0.1
    while child.poll() is None: server.handle_request()
sys.exit(child.returncode)
