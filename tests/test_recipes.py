"""Recipes: team 4's published numbers, JSON round trips, schedules, names."""

import json
import math
import re
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpa_tf import checksums, files, identity, recipes
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.rules import Factor, SmallNucleusRule
from hpa_tf.losses import CrossEntropy, Focal
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.objectives import Alike, Labels
from hpa_tf.pipeline import Augmentation, CutCells, EveryCell, PasteCells, Sampling, SemiBalanced
from hpa_tf.pipeline.photometry import Blur, MedianBlur, MotionBlur, Noise
from hpa_tf.recipes import Optimization
from hpa_tf.recipes.optimization import Constant, Cosine, Plateau, Steps, best_epoch, plateaus, waiting
from hpa_tf.views import Bag, CellInField, Crop, Field

BLURS = (Blur, MotionBlur, MedianBlur)


@pytest.mark.parametrize("recipe", recipes.RECIPES, ids=lambda recipe: recipe.name)
def test_json_round_trip(recipe, tmp_path):
    recipes.save(recipe, tmp_path / "recipe.json")
    assert recipes.load(tmp_path / "recipe.json") == recipe
    assert recipes.recipe_to_json(recipe) == checksums.read_json(tmp_path / "recipe.json", "")


def test_numbers_keep_their_type(tmp_path):
    """3 in a field of floats is 3.0 after the round trip, so equal recipes give equal bytes."""
    recipe = replace(recipes.recipe_named("cpu_small"), optimization=Optimization(learning_rate=1, schedule=Cosine(15)))
    recipes.save(recipe, tmp_path / "recipe.json")
    loaded = recipes.load(tmp_path / "recipe.json")
    assert isinstance(loaded.optimization.learning_rate, float) and isinstance(
        loaded.optimization.schedule.epochs, float
    )


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda value: value.pop("seed"), "missing or unknown fields .*seed"),
        (lambda value: value["network"].update(depth=3), "missing or unknown fields .*depth"),
        (lambda value: value["network"].update({"class": "Transformer"}), "Transformer"),
        (lambda value: value.pop("class"), "no recipe"),
        (lambda value: value["optimization"].update(epochs=0), "epochs 0"),
        (lambda value: value["objective"][0].update({"class": "Guess"}), "Guess"),
        (lambda value: value.update(version=99), "a recipe of version 99; expected version 1 to 8"),
    ],
)
def test_foreign_recipes_are_refused(tmp_path, damage, message):
    value = recipes.recipe_to_json(recipes.recipe_named("milimed_b4"))
    damage(value)
    files.write_json(tmp_path / "recipe.json", value)
    with pytest.raises(InputError, match=message):
        recipes.load(tmp_path / "recipe.json")


@pytest.mark.parametrize("system", recipes.SYSTEMS, ids=lambda system: system.name)
def test_systems_come_back_from_json(system):
    value = json.loads(json.dumps(recipes.system_to_json(system)))
    assert recipes.system_from_json(value, "system.json") == system


@pytest.mark.parametrize("version", ["0.1.0", "recipes of version 4"])
def test_systems_without_a_version_are_read(version):
    """Their files hold what those programs wrote: `cpu_pair`, which has not changed since but for new fields."""
    written = json.loads((Path(__file__).parent / "systems_of_earlier_versions.json").read_text())
    assert recipes.system_from_json(written[version], "system.json") == recipes.system_named("cpu_pair")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda value: value.update(version=99), "a system of version 99; expected version 1 to 8.*wrote the file"),
        (lambda value: value.update({"class": "Recipe"}), "no system"),
        (lambda value: value["members"][0].pop("weight"), "missing or unknown fields .*weight"),
        (lambda value: (value.pop("version"), value["members"][0].pop("weight")), "a system of no known version"),
    ],
)
def test_foreign_systems_are_refused(damage, message):
    value = recipes.system_to_json(recipes.system_named("cpu_pair"))
    damage(value)
    with pytest.raises(InputError, match=message):
        recipes.system_from_json(value, "system.json")


