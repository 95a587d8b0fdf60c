"""README.md of a run folder: what the network is, what it learned from, how well, and what it is not for.

Written when a training ends, and again whenever the same command is given. It says what the folder's own files say
(recipe.json, dataset.json, inputs.json, history.csv, result.json), without paths of the machine, so that the folder
can be shared as it is. Text from outside is escaped. A system's folder gets a README.md that lists its members.
"""

import io
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from hpa_tf import checksums, files
from hpa_tf.classes import CLASSES, NEGATIVE
from hpa_tf.models import weights
from hpa_tf.models.fcan import ALL_CLASSES
from hpa_tf.models.network import LOCATED
from hpa_tf.recipes import ALL_FOLDS, Recipe, System
from hpa_tf.recipes.runs import read_run
from hpa_tf.records import Manifest
from hpa_tf.run_folder import BEST_WEIGHTS, HISTORY, INPUTS, MEND, is_finished, read_result

CARD, CURVE = "README.md", "training.png"
_VALIDATION_LABELS = "validation_labels_sha256"
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")
_LIMITS = (
    "**Diagnosis**, or any decision about a patient.",
    "**Other stains, other organisms, tissue**, or cells that were not in the data named above.",
    "**Calibrated probabilities**: scores order cells; a score of .8 does not mean 80 %.",
    "**Proof that a protein is absent**: Negative is what is left when no other location is likely.",
)


def write_card(out: str) -> None:
    """Write the card of a finished run, and its curves.

    Args:
        out: Run folder, local or remote.

    Raises:
        InputError: A file of the run is missing or damaged.
    """
    run = read_run(out)
    result, inputs = read_result(out), checksums.read_json(files.join(out, INPUTS), MEND)
    row, history = _scored(result), _history(out)
    if history is not None:
        from hpa_tf.figures import training_curve  # matplotlib: not before a training, nor for --help

        files.write_bytes(files.join(out, CURVE), training_curve(history))
    lines = [
        *_head(run.recipe),
        *_use(run.recipe, run.manifest),
        *_data(run.recipe, run.manifest, inputs),
        *_training(run.recipe, result, inputs, history),
        *_scores(run.recipe, result, inputs, row),
        *_limits(run.recipe, run.manifest, row),
        "## Files",
        "",
        "`recipe.json` (everything that decided the weights), `dataset.json` (the data, file by file), `history.csv` "
        "(each epoch), `weights/`, `saved_model/1/` (network, preparation and class names; TensorFlow Serving's "
        "layout). Whoever goes on training needs `checkpoints/` too.",
    ]
    files.write_bytes(files.join(out, CARD), ("\n".join(lines) + "\n").encode())


def write_system_card(system: System, out: str) -> None:
    """Write the card of a system: its members as they were trained, their weights and scores.

    Args:
        system: It.
        out: Folder of the run folders.
    """
    rows = []
    for member in system.members:
        name = member.recipe.name
        link = f"[{text(name)}]({urllib.parse.quote(name)}/{CARD})"
        rows.append([link, f"{member.weight:g}", member.tta, *_member(member.recipe, out)])
    lines = [
        f"# {text(system.name)}: {len(system.members)} networks for single-cell protein localization",
        "",
        "The weighted mean of the members' probabilities, then the steps of `system.json`. Soft-label mAP: on each "
        "member's validation fold; about .3 by chance, and not the competition's mAP.",
        "",
        *_table(("member", "weight", "views (--tta)", "network", "soft-label mAP"), rows),
        "",
        f"`python predict.py --system {text(system.name)} --runs FOLDER --images DIR` predicts with all of them. Each "
        "member's README says what it was trained on and what it is not for.",
    ]
    files.write_bytes(files.join(out, CARD), ("\n".join(lines) + "\n").encode())


def _member(recipe: Recipe, out: str) -> tuple[str, str]:
    folder = files.join(out, recipe.name)
    if not is_finished(folder):
        return _network(recipe), _number(None)
    return _network(read_run(folder).recipe), _number(_scored(read_result(folder)).get("mAP"))


