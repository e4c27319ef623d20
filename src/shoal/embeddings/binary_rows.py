"""Word vectors as word2vec writes them in binary: a header, then each word, a space and its values.

Values are float32, the least significant byte first. The original program writes a line end behind each row, gensim
none.
"""

import numpy as np

from shoal.embeddings.stream import Stream
from shoal.embeddings.vectors import Collector, Vectors
from shoal.errors import UserError

LONGEST_WORD = 4096  # bytes


def read_binary(stream: Stream, start: bytes, header: tuple[int, int], collector: Collector) -> Vectors:
    """Vectors of a binary file; ``start`` is what was read of it already.

    Raises:
        UserError: the file ends before the last word that its header counts, or has more behind it, or a value is not
            finite.
    """
    words, width = header
    at, base = start.index(b"\n") + 1, 0  # in the buffer, and of the buffer in the file
    buffer, size = start, 4 * width
    for number in range(1, words + 1):
        space = buffer.find(b" ", at)
        while space < 0 or len(buffer) < space + 1 + size:
            if space < 0 and len(buffer) - at > LONGEST_WORD:
                raise UserError(f"{stream.name} is damaged: no word ends behind byte {base + at:,}")
            piece = stream.read()
            if not piece:
                raise UserError(
                    f"{stream.name} is cut short at byte {stream.offset:,}: it ends in word {number:,} of {words:,}"
                )
            buffer, base, space, at = buffer[at:] + piece, base + at, space - at if space >= 0 else -1, 0
            space = buffer.find(b" ", at) if space < 0 else space
        word, place = buffer[at:space].lstrip(b"\n"), f"word {number:,}, at byte {base + at:,}"
        at = space + 1 + size
        if collector.takes(word, place):
            row = np.frombuffer(buffer, "<f4", width, space + 1).astype(np.float32)
            collector.add(word, row, place)
    left = buffer[at:]
    while piece := stream.read():
        left = (left + piece)[:CHECKED]
    if left.strip(b"\n"):
        raise UserError(f"{stream.name} goes on behind the {words:,} words that its header counts: it is damaged")
    return collector.vectors(width, stream.key, "word2vec binary")


CHECKED = 4096  # bytes behind the last word
