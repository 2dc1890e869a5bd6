"""Raw deflate (RFC 1951) for arrays of codes, which hardly repeat but have few likely values."""

from __future__ import annotations

import zlib

__all__ = ["deflate", "inflate"]


def deflate(data: bytes | memoryview) -> bytes:
    """Return bytes in fewer bytes, mostly by Huffman codes.

    Codes and bitmaps of sparse weights are as good as independent draws: Huffman codes of their
    bytes come within 2 % of the entropy, and the usual search for repetitions makes them longer.
    """
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    return stream.compress(data) + stream.flush()


def inflate(data: bytes | memoryview, limit: int) -> bytes:
    """Return what was deflated, if it is at most `limit` bytes.

    Raises
    ------
    ValueError
        If it is more, or `data` is not exactly what `deflate` returns; the text says what is wrong.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(found) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    if not stream.eof or stream.unused_data:
        raise ValueError(f"{'bytes behind' if stream.eof else 'an end before'} that of the stream")
    return found
