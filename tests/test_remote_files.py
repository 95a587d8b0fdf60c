"""Object stores: what others write to them is seen, no more is fetched than is needed, and a refusal is told as one."""

import csv
import io
import re
import shutil
import uuid
import zipfile
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image
from training_process import TINY, words, write_tiny_dataset

from hpa_tf import cell_table, files, framing, heat_map_files, image_table, records
from hpa_tf.errors import InputError, StoreError
from hpa_tf.imaging.segmentation.mask_files import read_mask
from hpa_tf.imaging.stacks import files_of_set
from hpa_tf.pipeline import Examples, damage, evaluation_batches, read_examples
from hpa_tf.pipeline.damage import damage_explained, find_damage
from hpa_tf.prediction import result_files, results, stages
from hpa_tf.prediction.shards import _read_record
from hpa_tf.segmenting import mask_folder
from hpa_tf.training import checkpoint, command, run
from hpa_tf.views import Crop
from tfrecords_builder.unit import read_sidecar


class Store(fsspec.AbstractFileSystem):
    """A store that keeps its listings and looks for files in them, as s3fs and gcsfs do."""

    protocol, root_marker = "store", ""
    content: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[tuple[int, int]] = []  # noqa: RUF012
    refusal: Exception | None = None

    def answer(self):
        if self.refusal is not None:
            raise self.refusal

    def ls(self, path, detail=True, **more):
        self.answer()
        start = self._strip_protocol(path) + "/"
        if path not in self.dircache:
            below = {name: len(data) for name, data in self.content.items() if name.startswith(start)}
            folders = {start + name[len(start) :].split("/")[0] for name in below} - below.keys()
            kept = [
                {"name": name, "size": below[name], "type": "file"} for name in below if name.rfind("/") < len(start)
            ]
            self.dircache[path] = kept + [{"name": name, "size": 0, "type": "directory"} for name in folders]
        return self.dircache[path]

    def find(self, path, **more):  # fsspec's own passes over what is refused, that of s3fs and gcsfs does not
        self.answer()
        return super().find(path, **more)

    def put_file(self, local, path, **more):
        self.answer()
        self.content[path] = files.read_bytes(local)
        self.invalidate_cache()

    def rm_file(self, path):
        self.answer()
        del self.content[path]
        self.invalidate_cache()

    def _open(self, path, mode="rb", **more):
        self.info(path)
        return Stream(self, self.content[path])

    def cat_file(self, path, version_id=None, start=None, end=None, **more):  # as s3fs
        self.answer()
        self.asked.append((start, end))
        return self.content[path][start:end]

    def invalidate_cache(self, path=None):
        self.dircache.clear()


class Stream(io.BytesIO):
    """A file that is fetched while it is read."""

    def __init__(self, store: Store, data: bytes):
        super().__init__(data)
        self.store = store

    def read(self, *size):
        self.store.answer()
        return super().read(*size)


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


# -- a store that refuses ---------------------------------------------------------------------------------------------

REFUSALS = {
    "expired": PermissionError("ExpiredToken: The provided token has expired.\nmore"),
    "no credentials": RuntimeError("ExpiredToken: none were found"),  # of no class that is known here
    "no network": ConnectionError("ExpiredToken: no route to its issuer"),
    "busy": OSError(5, "ExpiredToken: Slow Down"),
}
LINE = r"found a store that refused \(.*(?:ExpiredToken|bucket).*\); expected .* Fix: check the credentials .* goes on$"


@pytest.fixture
def refuse(monkeypatch):
    """Return a function that lets the store refuse everything from then on."""
    return lambda refusal=REFUSALS["expired"]: monkeypatch.setattr(Store, "refusal", refusal)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize(
    "call",
    [
        files.exists,
        files.remove,
        files.read_bytes,
        files.sha256,
        files.list_names,
        files.list_folders,
        files.list_stamps,
        files.list_below,
        files.read_json,
        lambda path: files.read_range(path, 0, 1),
        lambda path: files.write_bytes(path, b""),
    ],
)
def test_a_refusal_is_one_line_and_no_missing_or_damaged_file(folder, refuse, call, refusal):
    refuse(refusal)
    with pytest.raises(StoreError, match=LINE) as caught:
        call(files.join(folder, "a"))
    assert "\n" not in str(caught.value) and folder in caught.value.where
    assert not isinstance(caught.value, InputError | OSError)


def test_a_file_that_is_not_there_is_no_refusal(folder):
    assert not files.exists(files.join(folder, "z"))
    for call in (files.read_bytes, lambda path: files.open_file(path).read(), files.sha256):
        with pytest.raises(FileNotFoundError):
            call(files.join(folder, "z"))
    with pytest.raises(InputError, match="no such file"):
        files.read_json(files.join(folder, "z"))


def test_a_bucket_that_is_not_there_refuses_what_is_written(folder, refuse):
    refuse(FileNotFoundError("The specified bucket does not exist"))
    with pytest.raises(StoreError, match=LINE):
        files.write_bytes(files.join(folder, "b"), b"")


def read_zip(stream):
    return zipfile.ZipFile(stream).read("a")


def read_picture(stream):
    return np.asarray(Image.open(stream))


