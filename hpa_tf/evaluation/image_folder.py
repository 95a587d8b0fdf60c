"""The images of a folder that an evaluation looks at: what `predict.py --on-error skip` left out is left out here."""

from collections.abc import Callable

from hpa_tf.imaging.fields import Fault, FieldFiles, find_fields
from hpa_tf.imaging.layout import Layout


def find_wanted(folder: str, layout: Layout, is_wanted: Callable[[str], bool]) -> dict[str, FieldFiles]:
    """Return the files of the images of a folder that are wanted, by image id, sorted.

    Args:
        folder: Local or remote.
        layout: How the channels lie in files.
        is_wanted: Tells of an image id whether its image is looked at.

    Raises:
        InputError: The folder is missing or holds no image, or an image that is wanted cannot be used.
    """
    faults: list[Fault] = []
    found = find_fields(folder, faults, layout)
    if error := next((error for image_id, error in faults if is_wanted(image_id)), None):
        raise error
    return {one.image_id: one for one in found if is_wanted(one.image_id)}
