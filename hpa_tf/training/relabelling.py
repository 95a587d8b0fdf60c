"""One small network for each class and fold, and what each says of the cells that it has not seen.

OUT/fold0/class03/       checkpoints, history and weights of one network
OUT/fold0/class03.npy    its probabilities of the fold's cells, in stored order: this network is done
OUT/out_of_fold.parquet  all of them as a cell table

One network is built and traced once; the networks of all classes and folds start from its first weights. It knows a
single class, 0, whose place the class in question takes in the labels. Stopped at any moment, the same command goes on.
"""

import io
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from hpa_tf import cell_table, files
from hpa_tf.classes import CLASSES, NEGATIVE
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.pipeline import Examples
from hpa_tf.pipeline.damage import check_shard_sizes, damage_explained
from hpa_tf.recipes import ALL_FOLDS, Recipe
from hpa_tf.recipes.relabel import ASKED
from hpa_tf.records import Manifest, read_manifest
from hpa_tf.run_folder import CHECKPOINTS, WEIGHTS, fold_folder
from hpa_tf.training import checkpoint, start
from hpa_tf.training.claim import claimed
from hpa_tf.training.folds import check_cells
from hpa_tf.training.inputs import check_batch_size
from hpa_tf.training.leaks import check_unseen
from hpa_tf.training.logs import Logs
from hpa_tf.training.loop import Loop
from hpa_tf.training.out_of_fold import warn_of_missing_folds
from hpa_tf.training.preemption import Preemption
from hpa_tf.training.run import check_first, records_of, what_validation_decides
from hpa_tf.training.site import Data, Site
from hpa_tf.training.strategy import chief_says
from hpa_tf.training.trainee import Trainee
from hpa_tf.training.validation import predict

OUT_OF_FOLD = "out_of_fold.parquet"
_LEAST = 2
"""Positive cells of a class in the training folds, at least; a class with fewer has no network."""


def train_relabelling(recipe: Recipe, num_folds: int, data: Data, out: str, path: str | None, site: Site) -> None:
    """Train one network a class and fold, and write every cell's probability by the network that has not seen it.

    Args:
        recipe: One of `hpa_tf.recipes.relabel`.
        num_folds: Folds to predict; 0 = all.
        data: What is trained on; cells that are left out of it are predicted too.
        out: Folder.
        path: The table to write; None = `out`/out_of_fold.parquet.
        site: Where it runs.

    Raises:
        InputError: The data has too few folds, a field of the recipe is without effect or does not fit the data, a
            network would see its own fold, a shard has another size, or `out` holds another run.
    """
    _check_fields(recipe)
    manifest = read_manifest(data.data)
    folds = num_folds or manifest.num_folds
    if not 1 <= folds <= manifest.num_folds or manifest.num_folds < 2:
        found = f"{folds} of data with {manifest.num_folds}"
        raise InputError("--folds", found, "some of two folds or more", "build the data with more folds")
    check_cells(folds, manifest)
    if data.validation_labels is not None:
        fix = "leave it out; give grades of the training cells as --labels"
        raise InputError("--validation-labels", "a relabelling recipe, which does not validate", "no such table", fix)
    check_first(recipe, manifest)
    check_unseen([recipe], range(folds), data.data)
    check_batch_size(recipe, site.strategy)
    check_shard_sizes(manifest, records_of(recipe, data.asked(None)))
    networks = [_class_folder(out, fold, class_id) for fold in range(folds) for class_id in range(NEGATIVE)]
    with claimed(recipe, data, manifest, out, site, networks):
        table = pd.concat(_tables(recipe, range(folds), data, manifest, out, site), ignore_index=True)
        if site.is_chief:
            path = path or files.join(out, OUT_OF_FOLD)
            warn_of_missing_folds(path, folds, manifest.num_folds)
            cell_table.write(table, path, "out_of_fold")
            print(f"{path}: {len(table)} cells", flush=True)


def _check_fields(recipe: Recipe) -> None:
    """Check that no field is without effect: these networks are not validated, and each answers the class asked.

    Raises:
        InputError: One is.
    """
    unused = {
        f"validation_fold {recipe.validation_fold}": recipe.validation_fold != ALL_FOLDS,
        "ensemble": bool(recipe.ensemble),
        "augmentation.cut": recipe.augmentation.cut is not None,
        "network.classes": tuple(recipe.network.classes) != (ASKED,),
    }
    if found := [name for name, is_set in unused.items() if is_set] + what_validation_decides(recipe):
        expected = "the fields of networks of one class, each trained on all folds but one, without validation"
        raise InputError(f"--recipe {recipe.name}", " and ".join(found), expected, "leave that out")


