"""The fields of view of a folder: which files belong to which image, by their names alone."""

import os
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

from hpa_tf import files
from hpa_tf.classes import CHANNELS
from hpa_tf.csv_tables import clean
from hpa_tf.errors import HpaWarning, InputError, counted, printable
from hpa_tf.file_names import check_image_id
from hpa_tf.imaging.layout import MEANINGS, Layout
from hpa_tf.imaging.naming import EXTENSIONS, Naming
from hpa_tf.imaging.other_formats import CONVERT, folders, other_formats
from hpa_tf.imaging.stacks import files_of_set, has_one_plane

_COMPOSITE = re.compile(rf"(?P<id>.+?)(?:_(?:{'|'.join(CHANNELS)}))+", re.I)
_MASK = re.compile(
    rf"(?:\.ome)?(?:_(?:cell|nucleus|nuclei|cp|{'|'.join(CHANNELS)}))*"
    r"_(?:cell|nucleus|nuclei)?(?:masks?|cells|nuclei|labels?|stardist)",
    re.I,
)
"""What stands after an image's name in that of a mask."""
_STEM = re.compile(r"(?:\.ome)?\.tiff?$", re.I)
_TIFF = re.compile(r"\.tiff?(?:\.gz)?$", re.I)
_SET = re.compile(r"\.ome\.tiff?$", re.I)
_LAST_WORD = re.compile(r"[\W_]+[^\W_]*$")
_NUM_SHOWN = 5


@dataclass(frozen=True)
class FieldFiles:
    """The files of one field of view.

    Attributes:
        image_id: Its name.
        paths: The file of each channel; a channel without a file is missing. Empty where `stack` is not.
        stack: The file that holds all channels, first; then the other files of an OME-TIFF set.
        layout: How to read them.
    """

    image_id: str
    paths: Mapping[str, str]
    stack: tuple[str, ...] = ()
    layout: Layout = field(default_factory=Layout)

    @property
    def names(self) -> list[str]:
        """Names of all its files, sorted, without their folder."""
        every = (*self.paths.values(), *self.stack)
        return sorted(path.replace("\\", "/").rsplit("/", 1)[-1] for path in every)

    def says_scale(self) -> bool:
        """Tell whether one of its files may say how many micrometres a pixel has: only TIFF does."""
        return any(_TIFF.search(name) for name in self.names)


Fault = tuple[str, InputError]
"""An image id and why the image cannot be used."""


def find_fields(
    folder: str | os.PathLike, faults: list[Fault] | None = None, layout: Layout | None = None
) -> list[FieldFiles]:
    """List the fields of view in a folder (not below it), sorted by image id.

    Hidden files (such as macOS's `._` files), ImageXpress' small copies (`_thumb`), and pictures of several channels
    beside the channels themselves (such as `{ID}_blue_red_green.jpg`) are left alone. Ids are in Unicode's composed
    form (NFC), whatever the file system made of them, without spaces at their ends.

    Args:
        folder: Local or remote.
        faults: Where images that cannot be used are added, if they are not to raise an error.
        layout: How the channels lie in files; by default `{ID}_{red,green,blue,yellow}`, and where there is none of
            these a TIFF file an image.

    Raises:
        InputError: The folder is missing or holds no image, an id is unsafe, or a channel has two files.
    """
    layout = layout or Layout()
    naming = Naming(layout)
    names = files.list_shown(folder)
    if layout.pattern is not None:
        names = [name for name in names if "_thumb" not in name]
    problems: list[Fault] = []
    if naming.one_file_a_channel:
        found = _by_channel(folder, names, naming, layout, problems)
        if found and layout.pattern is None and _numbers_are_inside(folder, found, naming, layout):
            problems.clear()
            found = _stacks(folder, names, Naming(Layout("{ID}")), layout, problems)
        elif found and layout.pattern is None:
            _tell_of_other_images(folder, names, naming, found)
        elif not problems and layout.pattern is None:
            naming = Naming(Layout("{ID}"))
            found = _stacks(folder, names, naming, layout, problems, check=True)
    else:
        found = _stacks(folder, names, naming, layout, problems)
    if problems and faults is None:
        raise problems[0][1]
    if not found and not problems:
        raise _no_image(folder, names, layout)
    _tell_of_other_formats(folder, names)
    if faults is not None:
        faults += problems
    bad = {image_id for image_id, _ in problems}
    return [found[image_id] for image_id in sorted(found.keys() - bad)]


