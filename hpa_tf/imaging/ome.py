"""The metadata of OME-TIFF, checked before any other program reads it.

Nothing is taken from it before it has passed: no entities (a few lines can expand to gigabytes), no sizes that no
microscope has, no file outside of the image's own folder.
"""

import math
from dataclasses import dataclass
from xml.etree import ElementTree

from hpa_tf.errors import InputError
from hpa_tf.file_names import check_name

_MOST_LETTERS = 64_000_000
_MOST_PLANES = 100_000
_PREFIXES = {"nano": 1e-3, "micro": 1.0, "milli": 1e3, "centi": 1e4, "": 1e6}
UM = {
    **dict.fromkeys(("µm", "μm", "um", "\\u00b5m", "micron", "microns"), 1.0),
    **{f"{prefix}{end}": um for prefix, um in _PREFIXES.items() for end in ("meter", "meters", "metre", "metres")},
    **{"å": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6},
}
"""Micrometres a unit of OME and ImageJ, in lower case; others (pixel, reference frame) say nothing."""
UM_PER_PX = (0.005, 20)
"""Smallest and largest micrometres per pixel that a microscope has."""
_SQUARE = 0.01
_FIX = "save it again, with Fiji or bfconvert of Bio-Formats"


@dataclass(frozen=True)
class Ome:
    """What OME-XML says of one image.

    Attributes:
        num_images: Images (positions, series) in the document.
        num_planes: Channels x depth x time of the first.
        names: Channel names of the first, one a channel; "" = none.
        scale: Micrometres across and down a pixel of the first; None = not known.
        files: Names of the other files that hold its planes; they lie in the same folder.
        one_image_a_file: Whether there are several images, each in a file of its own.
    """

    num_images: int
    num_planes: int
    names: tuple[str, ...]
    scale: tuple[float, float] | None
    files: tuple[str, ...]
    one_image_a_file: bool


def is_ome(text: str) -> bool:
    """Tell whether a TIFF description is OME-XML, by its beginning or, as tifffile does, by its end."""
    return text.strip().endswith("OME>") or ("<OME" in text[:4096] and "openmicroscopy.org" in text[:4096].lower())


def read_ome(text: str, where: str) -> Ome:
    """Read OME-XML.

    Args:
        text: The document.
        where: The file that it is in.

    Raises:
        InputError: It is no XML, has entities, or says what cannot be.
    """
    root = _parse(text, where)
    only = next((element for element in root if _is(element, "BinaryOnly")), None)
    if only is not None:
        found = f"metadata in another file ({only.get('MetadataFile', 'not named')[:200]!r})"
        fix = "bfconvert joins them: bfconvert NAME.companion.ome OUT.ome.tif; or name the files by --pattern"
        raise InputError(where, found, "OME-XML in the file itself", fix)
    images = [element for element in root if _is(element, "Image")]
    pixels = [[one for one in image if _is(one, "Pixels")] for image in images]
    if not images or not all(pixels):
        raise InputError(where, "OME-XML without an image and its pixels", "an image", _FIX)
    num_planes = [_check_sizes(one, where) for each in pixels for one in each]
    own = root.get("UUID")  # the file itself, whatever it was called when it was written
    for name in _files(root, own):  # tifffile opens those of the other images, too
        check_name(name, where)
    first = pixels[0][0]
    places = [_files(image, None) for image in images]
    alone = len(images) > 1 and all(len(one) == 1 for one in places) and len(set(places)) == len(images)
    return Ome(len(images), num_planes[0], _names(first, where), _scale(first, where), _files(first, own), alone)


def _parse(text: str, where: str) -> ElementTree.Element:
    if len(text) > _MOST_LETTERS:
        raise InputError(where, f"OME-XML of {len(text)} letters", f"at most {_MOST_LETTERS}", _FIX)
    for word in ("<!DOCTYPE", "<!ENTITY", "ModuloAlong"):
        if word in text:
            expected = "OME-XML as microscopes and Bio-Formats write it"
            fix = "do not use files of unknown origin; else save it again with Fiji"
            raise InputError(where, f"{word} in its OME-XML", expected, fix)
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise InputError(where, f"OME-XML that cannot be read ({error})", "XML", _FIX) from error


def _is(element: ElementTree.Element, tag: str) -> bool:
    """Tell whether tifffile takes an element for one of this tag: any that ends so, with a namespace or without."""
    return element.tag.endswith(tag)


def _check_sizes(pixels: ElementTree.Element, where: str) -> int:
    """Return the number of planes."""
    sizes = [_whole(pixels, f"Size{axis}", where, least=1) for axis in "XYZCT"]
    if math.prod(sizes[2:]) > _MOST_PLANES:
        found = f"SizeZ x SizeC x SizeT = {' x '.join(map(str, sizes[2:]))}"
        raise InputError(where, found, f"at most {_MOST_PLANES} planes", "cut the file into parts")
    for data in (one for one in pixels if _is(one, "TiffData")):
        for name in ("IFD", "PlaneCount", "NumPlanes", "FirstZ", "FirstC", "FirstT"):
            if data.get(name) is not None and _whole(data, name, where) > _MOST_PLANES:
                raise InputError(where, f"{name} {data.get(name)}", f"at most {_MOST_PLANES}", _FIX)
    return math.prod(sizes[2:])


def _whole(element: ElementTree.Element, name: str, where: str, least: int = 0) -> int:
    text = element.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) >= least):
        raise InputError(where, f"{name} {text[:40]!r} in its OME-XML", f"a whole number >= {least}", _FIX)
    return int(text)


def _names(pixels: ElementTree.Element, where: str) -> tuple[str, ...]:
    names: list[str] = []
    for channel in (one for one in pixels if _is(one, "Channel")):
        samples = _whole(channel, "SamplesPerPixel", where, 1) if channel.get("SamplesPerPixel") else 1
        if samples > _MOST_PLANES:
            raise InputError(where, f"SamplesPerPixel {samples}", "a few", _FIX)
        names += [(channel.get("Name") or "").strip() if samples == 1 else ""] * samples
    return tuple(names)


def _scale(pixels: ElementTree.Element, where: str) -> tuple[float, float] | None:
    found = []
    for axis in "XY":
        unit = UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip().lower())
        text = pixels.get(f"PhysicalSize{axis}")
        if text is None or unit is None:
            return None
        try:
            found.append(float(text) * unit)
        except ValueError as error:
            raise InputError(where, f"PhysicalSize{axis} {text[:40]!r}", "a number", _FIX) from error
    return found[0], found[1]


def checked_scale(scale: tuple[float, float] | None, where: str) -> float | None:
    """Return the micrometres per pixel that a file says across and down, if they can be.

    Raises:
        InputError: They are no microscope's, or differ between rows and columns.
    """
    if scale is None:
        return None
    (across, down), fix = scale, "say it yourself: --um-per-px (0.08 for 63 x)"
    least, most = UM_PER_PX
    if not least <= across <= most:
        raise InputError(where, f"{across:g} micrometres per pixel in its metadata", f"{least} to {most}", fix)
    if not abs(across / down - 1 if down else 1) <= _SQUARE:
        raise InputError(where, f"pixels of {across:g} x {down:g} micrometres", "square pixels", fix)
    return across


def _files(element: ElementTree.Element, own: str | None) -> tuple[str, ...]:
    """Return the names of the files that an element speaks of, without that of the UUID `own`."""
    uuids = [one for one in element.iter() if _is(one, "UUID") and (own is None or one.text != own)]
    return tuple(dict.fromkeys(name for one in uuids if (name := one.get("FileName")) is not None))
