"""TIFF files of several planes: all channels of an image in one file, planes in depth or time, whoever wrote them.

Understood: OME-TIFF (also over several files, also pyramids, of which the full level is read), ImageJ hyperstacks,
what tifffile and scikit-image write, and plain pages or samples, whose meaning `--channels` says. tifffile finds the
planes; here they are checked before anything is decoded, and only the planes that are asked for are.
"""

import contextlib
import io
import itertools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.imaging import ome, tiff
from hpa_tf.imaging.channel_names import channel_names
from hpa_tf.imaging.layout import Project
from hpa_tf.imaging.stack_pixels import decode_all, decode_page

COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 50000: "Zstandard"}
"""Those without loss whose output can be limited while it is unpacked."""

_MOST_SAMPLES = 64
_MOST_PLANES = 100_000
_UNKNOWN = set("QIR")
"""Axes that tifffile sees without a word about what they are; a file has at most one that may be the channels."""
_PAGES = "P"
_AXES = {"Z": "planes in depth (z)", "T": "planes in time (t)", _PAGES: "pages"}


@dataclass(frozen=True)
class Stack:
    """An opened file: what is in it, nothing decoded yet.

    Attributes:
        path: The file.
        names: Its channels, in order; "" = without a name.
        shape: (H, W), px.
        scale: Micrometres across and down a pixel; None = the file does not say.
        projected: How many planes there are along each axis that is no channel: {"Z": 5}.
        series: tifffile's series.
        axes: Its axes, without those of length 1.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, int]
    scale: tuple[float, float] | None
    projected: Mapping[str, int]
    series: tifffile.TiffPageSeries
    axes: Mapping[str, int]

    def read(self, chosen: Mapping[str, int], project: Project | None) -> dict[str, np.ndarray]:
        """Read some channels.

        Args:
            chosen: Index of the channel, by what it is called in the answer.
            project: "max" = the brightest of the planes in depth and time; None = there must be one.

        Returns:
            uint8 or uint16 [H, W] each.

        Raises:
            InputError: There are several planes, the numbers are of another kind, or the data is damaged.
        """
        self.check_planes(project)
        if not self._pages_are_planes:
            return self._read_all(chosen)
        wanted: dict[int, list[tuple[str, int]]] = {}
        for name, index in chosen.items():
            for page, sample in self._places(index):
                wanted.setdefault(page, []).append((name, sample))
        planes: dict[str, np.ndarray] = {}
        for page, uses in sorted(wanted.items()):
            pixels = decode_page(self.series, page, self.path)
            for name, sample in uses:
                plane = pixels[sample] if pixels.ndim == 3 else pixels
                planes[name] = np.maximum(planes[name], plane) if name in planes else np.array(plane)
        return planes

    def check_planes(self, project: Project | None) -> None:
        """Refuse several planes a channel, unless they are to be projected.

        Raises:
            InputError: There are.
        """
        if self.projected and project is None:
            planes = ", ".join(f"{count} {_AXES[axis]}" for axis, count in self.projected.items())
            fix = "--project max takes the brightest of them, pixel by pixel; or save one plane a file"
            if len(self.names) == 1:
                count = math.prod(self.projected.values())
                fix += f"; if they are the channels: Fiji, Image > Hyperstacks > Stack to Hyperstack, c={count}, z=1"
            raise InputError(self.path, planes, "one plane a channel", fix)

    @property
    def _pages_are_planes(self) -> bool:
        """Whether each page holds a plane [H, W], or one of each sample."""
        frame = self.series.keyframe
        page = [(axis, size) for axis, size in zip(frame.axes, frame.shape, strict=True) if size != 1 or axis in "YX"]
        return list(self.axes.items())[-len(page) :] == page and {"Y", "X"} <= dict(page).keys()

    def _read_all(self, chosen: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Read some channels of a file whose pages are no planes: axes YXC, written as pages [X, C]."""
        order = [axis for axis in self.axes if axis not in "YX"]
        pixels = decode_all(self.series, self.path).reshape(list(self.axes.values()))
        pixels = np.moveaxis(pixels, [list(self.axes).index(axis) for axis in "YX"], (-2, -1))
        pixels = pixels.max(axis=tuple(k for k, axis in enumerate(order) if axis in self.projected))
        pixels = pixels.reshape(-1, *self.shape)
        return {name: np.ascontiguousarray(pixels[index]) for name, index in chosen.items()}

    def _places(self, index: int) -> Iterator[tuple[int, int]]:
        """Yield (page, sample) of the planes of a channel."""
        samples = self.axes.get("S", 1)
        leading = [axis for axis in self.axes if axis not in "YXS"]
        channel, sample = divmod(index, samples)
        ranges = [range(self.axes[axis]) if axis in self.projected else (channel,) for axis in leading]
        for place in itertools.product(*ranges):
            page = int(np.ravel_multi_index(place, [self.axes[axis] for axis in leading])) if leading else 0
            yield page, sample