def test_differences_name_the_leaf():
    one, two = recipes.recipe_named("milimed_b0_flips"), recipes.recipe_named("milimed_b0_pad")
    lines = identity.differences(recipes.to_json(one), recipes.to_json(two))
    assert any(line.startswith("objective.0.loss.class: ") and "CrossEntropy" in line for line in lines)
    assert "augmentation.pad: 0.0 -> 0.3" in lines
    assert not [line for line in lines if line.startswith("optimization")]
    system = recipes.to_json(recipes.system_named("cpu_red_ai"))
    other = recipes.to_json(recipes.system_named("cpu_red_ai"))
    other["members"][1]["recipe"]["optimization"]["epochs"] = 9
    assert identity.differences(system, other) == ["members.1.recipe.optimization.epochs: 6 -> 9"]


def test_team_4_as_published():
    """METHODS 3: sizes, losses, probabilities, checkpoint ensembles, weights."""
    flips, resizer, pad, b4 = (recipes.recipe_named(f"milimed_{n}") for n in ("b0_flips", "b0_resizer", "b0_pad", "b4"))
    for recipe in (flips, resizer, pad, b4):
        assert recipe.view == Crop(size=512, surroundings="none", square="pad", margin=0)
        assert recipe.weights == "imagenet" and recipe.augmentation.rotation == 90
        assert (recipe.optimization.epochs, recipe.optimization.batch_size) == (16, 32)
        assert recipe.sampling == SemiBalanced(cells_per_class=20_000)
    assert [r.network.backbone.variant for r in (flips, resizer, pad, b4)] == ["B0", "B0", "B0", "B4"]
    losses = [term.loss for r in (flips, resizer, pad, b4) for term in r.objective]
    assert losses == [Focal(2), Focal(2), CrossEntropy(), Focal(2)]
    assert [(r.augmentation.resizer, r.augmentation.pad) for r in (flips, resizer, pad, b4)] == [
        (0, 0), (0.4, 0), (0.3, 0.3), (0, 0)
    ]  # fmt: skip
    assert [r.ensemble for r in (flips, resizer, pad, b4)] == [
        (), (0.5, 0.5), (0.2, 0.3, 0.3, 0.2), (0.15, 0.35, 0.35, 0.15)
    ]  # fmt: skip
    pixels = [round(share * 512) for share in (*resizer.augmentation.resizer_range, pad.augmentation.pad_most)]
    assert pixels == [256, 384, 200]
    final_1, final_2 = recipes.system_named("milimed_final_1"), recipes.system_named("milimed_final_2")
    assert [(m.recipe.name, m.weight) for m in final_1.members] == [
        ("milimed_b0_flips", 0.1), ("milimed_b0_resizer", 0.3), ("milimed_b4", 0.3), ("milimed_b0_pad", 0.3)
    ]  # fmt: skip
    assert [(m.recipe.name, m.weight) for m in final_2.members] == [
        ("milimed_b0_flips", 0.2), ("milimed_b0_resizer", 0.4), ("milimed_b0_pad", 0.4)
    ]  # fmt: skip
    assert final_1.postprocessing.cell_weights[13] == 0.6 and final_2.postprocessing.cell_weights[13] == 0.7
    tuned = recipes.recipe_named("milimed_b0_flips_fine_tune")
    assert (tuned.optimization.epochs, tuned.optimization.batch_size, tuned.optimization.rate(5, 10)) == (1, 16, 3e-5)
    assert tuned.sampling.extra_repeats == (0, 2, 3, 2, 5, 5, 4, 7, 2, 2, 3, 4, 5, 0, 0, 4, 0, 7, 0)
    assert tuned.sampling.ungraded_classes == (11, 15) and tuned.sampling.sure == 0.9