def _tables(
    recipe: Recipe, folds: Iterable[int], data: Data, manifest: Manifest, out: str, site: Site
) -> Iterator[pd.DataFrame]:
    """Train the networks of each fold; yield what they say of its cells."""
    trainee = Trainee(recipe, site.strategy, site.policy)
    start.initialize(trainee.network, recipe)
    trainee.start_average()
    first = trainee.arrays()
    for fold in folds:
        others = data.examples(set(range(manifest.num_folds)) - {fold})
        own = data.asked({fold})
        values = np.full((len(own), len(CLASSES)), np.nan, np.float32)
        for class_id in range(NEGATIVE):
            folder = _class_folder(out, fold, class_id)
            found = _train_class(recipe, trainee, first, others, own, class_id, folder, site)
            if found is not None:
                values[:, class_id] = found
        columns = {"fold": np.full(len(own), fold, np.int32), **own.areas}
        yield cell_table.from_values(own.table["image_id"], own.table["cell"], values, columns)


def _class_folder(out: str, fold: int, class_id: int) -> str:
    return files.join(fold_folder(out, fold), f"class{class_id:02d}")


def of_one_class(examples: Examples, class_id: int) -> Examples:
    """Return examples whose only class is `class_id`, in the place of class 0; cells where it is not known leave."""
    images = None if examples.image_table is None else _with_one_class(examples.image_table, class_id)
    moved = Examples(examples.folder, _with_one_class(examples.table, class_id), images)
    return moved.select(examples.known[:, class_id])


def _with_one_class(table: pd.DataFrame, class_id: int) -> pd.DataFrame:
    """Return a table of labels with those of one class in the place of class 0; all others, and unknown ones, are 0."""
    labels = np.zeros((len(table), len(CLASSES)), np.float32)
    labels[:, ASKED] = np.nan_to_num(cell_table.values(table, np.float32)[:, class_id])
    return table.assign(**dict(zip(cell_table.VALUES, labels.T, strict=True)))


def _train_class(
    recipe: Recipe,
    trainee: Trainee,
    first: dict[str, np.ndarray],
    training: Examples,
    asked: Examples,
    class_id: int,
    folder: str,
    site: Site,
) -> np.ndarray | None:
    """Return one network's probabilities of the cells `asked`, [N]; None where the class has too few cells.

    On other workers than the first, None also where the network was there.
    """
    done = f"{folder}.npy"
    kept = _kept(done, len(asked)) if site.is_chief else None
    if chief_says(site.strategy, kept is not None):
        return kept
    examples = of_one_class(training, class_id)
    positive = int((examples.labels[:, ASKED] >= recipe.sampling.positive).sum())
    if positive < _LEAST:
        if site.is_chief:
            print(f"class {class_id} {CLASSES[class_id]}: {positive} training cells, no network", flush=True)
        return None
    if site.is_chief:
        for name in (folder, files.join(folder, CHECKPOINTS), files.join(folder, WEIGHTS)):
            files.make_folder(name)
    logs = Logs(folder, site.is_chief)
    trainee.restore(first)
    with damage_explained(records_of(recipe, examples, asked)):
        with Preemption() as preemption:
            Loop(recipe, trainee, examples, None, logs).run(site.pace, preemption)
        logs.close()
        with trainee.averaged():  # the weights of the last epoch, as every worker has them
            trainee.hand_over()
            found = predict(site.strategy, trainee.make_predict_step(), recipe, asked)[:, 0]
    if site.is_chief:
        stream = io.BytesIO()
        np.save(stream, found)
        files.write_bytes(done, stream.getvalue())
        for step in checkpoint.steps_in(files.join(folder, CHECKPOINTS)):  # 90 times three copies of the weights
            files.remove(files.join(folder, CHECKPOINTS, checkpoint.name_of(step)))
    return found


def _kept(path: str, num_cells: int) -> np.ndarray | None:
    """Return the probabilities [N] that a network left; None where there are none, or only a damaged file."""
    if not files.exists(path):
        return None
    data = files.read_bytes(path)
    try:
        found = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        if found.shape != (num_cells,):
            raise ValueError(f"{found.shape} for {num_cells} cells")
        return found
    except (ValueError, EOFError) as error:
        warnings.warn(f"{path}: a damaged file ({error}); its network is trained again", HpaWarning, stacklevel=4)
        return None