@contextlib.contextmanager
def open_stack(path: str, max_pixels: int, data: bytes | None = None) -> Iterator[Stack]:
    """Open a TIFF file of one or more planes and check what it says.

    Args:
        path: Local or remote.
        max_pixels: Larger planes (height x width) are refused.
        data: The content of a file of one channel, whose pages are planes of it unless the file says what they are;
            what it says of other files of a set is left out, as their names say it. None: a file of all channels.

    Raises:
        InputError: It cannot be read, is damaged, or is of a kind that is not read here.
    """
    try:
        with contextlib.ExitStack() as closing:
            source: Any = path if data is None else io.BytesIO(data)
            if data is None and files.is_remote(path):
                source = closing.enter_context(files.open_file(path))
            opened = closing.enter_context(tifffile.TiffFile(source, _multifile=data is None))
            yield _stack(opened, path, max_pixels, data is not None)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a TIFF image", "restore the file") from error
    except PermissionError as error:
        raise InputError(path, "a file that may not be read", "a TIFF image", "check who may read it") from error
    except MemoryError as error:
        fix = "lower --max-pixels or cut the image into parts"
        raise InputError(path, "more data than memory", f"at most {max_pixels} px", fix) from error
    except tiff.DAMAGE as error:
        fix = "copy it again, or save it again with Fiji or bfconvert"
        raise InputError(path, f"a TIFF file that cannot be read ({error})", "a TIFF image", fix) from error


def files_of_set(path: str) -> tuple[str, ...]:
    """Return the names of the files that an OME-TIFF file says its image lies in, itself included; () = no set.

    What is wrong with its metadata is said when it is read.
    """
    try:
        with files.open_file(path) as stream, tifffile.TiffFile(stream) as opened:
            text = opened.pages[0].description
            said = ome.read_ome(text, path) if ome.is_ome(text) else None
            found = said.files if said is not None and not said.one_image_a_file else ()
    except (InputError, MemoryError, *tiff.DAMAGE):
        return ()
    own = _base(path)
    return tuple(sorted({own, *found})) if set(found) - {own} else ()


def has_one_plane(path: str) -> bool:
    """Tell whether a TIFF file is one grey picture; False where it cannot be read, so that reading it says why."""
    try:
        with files.open_file(path) as stream, tifffile.TiffFile(stream) as opened:
            tiff.check_chain(opened)
            first, text = opened.pages[0], opened.pages[0].description
            said = ome.read_ome(text, path).num_planes if ome.is_ome(text) else _planes_said(opened)
            reduced = sum(page.is_reduced for page in itertools.islice(opened.pages, 1, 16))
            return max(len(opened.pages) - reduced, said) * first.samplesperpixel == 1
    except (InputError, MemoryError, *tiff.DAMAGE):
        return False


def _planes_said(opened: tifffile.TiffFile) -> int:
    """Return the number of planes that ImageJ or tifffile says a file has, which may have lost some; 1 = nothing."""
    if opened.is_imagej:
        images = (opened.imagej_metadata or {}).get("images", 1)
        return images if isinstance(images, int) else 1
    shape = (opened.shaped_metadata or ({},))[0].get("shape", ()) if opened.is_shaped else ()
    return math.prod(shape) // max(1, opened.pages[0].size) if shape else 1