def _group(
    folder: str | os.PathLike, names: Sequence[str], naming: Naming, problems: list[Fault]
) -> dict[str, dict[str, str]]:
    """Return the path of each channel ("" = all channels) of each image."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        match = naming.match(name)
        if match is None:
            continue
        image_id, channel, path = clean(match[0]), match[1] or "", files.join(folder, name)
        try:
            check_image_id(image_id, path)
        except InputError as error:
            problems.append((printable(image_id), error))
            continue
        other = found.setdefault(image_id, {}).setdefault(channel, path)
        if other != path:
            what = f"a second file for {channel or f'image {image_id}'}, beside {other}"
            fix = "remove one, or give a --pattern that only one of them fits"
            problems.append((image_id, InputError(path, what, "one file a channel", fix)))
    return found


def _by_channel(
    folder: str | os.PathLike, names: Sequence[str], naming: Naming, layout: Layout, problems: list[Fault]
) -> dict[str, FieldFiles]:
    found = _group(folder, names, naming, problems)
    if layout.pattern is None:
        composites = set(filter(partial(_is_composite, found=found, num_channels=len(layout.present)), found))
        found = {image_id: paths for image_id, paths in found.items() if image_id not in composites}
        if found and layout.channels and not any(map(naming.uses_given, names)):
            text = f"--channels: no file of {folder} is named so; its channels are told by {{ID}}_red and the like"
            warnings.warn(text, HpaWarning, stacklevel=3)
    kept = {}
    for image_id, paths in found.items():
        own = {channel: path for channel, path in paths.items() if channel in layout.present}
        if own:
            kept[image_id] = FieldFiles(image_id, own, layout=layout)
    return kept


def _numbers_are_inside(
    folder: str | os.PathLike, found: Mapping[str, FieldFiles], naming: Naming, layout: Layout
) -> bool:
    """Tell whether the numbers of channels are those inside the files, not those that the files' names end in.

    Raises:
        InputError: They may be either, as planes are to be projected.
    """
    names = sorted(name for image in found.values() for name in image.names)
    paths = [files.join(folder, name) for name in (names[0], names[len(names) // 2], names[-1])]
    if not all(map(naming.uses_number, names)) or not all(map(_STEM.search, names)) or any(map(has_one_plane, paths)):
        return False
    if layout.project is not None:
        what = f"files of several planes, named by numbers of --channels (first {names[0]})"
        fix = "add --pattern '{ID}.tif' if each file is an image, or '{ID}_{channel}.tif' if each is a channel"
        raise InputError(folder, what, "a --pattern beside --project", fix)
    return True


def _is_composite(image_id: str, found: Mapping[str, Mapping[str, str]], num_channels: int) -> bool:
    """Tell whether `{image_id}_{channel}` are pictures of several channels: of an image that is there by itself."""
    match = _COMPOSITE.fullmatch(image_id)
    return match is not None and match["id"] in found and len(found[image_id]) < num_channels


def _stacks(
    folder: str | os.PathLike,
    names: Sequence[str],
    naming: Naming,
    layout: Layout,
    problems: list[Fault],
    check: bool = False,
) -> dict[str, FieldFiles]:
    """Return the images of a folder that has a TIFF file an image.

    Args:
        folder: The folder.
        names: Its files.
        naming: Which of them are images.
        layout: How to read them.
        problems: Where images that cannot be used are added.
        check: Look into the first, the middle and the last file whether one may be an image of several channels.
    """
    grouped = {image_id: paths[""] for image_id, paths in _group(folder, names, naming, problems).items()}
    stems = set(grouped)
    grouped = {image_id: path for image_id, path in grouped.items() if not _is_mask(image_id, stems)}
    sets = _sets(folder, grouped)
    paths = sorted(grouped.values())
    if check and paths and not sets and all(map(has_one_plane, (paths[0], paths[len(paths) // 2], paths[-1]))):
        return {}
    found: dict[str, FieldFiles] = {}
    told: set[tuple[str, ...]] = set()
    for own_id, path in grouped.items():
        image_id, paths = sets.get(path, (own_id, (path,)))
        other = found.setdefault(image_id, FieldFiles(image_id, {}, paths, layout)).stack
        if other != paths and paths not in told:
            told.add(paths)
            what = f"files of an image that would be called {image_id}, as that of {other[0]}"
            fix = "give each image a folder of its own, or --pattern with {channel}, so that a file is a channel"
            problems.append((image_id, InputError(path, what, "one name an image", fix)))
    return found


def _is_mask(image_id: str, stems: set[str]) -> bool:
    places = (sign.start() for sign in re.finditer(r"[._]", image_id))
    return any(image_id[:place] in stems and _MASK.fullmatch(image_id, place) for place in places)


def _sets(folder: str | os.PathLike, grouped: Mapping[str, str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return (image id, paths) of OME-TIFF images that lie in several files, by the path of each.

    Of files whose names differ in their last word alone, and of all, the first and the last are looked into; where one
    of them is of a set, all are.
    """
    paths = sorted(path for path in grouped.values() if _SET.search(path))
    alike: dict[str, list[str]] = {}
    for path in paths if not files.is_remote(folder) else ():  # there each look would be a download
        alike.setdefault(_LAST_WORD.sub("", _STEM.sub("", path)), []).append(path)
    groups = [paths, *(group for group in alike.values() if len(group) > 1)] if paths else []
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for group in groups:
        if not any(path in found or files_of_set(path) for path in (group[0], group[-1])):
            continue
        for path in group:
            if path not in found and (names := files_of_set(path)):
                members = tuple(files.join(folder, name) for name in names)
                found |= dict.fromkeys(members, (_common_id(names), members))
    return found


