"""A workload that keeps every byte it receives. Paths ask for more than an answer: see `answer`."""

import os
import pathlib
import socketserver
import sys
import time

RECEIVED = pathlib.Path(sys.argv[2]) / "received"


class Connection(socketserver.StreamRequestHandler):
    def keep(self, data):
        with RECEIVED.open("ab", buffering=0) as file:
            file.write(data)
        return data

    def handle(self):
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = self.keep(self.rfile.readline())
                if not line:
                    return
                if not head and not line.rstrip().endswith(b"HTTP/1.1"):
                    self.wfile.write(b"raw " + line)  # not HTTP: a line is answered with a line
                    continue
                head += line
            fields = dict(
                line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2]
            )
            self.keep(self.rfile.read(int(fields.get(b"content-length", 0))))
            self.answer(head.split(b" ")[1].decode(), fields)

    def answer(self, path, fields):
        if b"upgrade" in fields:
            self.wfile.write(
                b"HTTP/1.1 101 Switching Protocols\r\n"
                b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
            )
            while data := self.keep(self.request.recv(4096)):
                self.wfile.write(data)
            return
        if path == "/exit":
            os._exit(7)
        if path.startswith("/slow/"):
            time.sleep(float(path.rsplit("/", 1)[1]))
        body = f"served {path}\n".encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


with Server(("127.0.0.1", int(sys.argv[1])), Connection) as server:
    server.serve_forever()
