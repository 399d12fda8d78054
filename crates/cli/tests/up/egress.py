"""A workload that tries to get out of its machine in every way that it knows, and says which ones led somewhere."""

import ctypes
import os
import socket
import sys
import time

ALLOWED, FORBIDDEN, OWN, OWN_PORT = sys.argv[1:5]
GREETING = b"outside\n"


def tcp(host, port, family=socket.AF_UNSPEC):
    kinds = socket.getaddrinfo(host, int(port), family, socket.SOCK_STREAM)
    with socket.socket(kinds[0][0], socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(kinds[0][4])
        client.sendall(b"hello\n")
        return client.recv(100) == GREETING


def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.connect((host, int(port)))
        client.send(b"hello\n")
        return client.recv(100) == GREETING


def raw():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    return True


def packets():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    return True


def address():
    """Gives loopback another address: `ip address add 203.0.113.9 dev lo`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        payload = b"\x02\x20\0\0\1\0\0\0" + b"\x08\0\2\0" + bytes([203, 0, 113, 9])
        header = (16 + len(payload)).to_bytes(4, sys.byteorder) + (20).to_bytes(2, sys.byteorder)
        netlink.send(header + (0x605).to_bytes(2, sys.byteorder) + bytes(8) + payload)
        return netlink.recv(4096)[16:20] == bytes(4)


def space():
    """A network of another process's, the first of this host where its files are in view."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.setns(os.open("/proc/1/ns/net", os.O_RDONLY), 0) == 0


def names():
    with open("/etc/hosts", "a") as file:
        file.write("127.0.0.1 elsewhere.example\n")
    return True


def mapped():
    with open("/etc/hosts") as file:
        lines = [line.split() for line in file]
    return tcp(next(line[0] for line in lines if "host.internal" in line), ALLOWED)


WAYS = {
    "the name": lambda: tcp("host.internal", ALLOWED),
    "the name's address": mapped,
    "the network": lambda: tcp(OWN, OWN_PORT),
    "another port of the name": lambda: tcp("host.internal", FORBIDDEN),
    "another port of the network": lambda: tcp(OWN, FORBIDDEN),
    "the name's port elsewhere": lambda: tcp(OWN, ALLOWED),
    "loopback": lambda: tcp("127.0.0.1", FORBIDDEN),
    "loopback at an allowed port": lambda: tcp("127.0.0.1", ALLOWED),
    "loopback of IPv6": lambda: tcp("::1", FORBIDDEN),
    "a name that is not named": lambda: tcp("elsewhere.example", ALLOWED),
    "an address like a name's": lambda: tcp("198.18.0.2", ALLOWED),
    "the metadata of a cloud": lambda: tcp("169.254.169.254", "80"),
    "datagrams": lambda: udp(OWN, FORBIDDEN),
    "datagrams to loopback": lambda: udp("127.0.0.1", FORBIDDEN),
    "datagrams to the name": lambda: udp("host.internal", ALLOWED),
    "raw sockets": raw,
    "packets": packets,
    "an address of its own making": address,
    "another network": space,
    "other meanings of names": names,
}

for name, way in WAYS.items():
    try:
        led = way()
    except (OSError, StopIteration):
        led = False
    print(f"{name}: {'open' if led else 'shut'}", flush=True)
print("done", flush=True)
time.sleep(1000)