@pytest.mark.parametrize(
    ("name", "size", "batch", "epochs", "rate"),
    [
        ("red_ai_duo_b3", 256, 12, 20, 2e-4), ("red_ai_duo_seresnext50", 256, 12, 20, 2e-4),
        ("red_ai_duo_b5", 256, 8, 20, 2e-4), ("red_ai_duo_resnet200d", 256, 8, 16, 2e-4),
        ("red_ai_field_b5", 512, None, 20, None), ("red_ai_cell_b5", 168, None, 2, 1e-3),
        ("mpware_puzzle_cam", 384, 36, 48, 3e-4), ("dieter_bag_26", 256, 16, 10, 1e-4),
        ("dieter_bag_101", 256, 8, 10, 1e-4), ("dieter_masks", 1024, 8, 10, 5e-5), ("dieter_field", 512, 16, 10, 1e-3),
        ("dieter_student", 256, 64, 10, 1e-4), ("zfturbo_6_channels", 224, None, None, None),
        ("zfturbo_green", 224, None, None, None), ("bestfitting_fcan", 512, None, None, 3e-4),
        ("bestfitting_inception", 128, None, 13, 3e-4), ("bestfitting_swin_224", 224, None, None, 3e-4),
    ],
)  # fmt: skip
def test_sizes_and_training_of_teams_1_to_3(name, size, batch, epochs, rate):
    """SYSTEMS 1 to 3, (a) and (e); None = not known."""
    recipe = recipes.recipe_named(name)
    found = recipe.optimization
    given = (found.batch_size, found.epochs, found.learning_rate)
    expected = (batch, epochs, rate)
    assert recipe.view.size == size
    assert [one for one, known in zip(given, expected, strict=True) if known] == [one for one in expected if one]


def test_the_last_epoch_of_team_1s_cell_networks_predicts():
    """SYSTEMS 1e: Inception: epoch 12."""
    last = {recipe.name for recipe in recipes.RECIPES if recipe.ensemble == (1.0,) and "bestfitting" in recipe.name}
    assert last == {f"bestfitting_{name}" for name in ("inception", "swin", "swin_224", "deit")}
    assert recipes.recipe_named("bestfitting_inception").optimization.epochs == 13


def test_losses_and_weights_of_teams_1_to_3():
    """SYSTEMS 1d, 1g, 2d, 2g, 3d, 3g; S 2."""
    weights = (0.1, 1, 0.5, 1, 1, 1, 1, 0.5, 1, 1, 1, 10, 1, 0.5, 0.5, 5, 0.2, 0.5, 1)
    for recipe in recipes.RECIPES:
        if recipe.name.startswith(("red_ai_field", "red_ai_cell", "cpu_red_ai")):
            assert recipe.objective == (Labels("logits", "image", CrossEntropy(), class_weights=weights),)
            assert recipe.view.channels == ("red", "green", "blue")
        if recipe.name.startswith("red_ai_duo"):
            assert recipe.network.backbone.stem == "new"
        if "duo" in recipe.name:
            of_cells = Labels("cell_logits", "image", CrossEntropy(positive_weight=0.1), weight=0.1)
            assert recipe.objective == (of_cells, Labels("image_logits", "image", CrossEntropy()))
    for name in ("mpware_puzzle_cam", "cpu_puzzle_cam"):
        *labels, apart = recipes.recipe_named(name).objective
        assert labels == [Labels(one, "image", CrossEntropy()) for one in ("logits", "merged_logits")]
        assert apart == Alike("cam", "merged_cam", 1, 0.5)
    for name in ("bestfitting_fcan", "cpu_fcan"):
        *labels, apart = recipes.recipe_named(name).objective
        assert [(term.output, term.weight) for term in labels] == [("logits", 0.5)] * 3 + [("merged_logits", 0.5)] * 3
        assert apart == Alike("features", "merged_features", 2, 1.0)
    for name in ("bestfitting", "cpu_bestfitting"):
        assert recipes.system_named(name).postprocessing.factors == (Factor("completeness", below=0.2, to=0.3),)
    for name in ("red_ai", "cpu_red_ai"):
        system = recipes.system_named(name)
        assert sum(m.weight for m in system.members if "duo" in m.recipe.name) == pytest.approx(0.5)
        for kind, asked in (("field", None), ("field", CellInField), ("cell", None)):
            own = [m for m in system.members if kind in m.recipe.name and isinstance(m.asked, asked or type(None))]
            assert sum(m.weight for m in own) == pytest.approx(0.167)
        alone = [m.asked for m in system.members if m.asked]
        assert {view.surroundings for view in alone} == {"background"}, "2b: all other cells are black"
        assert system.postprocessing.small_nucleus == SmallNucleusRule(0.5, True)


