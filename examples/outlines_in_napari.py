"""Show predicted cells in napari: `python examples/outlines_in_napari.py OUTLINES/ID.geojson [IMAGE.png]`.

The file comes from `python -m hpa_tf.evaluation outlines PREDICTIONS/submission.csv --out OUTLINES`. Needs napari
(`pip install 'napari[all]'`); with `--print` instead of an image the outlines are printed and napari is not needed.
"""

import json
import sys
from pathlib import Path

import numpy as np

NO_CLASS = {"name": "no class", "color": [255, 255, 255]}


def read_outlines(path: str) -> list[tuple[np.ndarray, dict]]:
    """Return each outer ring as rows and columns [corners, 2], and the properties of its cell."""
    found = []
    for feature in json.loads(Path(path).read_text())["features"]:
        geometry = feature["geometry"]
        pieces = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        found += [(np.array(rings[0])[:, ::-1], feature["properties"]) for rings in pieces]
    return found


def main(path: str, image: str = "--print") -> None:
    """Print the outlines, or open napari with them over an image."""
    outlines = read_outlines(path)
    classes = [properties.get("classification", NO_CLASS) for _, properties in outlines]
    names = [named["name"] for named in classes]
    colours = [np.array([*named["color"], 255]) / 255 for named in classes]
    if image == "--print":
        for (corners, properties), name in zip(outlines, names, strict=True):
            print(f"{properties['name']}: {name}, {len(corners)} corners")
        return
    import napari
    from skimage.io import imread

    viewer = napari.Viewer()
    viewer.add_image(imread(image))
    corners = [corners for corners, _ in outlines]
    text = {"string": "{name}", "size": 8}
    viewer.add_shapes(
        corners, shape_type="polygon", edge_color=colours, face_color="transparent", features={"name": names}, text=text
    )
    napari.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