def _base(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _stack(opened: tifffile.TiffFile, path: str, max_pixels: int, alone: bool) -> Stack:
    text = opened.pages[0].description
    metadata = ome.read_ome(text, path) if ome.is_ome(text) else None
    if metadata is not None and not alone:
        _check_set(metadata, path)
    tiff.check_chain(opened)
    series = _one_series(opened, path)
    axes = _axes(series, path)
    if alone and "C" not in axes:
        axes = {_PAGES if axis in _UNKNOWN else axis: size for axis, size in axes.items()}
    shape = axes["Y"], axes["X"]
    _check(series, shape, max_pixels, path)
    channel = _channel_axis(axes, path)
    names = channel_names(opened, metadata, axes.get(channel or "", 1), axes.get("S", 1))
    projected = {axis: count for axis, count in axes.items() if axis in _AXES}
    scale = metadata.scale if metadata is not None else tiff.imagej_scale(opened)
    return Stack(path, names, shape, scale, projected, series, axes)


def _check_set(metadata: ome.Ome, path: str) -> None:
    """Refuse a set of files of which one is missing: tifffile would give zeros."""
    if metadata.one_image_a_file:
        found = f"one image of an acquisition of {metadata.num_images}, whose files refer to each other"
        fix = "write each again, K = 0, 1, ...: bfconvert -series K IN OUT.ome.tif, with a name of its own"
        raise InputError(path, found, "a file that speaks of its own image alone", fix)
    others = [name for name in metadata.files if name != _base(path)]
    if others and files.is_remote(path):
        found = f"an OME-TIFF set of {len(others) + 1} files on an object store"
        raise InputError(path, found, "one file an image there", "copy the folder to a local disk")
    for name in others:
        other = os.path.join(os.path.dirname(path), name)
        if not os.path.isfile(other):
            found = f"OME-XML that refers to {name!r}, which is not beside it"
            raise InputError(path, found, "all files of the set in one folder", "copy the missing files there")
    if metadata.num_images > 1 and others:
        found = f"a set of {len(others) + 1} files with {metadata.num_images} images"
        fix = "name the files by --pattern '{ID}_{channel}.ome.tif', or bfconvert -series K"
        raise InputError(path, found, "one image a set", fix)


def _one_series(opened: tifffile.TiffFile, path: str) -> tifffile.TiffPageSeries:
    """Return the image of a file, its smaller copies left out."""
    series = [one for one in opened.series if not one.keyframe.is_reduced]
    series = series or list(opened.series)
    if len(series) != 1:
        sizes = ", ".join(f"{one.axes} {' x '.join(map(str, one.shape))}" for one in series[:4])
        found = f"{len(series)} images in one file ({sizes}{', ...' if len(series) > 4 else ''})"
        fix = "save each as its own file, such as: bfconvert -series 0 IN.ome.tif OUT.ome.tif"
        raise InputError(path, found, "one image a file", fix)
    return series[0]


def _axes(series: tifffile.TiffPageSeries, path: str) -> dict[str, int]:
    """Return the length of each axis, in order, without those of length 1 (rows and columns stay)."""
    axes, shape = series.get_axes(squeeze=False), series.get_shape(squeeze=False)
    pairs = [(axis, int(size)) for axis, size in zip(axes, shape, strict=True) if size != 1 or axis in "YX"]
    found = dict(pairs)
    if len(found) < len(pairs) or not {"Y", "X"} <= found.keys():
        described = f"axes {axes} of {' x '.join(map(str, shape))}"
        fix = "save it with axes that are named (OME-TIFF), such as CYX"
        raise InputError(path, described, "channels, rows and columns", fix)
    return found


def _check(series: tifffile.TiffPageSeries, shape: tuple[int, int], max_pixels: int, path: str) -> None:
    page = series.keyframe
    if shape[0] * shape[1] > max_pixels:
        found, fix = f"{shape[1]} x {shape[0]} px", "cut the image into parts or raise --max-pixels"
        raise InputError(path, found, f"at most {max_pixels} px", fix)
    planes = math.prod(series.shape) // max(1, shape[0] * shape[1])
    if planes > _MOST_PLANES or page.samplesperpixel > _MOST_SAMPLES:
        found = f"{planes} planes, {page.samplesperpixel} numbers a pixel"
        raise InputError(path, found, f"at most {_MOST_PLANES} and {_MOST_SAMPLES}", "cut the file into parts")
    if series.dtype is None or series.dtype.kind != "u" or series.dtype.itemsize > 2:
        raise InputError(
            path, f"a TIFF of {tiff.numbers_in_words(page)}", "8 or 16 bit grey", "save the channels as 8 or 16 bit"
        )
    if page.compression not in COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        known = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        fix = "save it again: bfconvert -compression zlib IN OUT.ome.tif"
        raise InputError(path, f"the compression {name}", f"one of {known}", fix)


def _channel_axis(axes: Mapping[str, int], path: str) -> str | None:
    """Return the axis of the channels beside that of the samples of a pixel; None = there is none."""
    others = [axis for axis in axes if axis not in "YXS" and axis not in _AXES]
    known = [axis for axis in others if axis == "C"]
    if len(others) > 1 or (others and not known and (others[0] not in _UNKNOWN or "S" in axes)):
        sizes = ", ".join(f"{axis} = {size}" for axis, size in axes.items())
        fix = "save it with axes that are named (OME-TIFF, ImageJ hyperstack): C channels, Z depth, T time"
        raise InputError(path, f"axes {''.join(axes)} ({sizes})", "channels, depth and time", fix)
    if others and not known and (axes[others[0]] > _MOST_SAMPLES or axes["X"] <= 4):
        found = f"{axes[others[0]]} planes of {axes['X']} x {axes['Y']} px, and no word about what they are"
        fix = (
            "of an array [H, W, C], tifffile.imwrite with planarconfig='contig'; else save it with axes that are named"
        )
        raise InputError(path, found, f"at most {_MOST_SAMPLES} channels, of more than 4 px", fix)
    return others[0] if others else None