def _common_id(names: Sequence[str]) -> str:
    """Return what the names of a set begin with, up to the last sign between words."""
    stems = [_STEM.sub("", unicodedata.normalize("NFC", name)) for name in names]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    common = "".join(letters[0] for letters in same)
    whole = re.match(r"(.*[^\W_])[\W_]+[^\W_]*$", common)
    return (whole[1] if whole else common.rstrip(" _-.")) or stems[0]


def expected_names(layout: Layout) -> str:
    """Return what the files of a folder should be called, for errors."""
    endings = f"one of the extensions {', '.join(EXTENSIONS)}"
    if layout.pattern is None:
        return f"files named {{ID}}_{{{','.join(CHANNELS)}}} with {endings}"
    if "{channel}" not in layout.pattern:
        return f"TIFF files named {layout.pattern}"
    names = ", ".join(layout.given.get(channel, MEANINGS[channel]) for channel in layout.present)
    return f"files named {layout.pattern} with the channels {names}"


def _no_image(folder: str | os.PathLike, names: list[str], layout: Layout) -> InputError:
    shown = ", ".join(names[:_NUM_SHOWN]) + (", ..." if len(names) > _NUM_SHOWN else "")
    below = sorted(folders(folder))
    listed = ", ".join(below[:_NUM_SHOWN]) + (", ..." if len(below) > _NUM_SHOWN else "")
    nothing = f"no image, and no file, only folders ({listed})" if below else "no image, and no other file"
    found = f"no image among {counted(len(names), 'file')} ({shown})" if names else nothing
    expected = expected_names(layout)
    if other := other_formats(folder, names):
        return InputError(folder, f"{found}, but {other}", expected, CONVERT)
    if layout.pattern is not None:
        seen = Naming(layout).channels_seen(names)
        if seen:
            listed = ", ".join(map(repr, seen[:12])) + (", ..." if len(seen) > 12 else "")
            stains = " ".join(f"{stain}={name}" for stain, name in zip(MEANINGS.values(), seen, strict=False))
            fix = f"say what each shows, such as --channels {stains}"
            return InputError(folder, f"{found} whose {{channel}} is known; there are {listed}", expected, fix)
        fix = "correct --pattern: {ID} and {channel} stand for what varies, * for any text, the rest is as it is"
        return InputError(folder, found, expected, fix)
    expected += ", or TIFF files that hold all channels"
    if below and not names:
        return InputError(folder, found, expected, "give the folder that the files themselves are in")
    fix = (
        "check the path; name other files by --pattern '{ID}_{channel}.tif' and --channels microtubules=NAME "
        "protein=NAME nucleus=NAME er=NAME, or rename them: the channel's name stands after the image's, in one folder"
    )
    return InputError(folder, found, expected, fix)


def _tell_of_other_images(
    folder: str | os.PathLike, names: Sequence[str], naming: Naming, found: Mapping[str, FieldFiles]
) -> None:
    """Warn of TIFF files that may be images by themselves: whose names neither say a channel nor begin with an id."""
    others = [name for name in names if _STEM.search(name) and not naming.match(name)]
    others = [name for name in others if not _begins_with_id(clean(_STEM.sub("", name)), found)]
    if others:
        text = f"{folder}: {counted(len(others), 'TIFF file')} left alone (first {others[0]}), beside images of a file "
        text += "a channel; if they are images, give them a folder of their own, or --pattern '{ID}.ome.tif'"
        warnings.warn(text, HpaWarning, stacklevel=3)


def _begins_with_id(stem: str, found: Mapping[str, FieldFiles]) -> bool:
    while stem not in found and _LAST_WORD.search(stem):
        stem = _LAST_WORD.sub("", stem)
    return stem in found


def _tell_of_other_formats(folder: str | os.PathLike, names: Sequence[str]) -> None:
    if other := other_formats(folder, names):
        warnings.warn(f"{folder}: {other} are not read; {CONVERT}", HpaWarning, stacklevel=3)
