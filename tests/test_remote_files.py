"""Object stores: what other processes write to them is seen, and no more is fetched than is needed."""

import io
import uuid

import fsspec
import pytest

from hpa_tf import files, framing, records
from hpa_tf.errors import InputError
from hpa_tf.prediction.shards import _read_record


class Store(fsspec.AbstractFileSystem):
    """A store that keeps its listings and looks for files in them, as s3fs and gcsfs do."""

    protocol, root_marker = "store", ""
    content: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[tuple[int, int]] = []  # noqa: RUF012

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

    def cat_file(self, path, version_id=None, start=None, end=None, **more):  # as s3fs
        self.asked.append((start, end))
        return self.content[path][start:end]

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


def test_a_record_is_one_request_and_a_long_one_two(folder, monkeypatch):
    monkeypatch.setattr(framing, "REMOTE_BUFFER", 100)
    path, short, long = files.join(folder, "shard"), b"short", bytes(range(256))
    frames = framing.frame(short) + framing.frame(long)
    write_elsewhere(path, frames)
    second = len(framing.frame(short))
    for offset, data, asked in (
        (0, short, [(0, 100)]),
        (second, long, [(second, second + 100), (second + 100, len(frames))]),
        (len(frames), None, [(len(frames), len(frames) + 100)]),
    ):
        Store.asked.clear()
        assert framing.read_frame_at(path, offset) == data
        assert Store.asked == asked
    write_elsewhere(path, frames[: second + 7] + b"!" + frames[second + 8 :])
    Store.asked.clear()
    with pytest.raises(InputError, match="checksum of its length"):
        framing.read_frame_at(path, second)
    assert len(Store.asked) == 1  # a length that is not true is not asked for


@pytest.mark.parametrize("length", [100, 101, 300])
def test_a_record_of_any_length_is_that_of_a_local_file(folder, tmp_path, monkeypatch, length):
    monkeypatch.setattr(framing, "REMOTE_BUFFER", 100)
    data = framing.frame(bytes(length - framing.OVERHEAD)) + framing.frame(b"next")
    write_elsewhere(files.join(folder, "shard"), data)
    files.write_bytes(tmp_path / "shard", data)
    for offset in (0, length):
        found = framing.read_frame_at(files.join(folder, "shard"), offset)
        assert found == framing.read_frame_at(str(tmp_path / "shard"), offset)


def test_a_prediction_fetches_its_records_alone(folder):
    values = {field.name: [1] * field.size for field in records.CELL_FIELDS if field.type != "bytes"}
    del values["schema_version"]
    path, record = files.join(folder, "shard"), {**values, "image_id": b"a", "crop": b"", "region": b""}
    write_elsewhere(path, framing.frame(records.encode(record)) + bytes(1 << 22))
    Store.asked.clear()
    assert _read_record(path, 0)["image_id"] == b"a"
    assert Store.asked == [(0, framing.REMOTE_BUFFER)]
