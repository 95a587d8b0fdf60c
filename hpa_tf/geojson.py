"""Cells as GeoJSON: outlines with scores, for QuPath, napari and everything else that reads GeoJSON.

Coordinates are pixels of the image, x to the right and y down, the upper left corner of the first pixel at (0, 0). Each
cell is a Feature with its number and the properties that QuPath knows: a name, the most probable class with its colour,
and every score as a measurement. A cell whose scores are all 0 has no class.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

from hpa_tf.cell_table import first_classes
from hpa_tf.classes import CLASSES
from hpa_tf.imaging.cells import find_boxes

TOLERANCE = 0.5
"""Largest distance of an outline from the mask's edge beyond the half pixel that cutting its corners takes, px."""


def features(
    cells: np.ndarray,
    scores: Mapping[int, np.ndarray],
    colours: Mapping[int, tuple] | None = None,
    kind: Literal["cell", "mask"] = "cell",
) -> dict:
    """Return the cells of a mask as a GeoJSON FeatureCollection.

    Args:
        cells: Label image, integers [H, W]; 0 is the background.
        scores: Cell number -> 19 scores, NaN where not known; cells without scores have an outline only.
        colours: Class -> (red, green, blue), 0..255.
        kind: The property that holds the number: "mask" where it is no cell number but counts the masks.
    """
    found = [
        _feature(number, geometry, scores.get(number), colours or {}, kind) for number, geometry in outlines(cells)
    ]
    return {"type": "FeatureCollection", "features": found}


def dumps(collection: dict) -> bytes:
    """Return a FeatureCollection as JSON text."""
    return json.dumps(collection, allow_nan=False, separators=(",", ":")).encode()


def outlines(cells: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each cell's number and its geometry: a Polygon, or a MultiPolygon for a cell of several pieces."""
    for number, box in find_boxes(cells):
        polygons = _polygons(cells[box] == number, (box[0].start, box[1].start))
        if len(polygons) == 1:
            yield number, {"type": "Polygon", "coordinates": polygons[0]}
        else:
            yield number, {"type": "MultiPolygon", "coordinates": polygons}


def _polygons(mask: np.ndarray, corner: tuple[int, int]) -> list[list[list[list[float]]]]:
    """Return the polygons of one mask, each as its outer ring and its holes; rings are closed lists of [x, y]."""
    pieces, num_pieces = ndimage.label(np.pad(mask, 1), structure=np.ones((3, 3)))
    polygons = []
    for piece in range(1, num_pieces + 1):
        rings = [
            _ring(contour, corner)
            for contour in find_contours((pieces == piece).astype(float), 0.5, fully_connected="high")
        ]
        rings.sort(key=lambda ring: -abs(_area(ring)))  # the outer one is the largest
        polygons.append(rings)
    return polygons


def _ring(contour: np.ndarray, corner: tuple[int, int]) -> list[list[float]]:
    simple = approximate_polygon(contour, TOLERANCE)
    if len(simple) < 4:  # a ring needs three corners and its end
        simple = contour
    points = simple - 1 + 0.5 + corner  # without the frame; from centres of pixels to their corners
    return [[float(x), float(y)] for y, x in points]


def _area(ring: list[list[float]]) -> float:
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _feature(
    number: int, geometry: dict[str, Any], scores: np.ndarray | None, colours: Mapping[int, tuple], kind: str
) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "detection", "name": f"{kind} {number}", kind: number}
    if scores is not None:
        first = int(first_classes(scores[None])[0])
        if first >= 0:
            properties["classification"] = {"name": CLASSES[first], "color": list(colours.get(first, (128, 128, 128)))}
        properties["measurements"] = {CLASSES[c]: round(float(scores[c]), 6) for c in np.flatnonzero(~np.isnan(scores))}
    return {"type": "Feature", "id": str(number), "geometry": geometry, "properties": properties}
