"""The system's lock on an open file: it ends with the process that holds it, however that dies.

Windows has no such lock. There this package can be imported, and what writes no folder and no journal works.
"""

import errno

from hpa_tf.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def take(descriptor: int) -> bool:
    """Lock an open file for its process alone, until it is closed; return False where the file system has no locks.

    Args:
        descriptor: The file.

    Raises:
        BlockingIOError: Another process holds the lock.
        InputError: The system has none.
    """
    if fcntl is None:
        fix = "on Windows run it inside WSL 2"
        raise InputError("fcntl", "no such module: this system cannot lock files", "Linux or macOS", fix)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(error.errno, error.strerror) from error
        return False
    return True
