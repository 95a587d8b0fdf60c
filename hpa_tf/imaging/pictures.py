"""Pictures for people: colour composites, cell outlines, captions, heat maps and contact sheets.

Everything returns uint8 [H, W, 3] RGB. Contrast is stretched for the eye, so brightness here measures nothing.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hpa_tf.classes import BLUE, GREEN, RED, YELLOW
from hpa_tf.imaging.cells import find_boxes

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

CLASS_COLOURS: tuple[Colour, ...] = (
    (66, 153, 255),
    (0, 84, 214),
    (255, 92, 214),
    (176, 38, 255),
    (255, 168, 232),
    (150, 130, 255),
    (255, 210, 0),
    (255, 128, 0),
    (0, 200, 190),
    (255, 64, 64),
    (0, 150, 120),
    (255, 255, 255),
    (255, 0, 140),
    (124, 252, 0),
    (255, 160, 122),
    (190, 90, 40),
    (70, 220, 90),
    (255, 240, 150),
    (150, 150, 150),
)
"""Outline colour of each of the 19 classes: nuclear ones blue to violet, fibres red and teal, Negative grey."""

WHITE: Colour = (255, 255, 255)
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.7
"""Percentiles of a channel that become black and full brightness."""

_CHANNEL_COLOURS = np.zeros((4, 3), np.float32)
_CHANNEL_COLOURS[RED], _CHANNEL_COLOURS[GREEN] = (1, 0, 0), (0, 1, 0)
_CHANNEL_COLOURS[BLUE], _CHANNEL_COLOURS[YELLOW] = (0.15, 0.25, 1), (0.35, 0.3, 0)  # pure blue is hard to see
_SAMPLE_STEP_ABOVE = 512  # percentiles of every n-th pixel differ by less than the eye sees and take 1/n^2 of the time


def stretch(plane: np.ndarray, low: float = LOW_PERCENTILE, high: float = HIGH_PERCENTILE) -> np.ndarray:
    """Stretch one channel's contrast between two of its percentiles.

    Args:
        plane: uint8, uint16 or float [H, W].
        low: Percentile that becomes 0.
        high: Percentile that becomes 255.

    Returns:
        uint8 [H, W]; all 0 where the channel is blank.
    """
    if plane.size == 0:
        return np.zeros(plane.shape, np.uint8)
    step = max(1, min(plane.shape) // _SAMPLE_STEP_ABOVE)
    dark, bright = np.percentile(plane[::step, ::step], [low, high])
    if bright <= dark:
        dark, bright = float(plane.min()), float(plane.max())
    scale = 255 / (bright - dark) if bright > dark else 0.0
    return np.clip((plane.astype(np.float32) - np.float32(dark)) * np.float32(scale), 0, 255).astype(np.uint8)


def composite(pixels: np.ndarray, low: float = LOW_PERCENTILE, high: float = HIGH_PERCENTILE) -> np.ndarray:
    """Merge the four channels into one colour picture, each channel stretched on its own.

    Microtubules are red, the protein green, the nucleus blue, the ER a dim yellow.

    Args:
        pixels: uint8 or uint16 [H, W, 4], counts.
        low: Percentile of a channel that becomes black.
        high: Percentile of a channel that becomes full brightness.
    """
    merged = np.zeros((*pixels.shape[:2], 3), np.float32)
    for channel, colour in enumerate(_CHANNEL_COLOURS):
        plane = stretch(pixels[..., channel], low, high)
        for own in np.flatnonzero(colour):
            merged[..., own] += colour[own] * plane
    return np.minimum(merged, 255).astype(np.uint8)


def shrink(pixels: np.ndarray, max_size: int) -> np.ndarray:
    """Average a picture or channels [H, W, ...] down so that neither side exceeds `max_size` px."""
    height, width = pixels.shape[:2]
    factor = max_size / max(height, width, 1)
    if factor >= 1:
        return pixels
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def shrink_mask(mask: np.ndarray, max_size: int) -> np.ndarray:
    """Shrink a label image [H, W] as `shrink` does a picture; numbers stay numbers. int32."""
    height, width = mask.shape
    factor = max_size / max(height, width, 1)
    if factor >= 1:
        return mask.astype(np.int32)
    new_height, new_width = max(1, round(height * factor)), max(1, round(width * factor))
    rows = np.minimum(((np.arange(new_height) + 0.5) * height / new_height).astype(int), height - 1)
    columns = np.minimum(((np.arange(new_width) + 0.5) * width / new_width).astype(int), width - 1)
    return mask[np.ix_(rows, columns)].astype(np.int32)


def outlines(mask: np.ndarray, thickness: int = 1) -> np.ndarray:
    """Return bool [H, W]: the pixels of each cell that lie within `thickness` px of its edge.

    The frame is no edge: a cell that the frame cuts stays open there.

    Args:
        mask: Integer [H, W]; 0 is background.
        thickness: px, measured inwards.
    """
    compact = mask if mask.dtype in (np.uint8, np.uint16, np.int16) else np.asarray(mask, np.float64)
    kernel = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
    same = cv2.erode(compact, kernel) == cv2.dilate(compact, kernel)  # OpenCV has no int32 morphology
    return (np.asarray(mask) > 0) & ~same


def draw_outlines(
    rgb: np.ndarray, mask: np.ndarray, colours: Colour | Mapping[int, Colour] = WHITE, thickness: int | None = None
) -> np.ndarray:
    """Return a copy of a picture with the cells' outlines drawn in.

    Args:
        rgb: uint8 [H, W, 3].
        mask: Integer [H, W] of the same size; 0 is background.
        colours: One colour, or the colour of each cell number; a number that is not in it gets no outline.
        thickness: px inwards; by default about 1/500 of the picture's larger side.

    Raises:
        ValueError: The sizes differ.
    """
    if rgb.shape[:2] != mask.shape:
        raise ValueError(f"mask: found size {mask.shape}; expected the picture's {rgb.shape[:2]}")
    edge = outlines(mask, thickness or max(1, round(max(mask.shape) / 500)))
    drawn = rgb.copy()
    numbers = mask[edge]
    present, index = np.unique(numbers, return_inverse=True)
    if isinstance(colours, Mapping):
        known = np.array([int(number) in colours for number in present], bool)
        palette = np.array([colours.get(int(number), WHITE) for number in present], np.uint8).reshape(-1, 3)
    else:
        known, palette = np.ones(len(present), bool), np.tile(np.array(colours, np.uint8), (len(present), 1))
    painted = np.where(known[index][:, None], palette[index], rgb[edge])
    drawn[edge] = painted
    return drawn


def write_captions(
    rgb: np.ndarray,
    mask: np.ndarray,
    captions: Mapping[int, str | Sequence[str]],
    font_size: int | None = None,
) -> np.ndarray:
    """Return a copy of a picture with a caption in the middle of each cell.

    Args:
        rgb: uint8 [H, W, 3].
        mask: Integer [H, W] of the same size.
        captions: Text of each cell number, lines split by newlines; other cells get none. Several texts, longest first:
            the first one is written that fits into its cell and lies over no other caption, or none. Larger cells
            choose first.
        font_size: px; by default about 1/60 of the picture's larger side, at least 9.
    """
    font = ImageFont.load_default(font_size or max(9, round(max(mask.shape) / 60)))
    image = Image.fromarray(rgb)
    pen = ImageDraw.Draw(image)
    places = {}
    for number, (rows, columns) in find_boxes(np.asarray(mask)):
        if captions.get(number):
            inside_rows, inside_columns = np.nonzero(mask[rows, columns] == number)
            middle = (columns.start + int(np.median(inside_columns)), rows.start + int(np.median(inside_rows)))
            places[number] = (len(inside_rows), middle, columns.stop - columns.start, rows.stop - rows.start)
    taken: list[tuple[float, float, float, float]] = []
    for number, (_, middle, *room) in sorted(places.items(), key=lambda item: (-item[1][0], item[0])):
        texts = captions[number]
        for text in [texts] if isinstance(texts, str) else texts:
            place = _inside(pen, middle, text, font, image.size)
            box = pen.multiline_textbbox(place, text, font, "mm", align="center", stroke_width=2)
            if isinstance(texts, str) or (_fits(box, room) and not any(_overlap(box, other) for other in taken)):
                pen.multiline_text(
                    place, text, WHITE, font, "mm", align="center", stroke_width=2, stroke_fill=(0, 0, 0)
                )
                taken.append(box)
                break
    return np.asarray(image)


def _fits(box: Sequence[float], room: Sequence[int]) -> bool:
    """Tell whether a caption (left, top, right, bottom) is not larger than a cell's box (width, height)."""
    return box[2] - box[0] <= room[0] and box[3] - box[1] <= room[1]


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _inside(pen: ImageDraw.ImageDraw, middle: tuple[int, int], text: str, font, size: tuple[int, int]) -> tuple:
    """Return the middle (x, y) moved so that the whole caption lies in a picture of `size` (width, height)."""
    left, top, right, bottom = pen.multiline_textbbox(middle, text, font, "mm", align="center", stroke_width=2)
    x, y = (max(0, -low) - max(0, high - side) for low, high, side in ((left, right, size[0]), (top, bottom, size[1])))
    return middle[0] + x, middle[1] + y


