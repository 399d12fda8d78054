"""A workload that answers with the head of the request that reached it, or not at all, and starts fast."""

import _thread
import os
import socket
import sys


def talk(connection):
    head = b""
    while True:
        data = connection.recv(4096)
        if not data:
            return
        head += data
        while b"\r\n\r\n" in head:
            request, head = head.split(b"\r\n\r\n", 1)
            if b" /hang " in request:
                print("hanging", flush=True)
                continue
            body = b"pid %d\n%s\n" % (os.getpid(), request.replace(b"\r\n", b"\n"))
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256)
while True:
    _thread.start_new_thread(talk, (listener.accept()[0],))
