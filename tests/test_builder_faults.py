"""What a build of 100,000 images meets: kills, full disks, vanishing and poisoned images, damaged shards."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
from builder_inputs import Inputs, content, write_inputs

from hpa_tf import cell_table, framing, label_rules, records
from hpa_tf.data_folder import read_cells
from hpa_tf.errors import InputError, StoreError
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from tfrecords_builder.__main__ import main
from tfrecords_builder.image import Settings
from tfrecords_builder.options import BuildOptions
from tfrecords_builder.plan import make_plan
from tfrecords_builder.pool import run_units
from tfrecords_builder.unit import build_unit, read_sidecar


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"), 30, size=96, grid=3)


@pytest.fixture(scope="module")
def reference(inputs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "data"
    assert main([*inputs.arguments(out), "--fields", "32"]) == 0
    return out


def start(inputs: Inputs, out: Path, **popen) -> subprocess.Popen:
    command = [sys.executable, "-m", "tfrecords_builder", *inputs.arguments(out), "--fields", "32", "--workers", "2"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], **{**silent, **popen})


def kill_at_random_moments(inputs: Inputs, out: Path, kills: int, seed: int) -> int:
    """Start the build again and again, each time killing it; return how often it was killed while it was writing."""
    chance = random.Random(seed)
    while_writing = 0
    for _ in range(kills):
        process = start(inputs, out)
        writing = out / ".build" / "plan.json"
        while process.poll() is None and not writing.exists():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5))
        while_writing += process.poll() is None and not (out / records.MANIFEST_NAME).exists()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (out / records.MANIFEST_NAME).exists():
            assert main(["verify", "--deep", str(out)]) == 0
            for path in [out / records.MANIFEST_NAME, *list((out / ".build").glob("*.sidecar"))[::2], writing]:
                path.unlink()  # so that there is something left to do
            for path in out.glob("*.tfrecord*"):
                path.unlink()
    return while_writing


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_build_ends_with_the_same_bytes(inputs, reference, tmp_path, kills):
    out = tmp_path / "data"
    assert kill_at_random_moments(inputs, out, kills, seed=kills) >= 1
    assert main([*inputs.arguments(out), "--fields", "32"]) == 0
    assert content(out) == content(reference)
    assert not list(out.glob(".*.tmp"))


def test_workers_die_with_a_killed_build(inputs, tmp_path):
    psutil = pytest.importorskip("psutil")
    process = start(inputs, tmp_path / "data")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "data").glob(".cells*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.005)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_finished_shards_are_not_built_again(inputs, reference, tmp_path):
    out = shutil.copytree(reference, tmp_path / "data")
    (out / records.MANIFEST_NAME).unlink()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("cells-fold[1-4]*")}
    lost = sorted(out.glob("cells-fold0*"))[0]
    lost.unlink()
    assert main([*inputs.arguments(out), "--fields", "32"]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert content(out) == content(reference)


# -- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_build_goes_on_once_there_is_room(inputs, reference, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(map(len, content(reference).values()))
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", str(disk)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        process = start(inputs, disk / "data")
        _, error = process.communicate(timeout=600)
        assert process.returncode == 2
        assert b"No space left on device" in error and b"run the same command" in error and b"Traceback" not in error
        assert not (disk / "data" / records.MANIFEST_NAME).exists()
        subprocess.run(["mount", "-o", f"remount,size={size * 4 + 4_000_000}", str(disk)], check=True)
        process = start(inputs, disk / "data")
        process.communicate(timeout=600)
        assert process.returncode == 0
        assert content(disk / "data") == content(reference)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_when_a_table_is_written_is_said(inputs, reference, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cell_table, "write_parts", full)
    monkeypatch.setattr(label_rules, "write_labels", full)
    out = tmp_path / "data"
    shutil.copytree(reference, out)
    (out / records.MANIFEST_NAME).unlink()
    label = ["label", "--rule", "soften", "--data", str(reference), "--out", str(tmp_path / "labels.parquet")]
    for arguments in ([*inputs.arguments(out), "--fields", "32"], label):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "No space left on device" in error and "run the same command" in error


def test_a_file_size_limit_is_said_and_leaves_no_half_file(inputs, reference, tmp_path):
    out = tmp_path / "data"
    largest = max(len(data) for name, data in content(reference).items() if name.startswith("cells-"))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, resource.RLIM_INFINITY))

    process = start(inputs, out, preexec_fn=limit)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 2 and b"File too large" in error
    assert not [path for path in out.glob("*.tfrecord*") if path.stat().st_size > largest // 2]
    assert main([*inputs.arguments(out), "--fields", "32"]) == 0
    assert content(out) == content(reference)


# -- images that vanish or kill ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hostile:
    """Reads masks from disk, and does something nasty at one image."""

    inner: MasksOnDisk
    image_id: str
    deed: str

    @property
    def name(self) -> str:
        return "hostile"

    def __call__(self, field: FieldOfView) -> Masks:
        if field.image_id == self.image_id:
            if self.deed == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if self.deed == "exit":
                os._exit(3)
            if self.deed == "refusal":
                raise StoreError("s3://bucket/mask.png", "a store that refused", "one that answers", "wait")
            raise {"memory": MemoryError, "bug": ZeroDivisionError}[self.deed]("on purpose")
        return self.inner(field)


def hostile_settings(inputs: Inputs, out: Path, deed: str, skip: bool) -> tuple[list, Settings]:
    on_error = "skip" if skip else "fail"
    options = BuildOptions(
        images=(str(inputs.images),), labels=(str(inputs.labels),), masks=(str(inputs.masks),), out=str(out),
        on_error=on_error,
    )  # fmt: skip
    (out / ".build").mkdir(parents=True)
    settings = Settings.of(options)
    (reading,) = settings.readings
    hostile = replace(reading, segmenter=Hostile(reading.segmenter, inputs.ids[7], deed))
    return list(make_plan(options).units), replace(settings, readings=(hostile,))


@pytest.mark.parametrize("deed", ["crash", "exit", "memory", "bug"])
def test_an_image_that_kills_its_worker_is_named_and_the_others_go_on(inputs, tmp_path, deed):
    units, settings = hostile_settings(inputs, tmp_path / "data", deed, skip=True)
    results = {unit.name: result for unit, result in run_units(units, settings, 2, lambda cells: None)}
    assert len(results) == len(units)
    failures = [failure for result in results.values() for failure in result.failures]
    assert [failure[0] for failure in failures] == [inputs.ids[7]]
    assert sum(len(result.images) for result in results.values()) == len(inputs.ids) - 1
    assert all(read_sidecar(tmp_path / "data", unit) == results[unit.name] for unit in units)


@pytest.mark.parametrize(("deed", "error"), [("crash", InputError), ("memory", InputError), ("bug", RuntimeError)])
def test_an_image_that_kills_its_worker_stops_the_build(inputs, tmp_path, deed, error):
    units, settings = hostile_settings(inputs, tmp_path / "data", deed, skip=False)
    with pytest.raises(error, match=inputs.ids[7]):
        list(run_units(units, settings, 2, lambda cells: None))


def test_a_store_that_refuses_stops_the_build_and_is_no_fault_of_an_image(inputs, tmp_path):
    units, settings = hostile_settings(inputs, tmp_path / "data", "refusal", skip=True)
    with pytest.raises(StoreError, match="s3://bucket"):
        list(run_units(units, settings, 2, lambda cells: None))


def test_an_image_that_kills_its_worker_stops_the_adding_of_fields(inputs, tmp_path):
    """Its cells are in the data: it cannot be left out any more, and tried again it would kill every worker."""
    units, hostile = hostile_settings(inputs, tmp_path / "data", "exit", skip=True)
    inner = replace(hostile.readings[0], segmenter=hostile.readings[0].segmenter.inner)
    for unit in units:
        build_unit(unit, replace(hostile, readings=(inner,)), lambda *_: None)
    of_fields = [replace(unit, fields_only=True) for unit in units]
    with pytest.raises(InputError, match=f"image {inputs.ids[7]}: found its worker died") as caught:
        list(run_units(of_fields, replace(hostile, fields=32), 2, lambda cells: None))
    assert caught.value.fix.endswith("or remove it and its row, and give --on-change rebuild")


def test_an_image_that_vanishes_during_the_build(inputs, tmp_path):
    own = write_inputs(tmp_path / "inputs", 4, size=32, grid=1)
    options = BuildOptions(
        images=(str(own.images),), labels=(str(own.labels),), masks=(str(own.masks),), out=str(tmp_path / "data"),
        num_folds=1, images_per_shard=4, on_error="skip",
    )  # fmt: skip
    (tmp_path / "data" / ".build").mkdir(parents=True)
    (unit,) = make_plan(options).units
    last = unit.images[-1]

    def vanish(image_id: str, num_cells: int) -> None:
        Path(last.files.paths["green"]).unlink(missing_ok=True)

    result = build_unit(unit, Settings.of(options), vanish)
    assert [failure[0] for failure in result.failures] == [last.image_id]
    assert "no such file" in result.failures[0][2]
    with pytest.raises(InputError, match=f"{last.image_id}_green.png: found no such file"):
        build_unit(unit, replace(Settings.of(options), skip_errors=False), vanish)


@pytest.mark.slow
def test_one_poisoned_image_among_1000(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "inputs", 1000, size=16, grid=1)
    poisoned = inputs.images / f"{inputs.ids[617]}_yellow.png"
    poisoned.write_bytes(poisoned.read_bytes()[:-30])
    assert main([*inputs.arguments(tmp_path / "data"), "--on-error", "skip"]) == 1
    failures = pd.read_csv(tmp_path / "data" / "failures.csv")
    assert failures["image_id"].tolist() == [inputs.ids[617]]
    assert records.read_manifest(tmp_path / "data").num_cells == 999
    assert "1 images or rows left out" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "data")]) == 0


# -- damaged folders --------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(reference, tmp_path) -> Path:
    """A finished build, to be damaged."""
    return shutil.copytree(reference, tmp_path / "data")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def truncate_between_records(path: Path) -> None:
    with open(path, "rb") as stream:
        frames = list(framing.read_frames(stream, path.name))
    path.write_bytes(b"".join(map(framing.frame, frames[:-1])))


def swap_records(path: Path) -> None:
    with open(path, "rb") as stream:
        frames = list(framing.read_frames(stream, path.name))
    path.write_bytes(b"".join(map(framing.frame, reversed(frames))))


@pytest.mark.parametrize(
    ("damage", "kind", "record"),
    [
        (flip, "damaged record", True),
        (truncate, "damaged record", True),
        (truncate_between_records, "size of a shard", False),
        (swap_records, "cell table", True),
        (Path.unlink, "missing shard", False),
    ],
)
def test_damage_is_found_named_and_repaired(damaged, reference, capsys, damage, kind, record):
    victim = sorted(damaged.glob("cells-*"))[2]
    others = {path: path.stat().st_mtime_ns for path in damaged.glob("cells-*") if path != victim}
    damage(victim)
    assert main(["verify", str(damaged)]) == 1
    report = capsys.readouterr().out
    assert f"{kind}: {victim.name}" in report and (", record " in report) == record
    assert main(["repair", str(damaged)]) == 0
    assert victim.name in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert content(damaged) == content(reference)


@pytest.mark.slow
def test_damage_to_field_shards_and_tables_is_repaired(damaged, reference, capsys):
    flip(sorted(damaged.glob("fields-*"))[1])
    (damaged / records.CELL_TABLE_NAME).write_bytes(b"no table")
    assert main(["verify", str(damaged)]) == 1
    assert main(["repair", str(damaged)]) == 0
    assert main(["verify", "--deep", str(damaged)]) == 0
    assert content(damaged) == content(reference)


def test_verify_knows_wrong_content_behind_right_checksums(damaged, capsys):
    """A shard that another program wrote: intact records, the manifest's digest and size made to fit."""
    manifest = records.read_manifest(damaged)
    shard = manifest.shards_of("cells")[1]
    with open(damaged / shard.name, "rb") as stream:
        found = [records.decode(data) for data in framing.read_frames(stream, shard.name)]
    for record in found:
        record.pop("schema_version")
    found[0]["labels"][3] = 1.5
    found[1]["fold"] += 1
    found[2]["image_id"] = b"stranger"
    found[3]["crop_box"] = [0, 0, 5, 5]
    found[4]["cell_area"] += 1
    found[5]["box"][3] -= 1  # inside the crop, but not where the region map has the cell
    data = b"".join(framing.frame(records.encode(record)) for record in found)
    (damaged / shard.name).write_bytes(data)
    assert main(["verify", str(damaged), "--deep"]) == 1
    report = capsys.readouterr().out
    for kind, record in (
        ("label range", 0), ("fold", 1), ("cell table", 1), ("shape of crop", 3), ("box", 3), ("measurements", 4),
        ("tight box", 5),
    ):  # fmt: skip
        assert f"{kind}: {shard.name}, record {record}" in report


