"""Parts of a folder of images, for several machines: which part an image is in, and "i/n" on the command line."""

import hashlib

from hpa_tf.errors import InputError


def is_in_part(image_id: str, index: int, count: int) -> bool:
    """Tell whether an image belongs to part `index` of `count`: a hash of its id, equal on every machine."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8]) % count == index


def parse_part(text: str | None) -> tuple[int, int]:
    """Return (i, n) of "i/n"; (0, 1) for None.

    Raises:
        InputError: It is not of that form, or i is not below n.
    """
    if text is None:
        return 0, 1
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError("--shard", repr(text), "i/n with 0 <= i < n, such as 0/4", "correct the option")
    return int(index), int(count)
