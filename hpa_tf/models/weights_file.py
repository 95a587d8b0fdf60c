"""Is a file of weights what its name says? Downloads end in web pages, checkouts in pointers, copies in empty files."""

import os

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.models.tensor_file import SUFFIXES

HDF5, TENSORS = (".h5", ".hdf5"), SUFFIXES
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_STARTS = {
    b"": "an empty file",
    b"<": "a web page, or another text with tags (a download that failed?)",
    b"version https://git-lfs": "a Git LFS pointer instead of the file (git lfs pull fetches it)",
    b"PK\x03\x04": "a zip archive (of Keras' .keras format, of NumPy or of PyTorch)",
    b"\x1f\x8b": "a gzip file",
}


def check_weights_file(source: str) -> None:
    """Check that a path, which exists, is a folder or begins as a file of weights does.

    Raises:
        InputError: It does not; says what it is instead.
    """
    if os.path.isdir(source) or (files.is_remote(source) and not source.endswith(HDF5 + TENSORS)):
        return
    expected = f"a weights file ({', '.join(HDF5 + TENSORS)}) or a run folder"
    if not source.endswith(HDF5 + TENSORS):
        raise InputError("--weights", f"the file {source}", expected, "check the path, or rename the file")
    with files.open_file(source) as stream:
        start = stream.read(64)
    if source.endswith(HDF5) and not start.startswith(_HDF5_SIGNATURE):
        text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
        found = [what for begin, what in _STARTS.items() if (text.startswith(begin) if begin else not start)]
        fix = "download or copy the file again"
        raise InputError(source, (found or ["a file that is no HDF5"])[-1], "an HDF5 file of weights", fix)
