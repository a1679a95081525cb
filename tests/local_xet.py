"""The storage behind a hub, by hf_xet's own protocol: how huggingface_hub uploads large files where it is there.

Chunks come in blocks (xorbs), and lists (shards) say of which chunks each file is made. From both the files are put
together again, so that a test can look at what has arrived. Only chunks that are not compressed are understood.
"""

import hashlib
import struct
import time

#: what a client's environment needs, beside a cache of its own
ENVIRONMENT = {"HF_XET_XORB_COMPRESSION_POLICY": "none"}
_HEADER = 48


def chunks(block):
    """The chunks of a block: one byte of version, three of length, one of compression, three of length before it."""
    found, place = [], 0
    while place < len(block):
        length, kind = int.from_bytes(block[place + 1 : place + 4], "little"), block[place + 4]
        assert block[place] == 0 and kind == 0, "a compressed chunk"
        found.append(block[place + 8 : place + 8 + length])
        place += 8 + length
    return found


def files(shard, blocks):
    """SHA-256 -> content of the files that a list tells of."""
    assert shard.startswith(b"HFRepoMetaData")
    found, place = {}, _HEADER
    while shard[place : place + 32] != b"\xff" * 32:
        flags, count = struct.unpack("<II", shard[place + 32 : place + 40])
        body = b""
        for number in range(count):
            at = place + _HEADER * (1 + number)
            _, _, first, end = struct.unpack("<IIII", shard[at + 32 : at + 48])
            body += b"".join(chunks(blocks[swapped(shard[at : at + 32])])[first:end])
        place += _HEADER * (1 + count * (2 if flags >> 31 else 1))
        assert flags >> 30 & 1, "a file without its SHA-256"
        told = swapped(shard[place : place + 32])
        assert hashlib.sha256(body).hexdigest() == told
        found[told] = body
        place += _HEADER
    return found


def swapped(digest):
    """A digest as it is written in words: of four numbers, each of which is stored from its end."""
    return b"".join(digest[i : i + 8][::-1] for i in range(0, 32, 8)).hex()


def token(handler, hub, body, name, revision):
    until = int(time.time()) + 3600
    handler._say(200, {"accessToken": "x", "exp": until, "casUrl": f"{hub.url}/cas"})


def store_block(handler, hub, body, digest):
    hub.blocks[digest] = body
    handler._say(200, {"was_inserted": True})


def store_list(handler, hub, body):
    hub.objects |= files(body, hub.blocks)
    handler._say(200, {"result": 1})


ROUTES = [
    (("GET",), r"/api/models/([\w.-]+/[\w.-]+)/xet-write-token/(.+)", token),
    (("POST",), r"/cas/v1/xorbs/default/(\w+)", store_block),
    (("POST",), "/cas/v1/shards", store_list),
]