def test_batch_norm_of_teams_1_to_3_keeps_as_much_as_pytorchs():
    """.9, but .99 of the EfficientNets of team 1, who had EfficientNet-PyTorch. Source: SYSTEMS (keys)."""
    slow = {recipe.name for recipe in recipes.RECIPES if vars(recipe.network.backbone).get("norm_momentum") == 0.99}
    assert {name for name in slow if not name.startswith("milimed")} == {
        *("bestfitting_fcan", "bestfitting_fcan_2", "bestfitting_fcan_antibodies", "bestfitting_completeness")
    }


def test_cosine():
    optimization = Optimization()
    assert optimization.rate(0, 100) == pytest.approx(3e-4)
    assert optimization.rate(750, 100) == pytest.approx((3e-4 + 1e-5) / 2)
    assert optimization.rate(1500, 100) == optimization.rate(1599, 100) == pytest.approx(1e-5)
    rates = [optimization.rate(step, 100) for step in range(1600)]
    assert (np.diff(rates) <= 0).all()


def test_no_schedule_raises_a_low_rate():
    for schedule in (Cosine(15), Plateau(patience=0), Constant()):
        optimization = Optimization(learning_rate=1e-6, schedule=schedule)
        assert {optimization.rate(step, 10, [0.0] * (step // 10)) for step in range(160)} == {1e-6}


def test_warmup_rises_to_the_schedule():
    optimization = Optimization(schedule=Constant(), warmup_steps=4, learning_rate=1.0)
    np.testing.assert_allclose([optimization.rate(step, 10) for step in range(6)], [0.2, 0.4, 0.6, 0.8, 1, 1])


def test_warmup_may_take_an_epoch():
    """Team 2's first epoch: linear from lr / steps, then the cosine of all epochs."""
    optimization = recipes.recipe_named("red_ai_duo_b3").optimization
    cosine = replace(optimization, warmup_epochs=0.0)
    rates = [optimization.rate(step, 100) / cosine.rate(step, 100) for step in (0, 49, 99, 100, 150)]
    np.testing.assert_allclose(rates, [1 / 101, 50 / 101, 100 / 101, 1, 1])
    both = Optimization(schedule=Constant(), warmup_steps=4, warmup_epochs=0.5, learning_rate=1.0)
    np.testing.assert_allclose([both.rate(step, 10) for step in (0, 8, 9)], [0.1, 0.9, 1.0])


def test_plateau_falls_when_pytorchs_does():
    """Worked out by hand; ReduceLROnPlateau of PyTorch 2.13 gives the same falls (mode "max"; "min" for losses)."""
    nan = math.nan
    cases = [  # patience, what is measured, falls so far after each epoch
        (2, [0.5, 0.4, 0.5, 0.5, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]),
        (0, [0.5, 0.5, 0.6, 0.1, 0.2, 0.7], [0, 1, 1, 2, 3, 3]),  # the first epoch is always the best
        (1, [0.5, 0.50004, 0.50006, 0.50006, 0.50006], [0, 0, 0, 0, 1]),  # better: by more than a 10,000th
        (1, [0.5, 0.50004, 0.50004, 0.50009, 0.50009], [0, 0, 1, 1, 1]),  # of the best, not of the last
        (1, [-2.0, -1.9999, -1.9997, -1.9997, -1.9997], [0, 0, 0, 0, 1]),  # the negative of a loss
        (1, [nan, 0.5, nan, nan, nan, nan], [0, 0, 0, 1, 1, 2]),
    ]
    for patience, past, falls in cases:
        assert [plateaus(past[:n], patience) for n in range(len(past) + 1)] == [0, *falls]
    optimization = Optimization(schedule=Plateau(factor=0.1, patience=2), learning_rate=1.0)
    patience, past, falls = cases[0]
    rates = [optimization.rate(0, 1, past[: n + 1]) for n in range(len(past))]
    np.testing.assert_allclose(rates, 0.1 ** np.array(falls))
    assert optimization.rate(0, 1, past * 9) == pytest.approx(optimization.schedule.final)
    assert Plateau(final=0.1).rate(0.01, 0, 1, past * 9) == 0.01, "a rate below the lowest stays"


def test_steps_are_those_of_team_1():
    """To epoch 25 3e-4, 35 1.5e-4, 45 7.5e-5, 50 3e-5, then 1e-5."""
    optimization = Optimization(schedule=Steps())
    rates = [optimization.rate(epoch * 10, 10) for epoch in (0, 24.9, 25, 34.9, 35, 45, 49.9, 50, 99)]
    np.testing.assert_allclose(rates, [3e-4, 3e-4, 1.5e-4, 1.5e-4, 7.5e-5, 3e-5, 3e-5, 1e-5, 1e-5])
    for options in ({"ends": (3, 2)}, {"factors": (1.0,)}):
        with pytest.raises(InputError, match="rising ends"):
            Steps(**options)
    with pytest.raises(InputError, match="factor"):
        Plateau(factor=1.0)


def test_teams_judge_their_validation_as_they_did():
    """MPWARE by loss, ZFTurbo by AUC, the others by mAP."""
    measures = {recipe.name: recipe.optimization.measure for recipe in recipes.RECIPES}
    by_loss, by_auc = ({name for name, one in measures.items() if one == measure} for measure in ("loss", "AUC"))
    assert by_loss == {"mpware_puzzle_cam"}
    assert by_auc == {"zfturbo_6_channels", "zfturbo_green", "zfturbo_spindle"}


def test_a_rate_that_falls_has_epochs_left_before_the_training_stops():
    """ZFTurbo's fell after 9 epochs, where 10 end the training."""
    for recipe in recipes.RECIPES:
        found = recipe.optimization
        if isinstance(found.schedule, Plateau) and found.early_stopping:
            assert found.early_stopping >= 3 * (found.schedule.patience + 1), recipe.name


def test_stopping_and_the_best_epoch():
    nan = math.nan
    assert [best_epoch(p) for p in ([0.1], [0.3, 0.2], [0.2, 0.3, 0.3], [nan, nan], [nan, 0.1, nan])] == [0, 0, 1, 1, 1]
    assert [waiting(p) for p in ([], [0.1], [0.3, 0.2, 0.1], [nan, nan])] == [0, 0, 2, 0]
    assert Optimization(early_stopping=2).should_stop([0.3, 0.2, 0.1])
    assert not Optimization(early_stopping=2).should_stop([0.3, 0.2])
    assert not Optimization().should_stop([0.3] + [0.1] * 99)


@pytest.mark.parametrize("name, hint", [("milimed_b0_flip", "milimed_b0_flips"), ("cpu_smal", "cpu_small")])
def test_a_typo_suggests_the_name(name, hint):
    with pytest.raises(InputError, match=f"did you mean '{hint}'"):
        recipes.recipe_named(name)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"ema_decay": 1.0},
        {"weight_decay": -0.1},
        {"warmup_epochs": -1},
    ],
)
def test_impossible_optimization_is_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Optimization(**options)


