"""gRPC for scripts/fleet, as little as two questions need: a connection a call, headers of answers are not read."""

import socket
import struct


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def unary(host, port, path, message):
    """The bytes of the answer to one call."""
    text = lambda value: bytes([len(value)]) + value.encode()  # noqa: E731
    head = b"\x83\x86\x04" + text(path) + b"\x01" + text(f"{host}:{port}") + b"\x0f\x10" + text("application/grpc")
    head += b"\x00" + text("te") + text("trailers")
    body = b"\x00" + struct.pack(">I", len(message)) + message
    with socket.create_connection((host, port), timeout=10) as wire, wire.makefile("rb") as answer:
        call = frame(4, 0, 0, b"") + frame(1, 4, 1, head) + frame(0, 1, 1, body)
        wire.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + call)
        got, over = b"", False
        while not over:
            start = answer.read(9)
            if len(start) < 9:
                break
            payload = answer.read(int.from_bytes(start[:3], "big"))
            kind, flags = start[3], start[4]
            if kind in (4, 6) and not flags & 1:
                wire.sendall(frame(kind, 1, 0, payload if kind == 6 else b""))
            got += payload if kind == 0 else b""
            over = kind in (3, 7) or (kind in (0, 1) and flags & 1)
    if len(got) < 5:
        raise OSError(f"{path} was not answered")
    return got[5:]


def fields(message):
    """The fields of a protobuf message in order: numbers, and bytes of what has a length."""

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    at, found = 0, []
    while at < len(message):
        key = varint()
        if key & 7 == 0:
            found.append((key >> 3, varint()))
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            found.append((key >> 3, message[at : at + size]))
            at += size
    return found