def heat_map(plane: np.ndarray, heat: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Lay a heat map over one grey channel: blue is cold, red is hot.

    Args:
        plane: uint8 or uint16 [H, W], stretched for contrast here.
        heat: float [h, w] in 0..1, any size; resized to the plane.
        strength: Weight of the colours, 0..1.
    """
    grey = cv2.cvtColor(stretch(plane), cv2.COLOR_GRAY2RGB)
    height, width = plane.shape
    full = cv2.resize(np.clip(heat, 0, 1).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.cvtColor(cv2.applyColorMap((full * 255).astype(np.uint8), cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    weight = (strength * full)[..., None]
    return (grey * (1 - weight) + colours * weight).astype(np.uint8)


def contact_sheet(
    tiles: Sequence[np.ndarray], captions: Sequence[str] | None = None, columns: int = 6, tile_size: int = 160
) -> np.ndarray:
    """Arrange pictures in a grid, each fitted into a square with its caption below.

    Args:
        tiles: uint8 [H, W, 3] or [H, W] each, any size; enlarged or shrunk to fit, proportions kept.
        captions: One text a tile, lines split by newlines; None for no captions.
        columns: Tiles in a row.
        tile_size: Side of a tile's square, px.
    """
    captions = list(captions) if captions is not None else [""] * len(tiles)
    if len(captions) != len(tiles):
        raise ValueError(f"captions: found {len(captions)}; expected one for each of {len(tiles)} tiles")
    font = ImageFont.load_default(12)
    lines = max((text.count("\n") + 1 for text in captions if text), default=0)
    gap, text_height = 4, 15 * lines
    columns = max(1, min(columns, len(tiles)))
    num_rows = -(-len(tiles) // columns)
    pitch_x, pitch_y = tile_size + gap, tile_size + text_height + gap
    sheet = Image.new("RGB", (columns * pitch_x + gap, max(1, num_rows) * pitch_y + gap), (24, 24, 24))
    pen = ImageDraw.Draw(sheet)
    for index, (tile, text) in enumerate(zip(tiles, captions, strict=True)):
        left, top = gap + index % columns * pitch_x, gap + index // columns * pitch_y
        fitted = Image.fromarray(np.ascontiguousarray(tile)).convert("RGB")
        factor = tile_size / max(fitted.size)
        size = tuple(max(1, round(side * factor)) for side in fitted.size)
        fitted = fitted.resize(size, Image.Resampling.BILINEAR)
        sheet.paste(fitted, (left + (tile_size - size[0]) // 2, top + (tile_size - size[1]) // 2))
        pen.multiline_text((left, top + tile_size + 1), _fit(text, font, tile_size), (230, 230, 230), font, spacing=1)
    return np.asarray(sheet)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut each line of a caption to `width` px."""
    return "\n".join(_fit_line(line, font, width) for line in text.split("\n"))


def _fit_line(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
