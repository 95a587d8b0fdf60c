"""Networks beside a system's members: their answers become columns, which the rules after prediction read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import prediction_cases as cases
import pytest
import tensorflow as tf

from hpa_tf import recipes, serving
from hpa_tf.classes import CLASSES, NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import find_fields
from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.rules import Factor, SmallNucleusRule
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.postprocessing import PREDICTED_NEGATIVE, PostProcessing, alone_column, alone_of, mean_probabilities
from hpa_tf.prediction import members
from hpa_tf.prediction.finishing import score
from hpa_tf.prediction.inference import predict_fields
from hpa_tf.prediction.members import Network, needs_of
from hpa_tf.prediction.sources import ImageReader
from hpa_tf.recipes import Member, Recipe, Specialist, System
from hpa_tf.run_folder import BEST_WEIGHTS, write_result
from hpa_tf.views import Crop

SMALL = Classifier(SmallCnn((4,)))
SPINDLE = alone_column(11)


def network(name: str, classes: tuple[int, ...], weight: float = 1.0, column: str | None = None) -> Network:
    recipe = Recipe(name, Crop(16), replace(SMALL, classes=classes))
    prepare = tf.function(recipe.view.prepare, reduce_retracing=True)

    class OnlyPrepares(serving.Served):
        def prepare(self, **stored):
            return prepare({key: tf.constant(value) for key, value in stored.items()})

    served = OnlyPrepares(name, {}, recipe, vars(cases.MANIFEST), 16, None)
    return Network(name, weight, served, "", name, column)


def answering(value: float, classes: tuple[int, ...]):
    """Return a network of NumPy that answers its classes with one number, and the others with nothing."""

    def run(inputs):
        answer = np.full((len(inputs["image"]), NUM_CLASSES), np.nan, np.float32)
        answer[:, list(classes)] = value
        return {"probabilities": answer}

    return run


ALL = tuple(range(NUM_CLASSES))


def predicted(tmp_path: Path):
    for image_id, count in (("a", 3), ("b", 0), ("c", 11)):
        cases.write_field(tmp_path, image_id, count, 1)
    asked = [network("one", ALL), network("two", ALL)]
    asked += [network("s@1", (11,), 0.25, SPINDLE), network("s@2", (11,), 0.75, SPINDLE)]
    asked += [network("whole", (0,), 1.0, "completeness")]
    runs = [answering(0.2, ALL), answering(0.4, ALL), answering(0.9, (11,)), answering(0.5, (11,))]
    runs += [answering(0.1, (0,))]
    reader = ImageReader(Reading(MasksOnDisk(str(tmp_path))), needs=needs_of(asked))
    return list(predict_fields(map(reader, find_fields(tmp_path)), asked, runs, 4))


def test_answers_of_specialists_become_columns_and_leave_the_mean(tmp_path):
    for one in predicted(tmp_path):
        assert one.probabilities.shape == (2, len(one.field.table), NUM_CLASSES)
        np.testing.assert_allclose(one.field.table[SPINDLE], 0.6, atol=1e-6)
        np.testing.assert_allclose(one.field.table["completeness"], 0.1, atol=1e-6)
        options = replace(
            PREDICTED_NEGATIVE, alone=(11,), factors=(Factor("completeness", below=0.2, to=0.3),), image_mixing=False
        )
        table = score(one.field.table, one.probabilities, (1.0, 3.0), options)
        scores = table[list(CLASSES)].to_numpy()
        expected = np.full(scores.shape, 0.35)
        expected[:, 11] = 0.6
        np.testing.assert_allclose(scores, expected * 0.3, atol=1e-6)
        assert {SPINDLE, "completeness"} <= set(table.columns)  # cells.parquet keeps what the rules were told
        assert (table["rule"] == "completeness").all() and (table["value"] == 0.3).all()
        without = score(one.field.table, one.probabilities, (1.0, 3.0), PREDICTED_NEGATIVE)
        assert (without["rule"] == "").all() and (without["value"] == 1).all()  # rules that are off name nobody
        every = replace(PostProcessing(), small_nucleus=SmallNucleusRule(), factors=options.factors)
        named = score(one.field.table, one.probabilities, (1.0, 3.0), every)["rule"]
        assert named.str.endswith("completeness").all()


def test_a_derived_negative_counts_the_class_of_its_own_network():
    mean = mean_probabilities([np.full((2, 18), 0.3)], None, PostProcessing(alone=(11,)), {11: np.array([0.8, 0.1])})
    np.testing.assert_allclose(mean[:, NEGATIVE], [0.2, 0.7])
    np.testing.assert_allclose(mean[:, 11], [0.8, 0.1])
    with pytest.raises(ValueError, match="Mitotic spindle"):
        mean_probabilities([np.full((1, 18), 0.3)], None, PostProcessing(), {11: np.array([np.nan])})


def test_a_missing_column_or_class_is_named():
    with pytest.raises(InputError, match="no column 'alone: Mitotic spindle'"):
        alone_of(pd.DataFrame({"cell": [1]}), PostProcessing(alone=(11,)))
    with pytest.raises(ValueError, match="alone"):
        PostProcessing(alone=(18,))
    with pytest.raises(InputError, match="a network of one class"):
        Specialist(Recipe("all", Crop(8), SMALL), "column")


def write_run(folder: Path, classes: tuple[int, ...]) -> Recipe:
    recipe = replace(cases.recipe(folder.name), network=Classifier(SmallCnn((4,)), classes=classes))
    serving.export(folder, recipe.network.build(recipe.view.specs()), recipe, cases.MANIFEST)
    write_result(folder, {BEST_WEIGHTS: 1.0}, {})
    return recipe


@pytest.mark.slow
def test_a_system_reads_its_specialists_from_beside_its_members_or_its_folds(tmp_path):
    member = write_run(tmp_path / "runs" / "fold0" / "member", ALL)
    whole = replace(cases.recipe("whole"), network=Classifier(SmallCnn((4,)), classes=(0,)))
    system = System("toy", (Member(member, 1.0),), specialists=(Specialist(whole, "completeness", own_labels=True),))
    folder = str(tmp_path / "runs" / "fold0")
    with pytest.raises(
        InputError, match=r"no finished run of whole.*--recipe whole --labels TABLE --out .*fold0/whole"
    ):
        members.load_members(system, folder)
    write_run(tmp_path / "runs" / "whole", (0,))
    found = members.load_members(system, folder)
    assert [(one.name, one.column) for one in found] == [("member", None), ("whole", "completeness")]
    write_run(tmp_path / "runs" / "fold0" / "whole", (3,))
    with pytest.raises(InputError, match="a network of Nucleoli fibrillar center"):
        members.load_members(system, folder)


def test_the_teams_systems_have_the_specialists_that_their_rules_read():
    for system in recipes.SYSTEMS:
        columns = {specialist.column for specialist in system.specialists}
        wanted = {factor.column for factor in system.postprocessing.factors}
        wanted |= {alone_column(c) for c in system.postprocessing.alone}
        assert columns == wanted
    assert recipes.system_named("bestfitting").specialists and recipes.system_named("cpu_bestfitting").specialists
