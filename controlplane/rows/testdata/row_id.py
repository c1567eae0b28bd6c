#!/usr/bin/env python3
"""Makes row_id.json: vectors of row_id, computed without the code under test.

    python3 row_id.py > row_id.json
"""
import hashlib
import json
import struct


def row_id(scope, query, key, start, end):
    h = hashlib.sha256()
    for part in (scope.encode(), query.encode(), key, struct.pack(">q", start), struct.pack(">q", end)):
        h.update(struct.pack(">I", len(part)) + part)
    return h.hexdigest()[:32]


def int64(v):
    return struct.pack(">Q", (v + (1 << 63)) & ((1 << 64) - 1))


def decimal(v, scale):
    return bytes([scale]) + int64(v)


def several(*values):
    return b"".join(struct.pack(">H", len(v)) + v for v in values)


MINUTE = 60 * 10**9
cases = [
    ("bars", b"MSFT", 1493132700 * 10**9, 1493132760 * 10**9),
    ("bars", b"", 0, MINUTE),
    ("bars", b"\xff\x00 not text", -MINUTE, 0),
    ("cars", int64(-1), 0, 1),
    ("cars", int64(2**63 - 1), -(2**63), 2**63 - 1),
    ("prices", decimal(-367000, 4), 1, 2),
    ("pairs", several(b"MSFT", int64(7)), 5, 6),
    ("pairs", several(b"", decimal(5, 2), b"x" * 40), 5, 6),
    ("Straße", b"k", 5, 6),
]
scopes = ["local:", "local:a", "local:rack-7-box-12", "global"]
print(json.dumps([
    {"scope": scope, "query": q, "key": k.hex(), "start": s, "end": e, "row_id": row_id(scope, q, k, s, e)}
    for scope in scopes for q, k, s, e in cases
], ensure_ascii=False, indent=1))
