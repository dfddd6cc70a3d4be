"""Answers that no origin should give, and some that few do."""

from __future__ import annotations

RAW: dict[str, bytes] = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03this is no HTTP",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "http2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18),
    "nothing": b"",
    "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "no-number": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nabc",
    "negative": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
    "length-and-chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "unknown-coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: sorcery\r\n\r\nabc",
    "bare-nul": b"HTTP/1.1 200 OK\r\nX-Bad: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "name-with-space": b"HTTP/1.1 200 OK\r\nX Bad: a\r\nContent-Length: 0\r\n\r\n",
    "huge-head": b"HTTP/1.1 200 OK\r\nX-Huge: " + b"x" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "endless-interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    "switches-unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\n"
    b"Connection: upgrade\r\n\r\nother bytes",
    "too-little": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    "unfinished-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "huge-trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    + b"X-Trailer: "
    + b"x" * 300_000
    + b"\r\n\r\n",
    "too-much": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more",
    "second-answer": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen",
    "until-the-end": b"HTTP/1.0 200 OK\r\n\r\nuntil the connection ends",
}
"""Answers by name, sent as they are."""
