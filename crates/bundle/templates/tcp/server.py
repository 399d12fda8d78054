"""A server of lines: answers each with its number, and counts on after a sleep."""

import pathlib
import signal
import socketserver
import sys

COUNT = pathlib.Path(sys.argv[2]) / "count"


class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            number = int(COUNT.read_text()) + 1 if COUNT.exists() else 1
            COUNT.write_text(str(number))
            self.wfile.write(b"%d %s" % (number, line))


class Server(socketserver.TCPServer):
    allow_reuse_address = True


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with Server(("127.0.0.1", int(sys.argv[1])), Lines) as server:
    server.serve_forever()