def _scored(result: dict[str, Any]) -> dict[str, Any]:
    """Return the history row of what predicts; runs of earlier versions named the best epoch's alone."""
    return result.get("scored") or result.get("best") or {}


def text(value: Any) -> str:
    """Return text from outside so that Markdown and HTML show it as it is, on one line."""
    plain = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def _number(value: float | None) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from (f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _history(out: str) -> pd.DataFrame | None:
    path = files.join(out, HISTORY)
    return pd.read_csv(io.BytesIO(files.read_bytes(path))) if files.exists(path) else None


def _network(recipe: Recipe) -> str:
    backbone = getattr(recipe.network, "backbone", None)
    size = getattr(backbone, "variant", "")
    return text(f"{type(recipe.network).__name__}, {type(backbone).__name__} {size}".strip(", "))


def _learns_without_labels(recipe: Recipe) -> bool:
    """Tell whether it learns whole cells from cut ones: its one output is no location."""
    return recipe.augmentation.cut is not None


def _answers(recipe: Recipe) -> str:
    classes = recipe.network.classes
    if _learns_without_labels(recipe):
        return "how probably it is whole"
    if classes == LOCATED:
        return "18 locations; Negative is 1 - the largest"
    return CLASSES[classes[0]] + " alone" if len(classes) == 1 else f"{len(classes)} classes"


def _head(recipe: Recipe) -> Iterator[str]:
    view = recipe.asked_view
    yield from ("---", "library_name: keras", "tags: [fluorescence-microscopy, protein-localization]", "---", "")
    yield f"# {text(recipe.name)}: where in the cell is a protein?"
    yield ""
    yield (
        f"A network ({_network(recipe)}) that sees views of {view.size} px ({type(view).__name__}) with the channels "
        f"{', '.join(map(text, view.channels))} and answers for each cell: {_answers(recipe)}. "
        "Trained with hpa_tf, on what is said below."
    )
    yield ""


def _use(recipe: Recipe, manifest: Manifest) -> Iterator[str]:
    yield from ("## Use", "")
    if recipe.network.classes not in (LOCATED, ALL_CLASSES):
        yield "A part of a system: `predict.py --system NAME --runs DIR` asks it beside the others."
        yield "`predict.py --run` refuses it, as it does not answer all locations."
        yield ""
        return
    words = f"python predict.py --run FOLDER --images DIR --um-per-px {(manifest.um_per_px or (0.08,))[0]:g}"
    if without := manifest.without[0]:
        words += f" --without {','.join(without)}"
    match manifest.options.get("full_scale"):
        case [int(full_scale), *_] if full_scale:
            words += f" --full-scale {full_scale}"
    yield from ("```", words, "```", "")
    yield "where FOLDER is this folder and images are at that scale; in Python: `hpa_tf.Predictor(FOLDER)`."
    yield ""


def _data(recipe: Recipe, manifest: Manifest, inputs: dict[str, Any]) -> Iterator[str]:
    labels = "none are used" if _learns_without_labels(recipe) else "each cell has those of its image"
    black = " or ".join(", ".join(map(text, one)) if one else "none" for one in manifest.without)
    if inputs.get("labels_sha256"):
        labels = f"a table with the SHA-256 {text(inputs['labels_sha256'])}"
    rows = [
        ("images, cells, folds", f"{manifest.num_images:,}, {manifest.num_cells:,}, {manifest.num_folds}"),
        ("channels", ", ".join(map(text, manifest.channels)) + ("" if black == "none" else f"; black: {black}")),
        ("µm per px", ", ".join(f"{one:g}" for one in manifest.um_per_px)),
        ("bits", ", ".join(map(str, manifest.bits))),
        ("cells found by", text(manifest.segmenter.split("(")[0])),  # what follows names folders
        ("labels", labels),
        ("fingerprint", f"`{text(manifest.fingerprint)}`"),
    ]
    if inputs.get(_VALIDATION_LABELS):
        rows.insert(-1, ("validation labels", f"a table with the SHA-256 {text(inputs[_VALIDATION_LABELS])}"))
    bright = {name: ends for name, ends in (manifest.brightness or {}).items() if ends}
    if bright:
        shown = "; ".join(
            f"{text(name)} {low:.2f} {middle:.2f} {high:.2f}" for name, (low, middle, high) in bright.items()
        )
        rows.append(("brightness, smallest, median, largest image", shown))
    yield from ("## Data", "", *_table(("", ""), rows), "")


def _training(recipe: Recipe, result: dict, inputs: dict, history: pd.DataFrame | None) -> Iterator[str]:
    optimization, sampling = recipe.optimization, recipe.sampling
    lent = weights.backbone_of(recipe.weights)
    start = text((lent or recipe.weights).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])
    rows = [
        ("recipe", f"{text(recipe.name)}, seed {recipe.seed}"),
        ("weights at the start", f"backbone of {start}" if lent else start),
        ("epochs", str(result.get("epochs", "-"))),
        ("batch", f"{optimization.batch_size} of {text(type(sampling).__name__)}"),
        ("learning rate", f"{optimization.learning_rate:g}, {text(type(optimization.schedule).__name__)}"),
        ("loss", text(" + ".join(_term(term) for term in recipe.objective))),
        ("precision", text(inputs.get("precision"))),
        ("predicts with", ", ".join(f"{text(name)} ({share:g})" for name, share in result["checkpoints"].items())),
    ]
    if history is not None:
        rows.insert(3, ("steps", f"{int(history['step'].iloc[-1]):,}"))
    yield from ("## Training", "", *_table(("", ""), rows), "")
    if history is not None:
        yield from (f"![Loss and validation score by epoch]({CURVE})", "")


