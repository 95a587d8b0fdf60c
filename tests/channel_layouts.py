"""Writers of fields of view as microscopes, ImageJ, Bio-Formats and scripts leave them, from the same pixels."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

FILE_ORDER = (2, 0, 3, 1)
"""The channels in the files: blue, red, yellow, green. Place alone must never tell what a channel is."""
NAMES = ("DAPI", "MT", "ER", "protein")
NUMBERED = ("nucleus=1", "microtubules=2", "er=3", "protein=4")
UUID = "urn:uuid:00000000-0000-0000-0000-00000000000"

Writer = Callable[[Path, str, np.ndarray], None]
"""Writes one field of view [4, H, W] (red, green, blue, yellow) into a folder under an image id."""


@dataclass(frozen=True)
class Case:
    """A way in which images come.

    Attributes:
        write: Writes one.
        options: What the command line must say about it.
        um_per_px: What the files say.
    """

    write: Writer
    options: tuple[str, ...] = ()
    um_per_px: float | None = None


def _stack(ending: str, axes: str, **how) -> Writer:
    """Write one file; `axes` has C, Y, X and perhaps Z or T, over which the brightest plane is the image."""

    def write(folder: Path, image_id: str, pixels: np.ndarray) -> None:
        planes = pixels[list(FILE_ORDER)]
        there = "CYX"
        for axis, count in (("Z", 3), ("T", 2)):
            if axis in axes:
                planes = np.stack([planes // (1 + abs(k - 1)) for k in range(count)])
                there = axis + there
        planes = np.transpose(planes, [there.index(axis) for axis in axes.replace("S", "C")])
        metadata = how.get("metadata", {})
        metadata = metadata if metadata is None else {"axes": axes, **metadata}
        tifffile.imwrite(folder / (image_id + ending), planes, **{**how, "metadata": metadata})

    return write


def _ome(names=NAMES, **more) -> dict:
    return {"photometric": "minisblack", "metadata": {"Channel": {"Name": list(names)}, **more}}


def _files(pattern: str, names: tuple[str, ...]) -> Writer:
    def write(folder: Path, image_id: str, pixels: np.ndarray) -> None:
        for place, name in zip(FILE_ORDER, names, strict=True):
            tifffile.imwrite(folder / pattern.format(ID=image_id, channel=name), pixels[place])

    return write


def _pyramid(folder: Path, image_id: str, pixels: np.ndarray) -> None:
    planes = pixels[list(FILE_ORDER)]
    how = {"photometric": "minisblack", "tile": (16, 16), "compression": "zlib"}
    with tifffile.TiffWriter(folder / f"{image_id}.ome.tif", bigtiff=True) as writer:
        writer.write(planes, subifds=1, metadata={"axes": "CYX", "Channel": {"Name": list(NAMES)}}, **how)
        writer.write(planes[:, ::2, ::2], subfiletype=1, **how)


def _pages_pyramid(folder: Path, image_id: str, pixels: np.ndarray) -> None:
    planes = np.moveaxis(pixels[list(FILE_ORDER)], 0, -1)
    how = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None, "compression": "lzw"}
    with tifffile.TiffWriter(folder / f"{image_id}.tif") as writer:
        writer.write(planes, **how)
        writer.write(planes[::2, ::2], subfiletype=1, **how)


def ome_xml(names: list[str], size: tuple[int, int], kind: str, own: str, places: str, **sizes) -> str:
    """Return OME-XML of one image with a plane a channel; `places` are its TiffData elements."""
    channels = "".join(f'<Channel ID="Channel:0:{c}" Name="{n}" SamplesPerPixel="1"/>' for c, n in enumerate(names))
    given = {"SizeC": len(names), "SizeZ": 1, "SizeT": 1, "SizeX": size[1], "SizeY": size[0], **sizes}
    attributes = " ".join(f'{name}="{value}"' for name, value in given.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="{own}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{kind}" '
        f"{attributes}>{channels}{places}</Pixels></Image></OME>"
    )


def write_set(folder: Path, image_id: str, pixels: np.ndarray, name: str = "{image_id}_C{c}.ome.tif") -> None:
    """Write an OME-TIFF set: a file a channel, each with the metadata of all."""
    ids = [f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{image_id} {c}')}" for c in range(4)]
    names = [name.format(image_id=image_id, c=c) for c in range(4)]
    places = "".join(
        f'<TiffData FirstC="{c}" FirstZ="0" FirstT="0" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{names[c]}">{ids[c]}</UUID></TiffData>'
        for c in range(4)
    )
    for c, place in enumerate(FILE_ORDER):
        text = ome_xml(list(NAMES), pixels.shape[1:], pixels.dtype.name, ids[c], places, PhysicalSizeX=0.16)
        text = text.replace('PhysicalSizeX="0.16"', 'PhysicalSizeX="160" PhysicalSizeXUnit="nm" PhysicalSizeY="0.16"')
        tifffile.imwrite(folder / names[c], pixels[place], description=text, metadata=None)


GREY = {"photometric": "minisblack"}
BY_NUMBER = ("--channels", *NUMBERED)
CASES: dict[str, Case] = {
    **{
        f"{axes.lower()} {compression} {'big' if big else 'classic'}": Case(
            _stack(".tif", axes, compression=compression, bigtiff=big, **GREY), BY_NUMBER
        )
        for axes in ("CYX", "YXC")
        for compression in (None, "lzw", "deflate", "zstd", "packbits")
        for big in (False, True)
    },
    "big endian": Case(_stack(".tif", "CYX", byteorder=">", **GREY), BY_NUMBER),
    "big endian lzw": Case(_stack(".tif", "CYX", byteorder=">", compression="lzw", predictor=True, **GREY), BY_NUMBER),
    "samples": Case(_stack(".tif", "YXS", planarconfig="contig", **GREY), BY_NUMBER),
    "samples lzw": Case(_stack(".tif", "YXS", planarconfig="contig", compression="lzw", **GREY), BY_NUMBER),
    "sample planes": Case(_stack(".tif", "SYX", planarconfig="separate", tile=(16, 16), **GREY), BY_NUMBER),
    "rgb and one more": Case(_stack(".tif", "YXS", photometric="rgb"), BY_NUMBER),
    "plain pages": Case(_stack(".tiff", "CYX", photometric="minisblack", **{"metadata": None}), BY_NUMBER),
    "named by tifffile": Case(_stack(".tif", "CYX", **_ome())),
    "ome": Case(_stack(".ome.tif", "CYX", **_ome(PhysicalSizeX=0.1, PhysicalSizeY=0.1)), (), 0.1),
    "ome in nm": Case(
        _stack(
            ".ome.tif",
            "CYX",
            **_ome(
                ("Hoechst 33342", "Microtubules", "ER (Concanavalin A)", "Protein"),
                **{"PhysicalSizeX": 325, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 325, "PhysicalSizeYUnit": "nm"},
            ),
        ),
        (),
        0.325,
    ),
    "ome without unit": Case(
        _stack(".ome.tif", "CYX", **_ome(PhysicalSizeX=1, PhysicalSizeXUnit="pixel", PhysicalSizeY=1)), (), None
    ),
    "ome by dye": Case(
        _stack(".OME.TIFF", "CYX", **_ome(("405", "Alexa 488", "561", "Cy5"))),
        ("--channels", "nucleus=405", "microtubules=alexa 488", "er=561", "protein=Cy5"),
    ),
    "ome zcyx": Case(_stack(".ome.tif", "ZCYX", **_ome()), ("--project", "max")),
    "ome czyx lzw": Case(_stack(".ome.tif", "CZYX", compression="lzw", **_ome()), ("--project", "max")),
    "ome tczyx": Case(_stack(".ome.tif", "TCZYX", **_ome()), ("--project", "max")),
    "zcyx deflate": Case(_stack(".tif", "ZCYX", compression="deflate", **GREY), (*BY_NUMBER, "--project", "max")),
    "tzcyx": Case(_stack(".tif", "TZCYX", **GREY), (*BY_NUMBER, "--project", "max")),
    "imagej": Case(
        _stack(".tif", "CYX", imagej=True, resolution=(8, 8), metadata={"unit": "um", "Labels": list(NAMES)}), (), 0.125
    ),
    "imagej unnamed": Case(_stack(".tif", "CYX", imagej=True), BY_NUMBER),
    "imagej hyperstack": Case(_stack(".tif", "TZCYX", imagej=True), (*BY_NUMBER, "--project", "max")),
    "ome set": Case(write_set, (), 0.16),
    "ome pyramid": Case(_pyramid),
    "pyramid of pages": Case(_pages_pyramid, BY_NUMBER),
    "set by pattern": Case(
        write_set,
        ("--pattern", "{ID}_C{channel}.ome.tif", "--channels", "nucleus=0", "microtubules=1", "er=2", "protein=3"),
        0.16,
    ),
    "stains in names": Case(_files("{ID}_{channel}.tif", NAMES), ("--pattern", "{ID}_{channel}.tif")),
    "no pattern but names": Case(
        _files("{ID}_{channel}.tif", ("ch00", "ch01", "ch02", "ch03")),
        ("--channels", "nucleus=ch00", "microtubules=ch01", "er=ch02", "protein=ch03"),
    ),
    "no pattern but numbers": Case(_files("{ID}_{channel}.tif", ("1", "2", "3", "4")), BY_NUMBER),
    "opera": Case(
        _files("{ID}p01-ch{channel}sk1fk1fl1.tiff", ("1", "2", "3", "4")),
        ("--pattern", "{ID}p01-ch{channel}sk1fk1fl1.tiff", *BY_NUMBER),
    ),
    "imagexpress": Case(
        _files("{ID}_w{channel}A3F0C2D1.tif", ("1", "2", "3", "4")), ("--pattern", "{ID}_w{channel}*.tif", *BY_NUMBER)
    ),
    "micro-manager": Case(
        _files("img_channel00{channel}_{ID}_time0_z000.tif", ("0", "1", "2", "3")),
        (
            *("--pattern", "img_channel00{channel}_{ID}_time*.tif"),
            *("--channels", "nucleus=0", "microtubules=1", "er=2", "protein=3"),
        ),
    ),
}