def test_impossible_recipes_are_refused():
    recipe = recipes.recipe_named("cpu_small")
    for options in (
        {"ensemble": (0.0,)},
        {"ensemble": (1.0,) * 99},
        {"validation_fold": -2},
        {"seed": -1},
        {"seed": 1 << 32},
    ):
        with pytest.raises(InputError, match=f"recipe.{next(iter(options))}"):
            replace(recipe, **options)


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (lambda recipe: replace(recipe, ensemble=(math.nan,)), "ensemble.0"),
        (lambda recipe: replace(recipe, augmentation=Augmentation(rotation=math.nan)), "augmentation.rotation"),
        (
            lambda recipe: replace(recipe, augmentation=Augmentation(steps=(Noise(deviation=(0, math.inf)),))),
            "augmentation.steps.0.deviation.1",
        ),
        (
            lambda recipe: replace(recipe, optimization=Optimization(learning_rate=math.inf)),
            "optimization.learning_rate",
        ),
        (
            lambda recipe: replace(recipe, optimization=Optimization(schedule=Cosine(final=-math.inf))),
            "optimization.schedule.final",
        ),
        (lambda recipe: replace(recipe, objective=(Labels(), Labels(weight=math.nan))), "objective.1.weight"),
        (lambda recipe: replace(recipe, objective=(Labels(), Alike("a", "b", weight=-1))), "objective.1.weight"),
        (
            lambda recipe: replace(recipe, objective=(Labels(class_weights=(*[1.0] * 18, -1.0)),)),
            "objective.0.class_weights.18",
        ),
        (lambda recipe: replace(recipe, objective=(Labels(loss=Focal(-1.0)),)), "objective.0.loss.gamma"),
        (
            lambda recipe: replace(recipe, objective=(Labels(loss=CrossEntropy(-0.1)),)),
            "objective.0.loss.positive_weight",
        ),
    ],
)
def test_numbers_that_no_training_can_take_are_named(made, field):
    with pytest.raises(InputError, match=rf"^recipe\.{re.escape(field)}: "):
        made(recipes.recipe_named("cpu_small"))


