"""report.html: page through the images, see each cell's channels, scores and heat map, sort by confidence.

One file with everything inside; every text is escaped, and the script builds no HTML from data.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from hpa_tf import cell_table, files, reporting
from hpa_tf.classes import CLASSES
from hpa_tf.imaging.pictures import CLASS_COLOURS
from hpa_tf.prediction import heterogeneity
from hpa_tf.prediction.cards import TILE_SIZE, cards_path, read_cards
from hpa_tf.prediction.result_files import read_part

REPORT = "report.html"
_TOP, _MOST_DIFFERING = 5, 20
_RULES = {
    "border": "its nucleus is cut by the image's edge",
    "no nucleus": "no nucleus was found in it",
    "outlier": "far darker than the image's other cells",
    "small nucleus": "at the image's edge with a small nucleus, or without one",
    "completeness": "a network says that it is not whole",
}
"""What the names in the column `rule` mean (`finishing.rules_fired`)."""


@dataclass(frozen=True)
class Card:
    """One cell of the report: what the template prints; a cell without a score has none of them."""

    cell: int
    strip: str
    rule: str
    value: float
    heat_class: str
    scores: list[tuple[str, float, str]]
    confidence: float


@dataclass(frozen=True)
class Page:
    """One image of the report."""

    image_id: str
    width: int
    height: int
    um_per_px: float | None
    overlay: str
    cards: list[Card]


def write_report(out: str, image_ids: Sequence[str], most: int, title: str, differences: Sequence[Mapping]) -> None:
    """Write the report of the first images, with a list of those of all whose cells differ most.

    Args:
        out: Folder of the results.
        image_ids: All images.
        most: At most so many are shown.
        title: What predicted them.
        differences: Of all images, as `heterogeneity.describe` gives them.

    Raises:
        InputError: A result is missing or damaged.
    """
    with_cards = (image_id for image_id in image_ids if files.exists(cards_path(out, image_id)))
    shown = [_page(out, image_id) for image_id in itertools.islice(with_cards, most)]
    counts = Counter(card.scores[0][0] for page in shown for card in page.cards if card.scores)
    fired = {name for page in shown for card in page.cards if card.rule for name in card.rule.split(" + ")}
    legend = [(name, _css(c), counts[name]) for c, name in enumerate(CLASSES)]
    differing = heterogeneity.ranked(differences, _MOST_DIFFERING)
    template = resources.files("hpa_tf.prediction").joinpath("report.html").read_text(encoding="utf-8")
    page = reporting.render_page(
        template,
        title=title,
        pages=shown,
        num_images=len(image_ids),
        legend=legend,
        lowered=[f"{name} = {_RULES.get(name, 'another rule of the system')}" for name in sorted(fired)],
        tile=TILE_SIZE,
        differing=differing,
        labelled=any(row["image_label"] for row in differing),
        least_cells=heterogeneity.LEAST_CELLS,
        place={page.image_id: number for number, page in enumerate(shown)},
    )
    files.write_bytes(files.join(out, REPORT), page.encode())


def _css(class_id: int) -> str:
    return "rgb({}, {}, {})".format(*CLASS_COLOURS[class_id])


def _page(out: str, image_id: str) -> Page:
    part, pictures = read_part(out, image_id), read_cards(out, image_id)
    scores = cell_table.values(part.table)
    order, first = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP], cell_table.first_classes(scores)
    facts = zip(part.table["cell"], pictures.strips, part.table["rule"], part.table["value"], strict=True)
    cards = [
        Card(
            int(number),
            reporting.bytes_uri(strip, "image/jpeg"),
            rule,
            float(value),
            CLASSES[pictures.heat_class[i]] if pictures.heat_class[i] >= 0 else "",
            [(CLASSES[c], float(scores[i, c]), _css(c)) for c in order[i]] if first[i] >= 0 else [],
            float(scores[i, order[i, 0]]),
        )
        for i, (number, strip, rule, value) in enumerate(facts)
    ]
    overlay = reporting.bytes_uri(pictures.overlay, "image/jpeg")
    um_per_px = float(part.table["um_per_px"].iloc[0]) if len(part.table) else None
    return Page(image_id, part.width, part.height, um_per_px, overlay, cards)