@pytest.mark.parametrize(
    "read",
    [
        lambda stream: stream.read(),
        lambda stream: stream.read(100_000),
        lambda stream: stream.readline(),
        lambda stream: list(csv.reader(io.TextIOWrapper(stream))),
        lambda stream: shutil.copyfileobj(stream, io.BytesIO()),
        pq.ParquetFile,
        tifffile.TiffFile,
        read_picture,
        read_zip,
    ],
)
def test_a_refusal_while_a_file_is_read_is_one_too(folder, refuse, read):
    files.write_bytes(files.join(folder, "b"), b"PAR1" * 25)
    with files.open_file(files.join(folder, "b")) as stream:
        refuse()
        with pytest.raises(StoreError, match=LINE):
            read(stream)


def test_an_open_file_reads_as_a_local_one(folder, tmp_path):
    data = np.random.default_rng(0).bytes(300_000)
    path, local = files.join(folder, "b"), tmp_path / "b"
    for place in (path, local):
        files.write_bytes(place, data)
    with files.open_file(path) as one, open(local, "rb") as other:
        for step in (
            lambda stream: stream.read(10),
            lambda stream: stream.seek(-5, io.SEEK_CUR),
            lambda stream: stream.readline(),
            lambda stream: stream.seek(200_000),
            lambda stream: stream.read(90_000),
            lambda stream: (stream.tell(), stream.seekable(), stream.readable(), stream.writable()),
            lambda stream: stream.seek(-7, io.SEEK_END),
            lambda stream: stream.read(),
            lambda stream: stream.read(1),
        ):
            assert step(one) == step(other)
    assert one.closed
    pq.write_table(pa.table({"a": [1, 2]}), local)
    files.write_bytes(path, local.read_bytes())
    with files.open_file(path) as stream:
        assert pq.read_table(stream).to_pydict() == {"a": [1, 2]}


@pytest.fixture
def unreadable(folder, monkeypatch):
    """Return a folder whose files are listed, while the store refuses what is in them."""

    def refuse(*arguments, **more):
        raise REFUSALS["busy"]

    monkeypatch.setattr(Store, "_open", refuse)
    return folder


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("step-00000001.npz", lambda folder: checkpoint.read(folder, 1)),
        ("predictions.json", results.request_of),
        ("parts/a.parquet", lambda folder: result_files.read_part(folder, "a")),
        ("heat/a.npz", lambda folder: heat_map_files.read(folder, "a")),
        ("dataset.json", records.read_manifest),
        ("cells.parquet", lambda folder: cell_table.read(files.join(folder, "cells.parquet"))),
        ("images.parquet", image_table.read),
        (".segmenting/a.json", mask_folder.done_images),
        (".build/a.sidecar", lambda folder: read_sidecar(folder, SimpleNamespace(name="a"))),
        ("mask.png", lambda folder: read_mask(files.join(folder, "mask.png"), 100)),
        ("a.ome.tif", lambda folder: files_of_set(files.join(folder, "a.ome.tif"))),
    ],
)
def test_nothing_takes_a_refusal_for_a_damaged_file(unreadable, name, read):
    """It would be made anew, or its owner told to remove it."""
    files.write_bytes(files.join(unreadable, *name.split("/")), b"x")
    with pytest.raises(StoreError, match=LINE):
        read(unreadable)


def test_a_refusal_is_no_fault_of_an_image():
    def read(what):
        raise StoreError("s3://bucket/a_red.png", "a store that refused", "one that answers", "wait")

    with pytest.raises(StoreError):
        stages.load((read, None, "a"))


@pytest.fixture
def shards(folder, tmp_path) -> Examples:
    """Return the cells of a data folder in the store."""
    for path in write_tiny_dataset(tmp_path / "data").iterdir():
        files.write_bytes(files.join(folder, path.name), path.read_bytes())
    return read_examples(folder)


def test_a_refused_record_is_no_damaged_shard(shards, refuse, monkeypatch):
    batches = evaluation_batches(shards, Crop(size=16), batch_size=8)
    refuse()
    with pytest.raises(StoreError, match=LINE) as caught:
        find_damage(shards)
    monkeypatch.setattr(damage, "find_damage", lambda examples: pytest.fail("it reads all records"))
    with pytest.raises(StoreError, match=LINE) as caught, damage_explained([shards]):
        next(iter(batches))
    assert caught.value.where.startswith(shards.folder) and caught.value.found.endswith("has expired.)")


@pytest.mark.slow
def test_a_training_that_cannot_write_stops_in_a_line_and_goes_on(folder, tmp_path, monkeypatch, capsys):
    def put(self, local, path, **more):
        if path.endswith("step-00000008.npz"):
            raise REFUSALS["expired"]
        return put_file(self, local, path, **more)

    put_file, out = Store.put_file, files.join(folder, "run")
    data = write_tiny_dataset(tmp_path / "data")
    arguments = ["--data", str(data), "--out", out, *TINY, "--recipe.sampling.num-cells", "32"]
    arguments += words("--recipe.optimization.epochs 2 --deterministic off")
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_file", put)
        assert command.main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: ")]
    assert re.search(LINE, line) and "Traceback" not in line
    checkpoints = files.join(out, "checkpoints")
    assert files.list_names(checkpoints) == ["step-00000004.npz"]
    assert command.main(arguments) == 0
    assert files.list_names(checkpoints)[-1] == "step-00000008.npz"