@pytest.mark.parametrize(
    ("kind", "field", "bad", "least"),
    [
        (Cosine, "schedule.final", -1e-9, 0.0),
        (Plateau, "schedule.final", -1e-9, 0.0),
        (Steps, "schedule.factors", (1, 1, 1, 1, -1e-9), (1, 1, 1, 1, 0)),
        (SemiBalanced, "sampling.mitotic_shares", (-1e-9, 0.5, 0.5), (0, 0.5, 0.5)),
        *((blur, "augmentation.steps: found sizes", bad, (1, 3, 5, 7)) for blur in BLURS for bad in ((3, 9), (2,), ())),
    ],
)
def test_numbers_out_of_their_range_are_refused(kind, field, bad, least):
    name = "sizes" if kind in BLURS else field.split(".")[1]
    with pytest.raises(InputError, match=field):
        kind(**{name: bad})
    assert getattr(kind(**{name: least}), name) == least


@pytest.mark.parametrize("sampling", typing.get_args(Sampling))
def test_an_epoch_of_no_cells_is_refused(sampling):
    for count in (0, -5):
        with pytest.raises(InputError, match=r"recipe\.sampling\.num_cells"):
            sampling(num_cells=count)
    assert sampling(num_cells=1).num_cells == 1 and sampling().num_cells is None


def version_1(network: dict, objective: dict) -> dict:
    """Return a recipe.json as version 1 wrote it."""
    now = recipes.recipe_to_json(recipes.recipe_named("cpu_b0"))
    kept = {
        name: now[name] for name in ("class", "name", "augmentation", "ensemble", "seed", "validation_fold", "weights")
    }
    sampling = {**now["sampling"], "class": "Sampling", "balanced": True, "extra_repeats": [0.0] * 19}
    kept["sampling"] = {**sampling, "ungraded_classes": [11, 15]}
    names = ("epochs", "batch_size", "learning_rate", "warmup_steps", "clip_norm", "ema_decay", "early_stopping")
    optimization = {name: now["optimization"][name] for name in names} | {"optimizer": "adam", "weight_decay": 0.0}
    optimization |= {"schedule": "cosine", "cosine_epochs": 3, "final_learning_rate": 1e-5, "class": "Optimization"}
    kept["optimization"] = {**optimization, "plateau_factor": 0.3, "plateau_patience": 8}
    preparation = {"class": "Preparation", "size": 64, "margin": 0, "square": "pad", "surroundings": "none"}
    return {**kept, "network": network, "objective": objective, "preparation": preparation}