def test_verify_knows_an_intact_file_that_is_not_the_manifests(damaged, capsys):
    manifest = records.read_manifest(damaged)
    shard = replace(manifest.shards[0], sha256="0" * 64)
    records.write_manifest(damaged, replace(manifest, shards=(shard, *manifest.shards[1:])))
    assert main(["verify", str(damaged)]) == 1
    assert f"SHA-256: {shard.name}" in capsys.readouterr().out


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lose(inputs: Inputs) -> None:
    shutil.rmtree(inputs.images)


def touch(inputs: Inputs) -> None:
    os.utime(inputs.images / f"{inputs.ids[0]}_red.png", (1, 1))


def lengthen(inputs: Inputs) -> None:
    with open(inputs.images / f"{inputs.ids[0]}_red.png", "ab") as stream:
        stream.write(b"more")


@pytest.mark.parametrize(
    ("damaged_file", "change", "said"),
    [
        ("cells-", touch, "image or mask files changed"),
        ("cells-", lose, "no such folder"),
        ("cells.parquet", lose, "no such folder"),
        (".build/plan.json", lose, "no such folder"),
        (".build/plan.json", lengthen, "plan.json is damaged and does not say which"),
    ],
)
def test_repair_says_when_the_inputs_changed_and_leaves_the_folder(tmp_path, capsys, damaged_file, change, said):
    own, folder = write_inputs(tmp_path / "inputs", 5, size=32, grid=1), tmp_path / "data"
    assert main([*own.arguments(folder), "--workers", "1"]) == 0
    flip(next(path for path in sorted(folder.rglob("*")) if str(path.relative_to(folder)).startswith(damaged_file)))
    change(own)
    before = everything(folder)
    assert main(["repair", str(folder), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "choose another --out" not in error and ("--on-change" not in error or "the build's own command" in error)
    assert everything(folder) == before


def test_repair_leaves_images_that_were_left_out_alone(tmp_path, capsys):
    """An image that was mended joins the next build: it is no damage of the folder."""
    own, folder = write_inputs(tmp_path / "inputs", 5, size=32, grid=1), tmp_path / "data"
    image = own.images / f"{own.ids[1]}_red.png"
    whole = image.read_bytes()
    truncate(image)
    times = image.stat()
    assert main([*own.arguments(folder), "--workers", "1", "--on-error", "skip"]) == 1
    image.write_bytes(whole)
    before, stamps = everything(folder), {path: path.stat().st_mtime_ns for path in folder.glob("cells*")}
    repair = ["repair", str(folder), "--workers", "1"]
    assert main(repair) == 0
    assert "nothing, no shard was bad" in capsys.readouterr().out
    assert everything(folder) == before
    left_out = next(path for path in folder.glob("cells-*") if b"image" not in path.read_bytes())
    victim = next(path for path in folder.glob("cells-*") if path != left_out)
    flip(victim)
    assert main(repair) == 2
    assert f"image or mask files changed (size or time): {own.ids[1]}" in capsys.readouterr().err
    image.write_bytes(whole[:-7])
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert main(repair) == 0
    assert everything(folder) == before
    assert left_out.stat().st_mtime_ns == stamps[left_out]


@pytest.mark.slow
@pytest.mark.parametrize("damaged_files", [["a shard"], ["a shard", ".build/plan.json"]])
def test_a_repair_that_fails_on_its_way_can_be_repeated(tmp_path, capsys, damaged_files):
    """An image that cannot be read, though its size and time are as they were: seen when its shard is rebuilt."""
    own, folder = write_inputs(tmp_path / "inputs", 5, size=32, grid=1), tmp_path / "data"
    assert main([*own.arguments(folder), "--workers", "1"]) == 0
    intact = content(folder)
    victim = sorted(folder.glob("cells-*"))[0]
    for name in damaged_files:
        flip(victim if name == "a shard" else folder / name)
    image_id = read_cells(folder, records.read_manifest(folder)).query("shard == @victim.name")["image_id"].iloc[0]
    image = own.images / f"{image_id}_red.png"
    whole, times = image.read_bytes(), image.stat()
    for data, code in ((bytes(len(whole)), 2), (whole, 0)):
        image.write_bytes(data)
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert main(["repair", str(folder), "--workers", "1"]) == code
        assert ((folder / records.MANIFEST_NAME).read_bytes()) == intact[records.MANIFEST_NAME]
    assert image.name in capsys.readouterr().err
    assert content(folder) == intact