def _term(term: Any) -> str:
    loss = getattr(term, "loss", None)
    return f"{type(term).__name__} {type(loss).__name__}" if loss is not None else type(term).__name__


def _scores(recipe: Recipe, result: dict[str, Any], inputs: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    yield from ("## Scores", "")
    if recipe.validation_fold == ALL_FOLDS or row.get("mAP") is None:
        yield "No fold was kept out of the training, so nothing was measured."
        yield ""
        return
    measure, checkpoints = recipe.optimization.measure, result["checkpoints"]
    chose, how = (" but chose the epoch" if BEST_WEIGHTS in checkpoints else ""), ""
    if chose and measure != "mAP":
        how = f", chosen by {measure}"
    elif len(checkpoints) > 1:
        how = " alone: the mean that predicts was not measured"
    labels = "validation labels" if inputs.get(_VALIDATION_LABELS) else "labels"
    yield (
        f"On fold {recipe.validation_fold}, which was kept out of the training{chose}, against the {labels} "
        f"named above: soft-label mAP {_number(row['mAP'])} (about .3 by chance), AUC {_number(row.get('AUC'))}, "
        f"calibration error {_number(row.get('calibration_error'))} (epoch {row.get('epoch')}{how}). These labels are "
        "weak ones unless cells were graded, and soft-label AP is not the competition's: "
        "`python -m hpa_tf.evaluation score` measures that, on true labels."
    )
    if result.get("may_have_seen_fold"):
        yield ""
        yield "The weights at the start have seen this fold, or may have seen it: the scores may be too high."
    rows = [(text(name), _number(row.get(f"AP: {name}"))) for name in CLASSES]
    yield from ("", *_table(("location", "soft-label AP"), rows), "")


def _limits(recipe: Recipe, manifest: Manifest, row: dict[str, Any]) -> Iterator[str]:
    yield from ("## Not for", "")
    yield from (f"- {line}" for line in _LIMITS)
    scale = " and ".join(f"{one:g}" for one in manifest.um_per_px) or "that of its data"
    yield f"- **Images at a coarser scale** (µm per px: {scale}): they do not show what was learned from."
    unknown = [name for name in CLASSES[:NEGATIVE] if row.get(f"AP: {name}") is None]
    if unknown and recipe.validation_fold != ALL_FOLDS:
        yield f"- **Unmeasured locations**: {', '.join(unknown)} had no cell in the fold that was measured."
    yield ""