def without_version_7(value: dict) -> None:
    """Leave out what version 7 added: what judges a validation, a rise over epochs."""
    for field in ("measure", "warmup_epochs"):
        del value["optimization"][field]


def test_a_recipe_of_version_6_is_read():
    value = recipes.recipe_to_json(recipes.recipe_named("cpu_puzzle_cam"))
    value["version"] = 6
    without_version_7(value)
    assert recipes.recipe_from_json(value, "here") == recipes.recipe_named("cpu_puzzle_cam")


def test_a_recipe_of_version_4_is_read():
    """Version 5 added further steps of augmentation, pasting, and squares of fields."""
    for name in ("bestfitting_fcan", "cpu_lite0"):
        new = recipes.recipe_named(name)
        plain = replace(new, augmentation=replace(new.augmentation, steps=(), paste=None))
        value = recipes.recipe_to_json(plain)
        value["version"] = 4
        without_version_7(value)
        for field in ("steps", "paste", "cut", "drop_red", "drop_yellow"):
            del value["augmentation"][field]
        for view in (value["view"], value["asked"] or {}):
            view.pop("whole", None)
        assert recipes.recipe_from_json(value, "here") == plain


def test_a_recipe_of_version_5_is_read():
    """Version 6 added channels that are black in some examples."""
    new = recipes.recipe_named("cpu_puzzle_cam")
    value = recipes.recipe_to_json(new)
    value["version"] = 5
    without_version_7(value)
    del value["augmentation"]["drop_red"], value["augmentation"]["drop_yellow"]
    assert recipes.recipe_from_json(value, "here") == new
    dropping = replace(new, augmentation=replace(new.augmentation, drop_red=0.1, drop_yellow=0.5))
    assert recipes.recipe_from_json(recipes.recipe_to_json(dropping), "here") == dropping


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"asked": None}, "random squares"),
        ({"view": Crop(64), "asked": None, "augmentation": Augmentation(paste=PasteCells())}, "Field with num_cells"),
        ({"augmentation": Augmentation(cut=CutCells()), "validation_fold": -1}, "cut.*expected Crop"),
        ({"view": Crop(64), "asked": None, "augmentation": Augmentation(cut=CutCells())}, "validation_fold"),
    ],
)
def test_refuses_squares_when_asked_and_pasting_into_crops(changes, what):
    with pytest.raises(InputError, match=what):
        replace(recipes.recipe_named("mpware_puzzle_cam"), **changes)


def test_a_recipe_of_version_1_is_read(tmp_path):
    efficientnet = {"class": "EfficientNet", "variant": "B0", "dropout": 0, "drop_connect": 0, "stem": "mean"}
    efficientnet |= {"norm_momentum": 0.9, "synchronized": False}
    small = {"class": "SmallNetwork", "widths": [8, 16], "dropout": 0.25, "synchronized": True}
    found = []
    for network, gamma in ((efficientnet, 0), (small, 2.0)):
        value = version_1(network, {"class": "PerCell", "focal_gamma": gamma})
        files.write_json(tmp_path / "recipe.json", value)
        found.append(recipes.load(tmp_path / "recipe.json"))
    assert found[0] == recipes.recipe_named("cpu_b0")
    changes = {"schedule": "plateau", "optimizer": "adamw", "weight_decay": 0.1}
    changed = recipes.recipe_from_json({**value, "optimization": {**value["optimization"], **changes}}, "here")
    assert changed.optimization.schedule == Plateau() and changed.optimization.weight_decay == 0.1
    graded = {**value["sampling"], "balanced": False, "extra_repeats": [1.0] * 19}
    changed = recipes.recipe_from_json({**value, "sampling": graded}, "here")
    assert changed.sampling == EveryCell(num_cells=3072, extra_repeats=(1.0,) * 19)
    assert found[1].network == Classifier(SmallCnn((8, 16), synchronized=True), dropout=0.25)
    assert [term.loss for term in found[1].objective] == [Focal(2.0)]


