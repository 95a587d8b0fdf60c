"""Object stores: what other processes write to them is seen."""

import io
import uuid

import fsspec
import pytest

from hpa_tf import files


class Store(fsspec.AbstractFileSystem):
    """A store that keeps its listings and looks for files in them, as s3fs and gcsfs do."""

    protocol, root_marker = "store", ""
    content: dict[str, bytes] = {}  # noqa: RUF012

    def ls(self, path, detail=True, **more):
        start = self._strip_protocol(path) + "/"
        if path not in self.dircache:
            below = {name: len(data) for name, data in self.content.items() if name.startswith(start)}
            folders = {start + name[len(start) :].split("/")[0] for name in below} - below.keys()
            kept = [
                {"name": name, "size": below[name], "type": "file"} for name in below if name.rfind("/") < len(start)
            ]
            self.dircache[path] = kept + [{"name": name, "size": 0, "type": "directory"} for name in folders]
        return self.dircache[path]

    def put_file(self, local, path, **more):
        self.content[path] = files.read_bytes(local)
        self.invalidate_cache()

    def rm_file(self, path):
        del self.content[path]
        self.invalidate_cache()

    def _open(self, path, mode="rb", **more):
        self.info(path)
        return io.BytesIO(self.content[path])

    def invalidate_cache(self, path=None):
        self.dircache.clear()


fsspec.register_implementation("store", Store, clobber=True)


@pytest.fixture
def folder() -> str:
    """Return the URL of a folder with one file, which has been listed."""
    folder = f"store://bucket/{uuid.uuid4().hex}"
    files.write_bytes(files.join(folder, "a"), b"1")
    assert files.list_names(folder) == ["a"]
    return folder


def write_elsewhere(path: str, data: bytes) -> None:
    """Write a file as another process does: the listings of this one do not know it."""
    Store.content[Store._strip_protocol(path)] = data


def test_what_others_write_after_a_listing_is_there(folder):
    path = files.join(folder, "b")
    write_elsewhere(path, b"22")
    assert files.exists(path) and files.read_bytes(path) == b"22"
    write_elsewhere(files.join(folder, "c"), b"333")
    assert files.list_names(folder) == ["a", "b", "c"]
    write_elsewhere(files.join(folder, "a"), b"4444")
    assert {name: size for name, (size, _) in files.list_stamps(folder).items()} == {"a": 4, "b": 2, "c": 3}
    write_elsewhere(files.join(folder, "below/d"), b"")
    assert list(files.list_below(folder)) == ["a", "b", "below/d", "c"]
    files.remove(path)
    assert files.list_names(folder) == ["a", "c"] and files.list_folders(folder) == ["below"]