def test_classes_of_fields_are_chosen_on_the_command_line():
    recipe = recipes.recipe_named("cpu_small")
    words = "--recipe.objective.0.loss CrossEntropy --other 3 --recipe.network.backbone=EfficientNet --recipe.view Bag"
    words += " --recipe.network.backbone.variant Lite0 --recipe.optimization.schedule Plateau --recipe.asked Field"
    chosen, rest = recipes.choose_classes(recipe, words.split())
    assert rest == ["--other", "3", "--recipe.network.backbone.variant", "Lite0"]
    assert chosen.network.backbone == EfficientNet() and chosen.network.dropout == recipe.network.dropout
    assert (chosen.view, chosen.asked, chosen.optimization.schedule) == (Bag(), Field(), Plateau())
    assert chosen.objective == (Labels(loss=CrossEntropy()),)
    with pytest.raises(
        InputError, match=r"--recipe\.view: found Plateau; expected one of Bag, CellInField, Crop, Field"
    ):
        recipes.choose_classes(recipe, ["--recipe.view", "Plateau"])
    assert "--recipe.optimization.schedule {Constant,Cosine,Plateau,Steps}" in recipes.describe_choices(recipe)


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("optimization.cosine-epochs 4", lambda recipe: recipe.optimization.schedule.epochs == 4),
        ("optimization.cosine_epochs=4", lambda recipe: recipe.optimization.schedule.epochs == 4),
        ("optimization.final-learning-rate 1e-7", lambda recipe: recipe.optimization.schedule.final == 1e-7),
        ("preparation.size 32", lambda recipe: recipe.view.size == 32),
        ("network.widths 8 16", lambda recipe: recipe.network.backbone.widths == (8, 16)),
    ],
)
def test_options_of_earlier_versions_are_taken_with_a_word(old, now):
    from hpa_tf.training.command import parse

    arguments = ["--data", "d", "--out", "o", *f"--recipe.{old}".split()]
    with pytest.warns(HpaWarning, match="is called --recipe"):
        assert now(parse(arguments, recipes.recipe_named("cpu_small")).recipe)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({"dropout": share}, f"recipe.network.dropout: found {share}; ") for share in (1, 50, -0.1, math.nan)),
        ({"classes": (19,)}, r"recipe.network.classes: found \(19,\); expected classes of 0 to 18"),
        *(({"classes": classes}, "rising, each once") for classes in ((3, 3), (3, 1), (-1,), ())),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(changes, said):
    recipe = recipes.recipe_named("cpu_small")
    with pytest.raises(InputError, match=said):
        replace(recipe, network=replace(recipe.network, **changes))


@pytest.mark.parametrize("option", ["objective.0 Alike", "augmentation.steps.0 OneOf"])
def test_a_class_that_needs_fields_is_not_chosen_by_its_name(option):
    from hpa_tf.training.command import parse

    recipe = recipes.recipe_named("cpu_small")
    steps = (Noise(),)
    recipe = replace(recipe, augmentation=replace(recipe.augmentation, steps=steps))
    with pytest.raises(InputError, match=f"{option.split()[1]}, which needs "):
        parse(f"--recipe.{option}".split(), recipe)
    path = "--recipe." + option.split()[0]
    line = next(line for line in recipes.describe_choices(recipe).splitlines() if line.strip().startswith(path + " "))
    assert option.split()[1] not in line


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cpu_red_ai_field", "asked CellInField --recipe.asked.channels red green blue"),
        ("cpu_small", "augmentation.cut CutCells --recipe.validation-fold -1"),
        ("bestfitting_fcan_antibodies", "network CbamClassifier --recipe.network.antibodies 100"),
    ],
)
def test_a_class_and_the_fields_that_go_with_it_are_checked_together(name, options, capsys):
    from hpa_tf.training.command import parse

    chosen, *rest = f"--recipe.{options}".split(" --")
    assert parse([*chosen.split(), *f"--{rest[0]}".split()], recipes.recipe_named(name))
    with pytest.raises(SystemExit):
        parse(chosen.split(), recipes.recipe_named(name))
