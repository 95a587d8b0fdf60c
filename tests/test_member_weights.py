"""Members of a system may start from weights and seeds of their own; what cannot is refused before any is trained."""

import re
import warnings
from dataclasses import replace

import pytest
from training_process import words, write_tiny_dataset

from hpa_tf import recipes
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.models import weights
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.recipes import Member, Specialist, System
from hpa_tf.recipes.optimization import Plateau
from hpa_tf.recipes.runs import read_run
from hpa_tf.training import command, run
from hpa_tf.training.start import parse_member_weights, warn_of_random_starts
from hpa_tf.views import Crop

OPTIONS = words("--deterministic off --recipe.sampling.num-cells 16 --recipe.optimization.epochs 1")
OPTIONS += words("--recipe.optimization.batch-size 8")
ONE, TWO = (
    replace(recipes.recipe_named("cpu_small"), name=name, view=Crop(16), network=Classifier(SmallCnn(widths)))
    for name, widths in (("one", (4, 6)), ("two", (4, 8)))
)
SPINDLE = replace(ONE, name="spindle", network=Classifier(SmallCnn((4, 6)), classes=(11,)))
SYSTEM = System("tiny", (Member(ONE, 0.5), Member(TWO, 0.5)), specialists=(Specialist(SPINDLE, "p", own_labels=True),))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("weights") / "data")


@pytest.fixture
def call(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "export", lambda *arguments: None)
    monkeypatch.setattr(command, "system_named", lambda name: SYSTEM)
    start = ["--system", "tiny", "--data", str(data), "--out", str(tmp_path / "out"), *OPTIONS]
    return lambda *options: command.main([*start, *options])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a weights file of each of the two networks."""
    folder = tmp_path_factory.mktemp("files")
    for recipe in (ONE, TWO):
        weights.save(recipe.network.build(recipe.view.specs()), folder / f"{recipe.name}.weights.h5")
    return folder


def test_members_start_from_files_of_their_own(call, data, files, tmp_path, capsys):
    """One of them is trained beforehand, as a recipe: the same file makes it the same run."""
    own = [f"{name}={files}/{name}.weights.h5" for name in ("one", "two")]
    assert call("--member-weights", *own) == 0
    assert call("--weights", f"{files}/one.weights.h5", "--member-weights", own[1]) == 0, "of all others"
    assert capsys.readouterr().out.count("is finished") == 2
    for name in ("one", "two"):
        assert read_run(tmp_path / "out" / name).recipe.weights == f"{files}/{name}.weights.h5"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "said"), [(True, "needs labels of its own"), (False, "is needed to predict, and not trained here")]
)
def test_folds_say_which_command_trains_the_network_beside_them(call, data, tmp_path, monkeypatch, capsys, own, said):
    system = replace(SYSTEM, members=(Member(ONE, 1.0),), specialists=(replace(SYSTEM.specialists[0], own_labels=own),))
    monkeypatch.setattr(command, "system_named", lambda name: system)
    assert call("--folds", "2", "--no-clean") == 0
    words = "--recipe spindle --labels TABLE" if own else "--recipe spindle"
    assert (
        f"spindle {said}: python train.py --data {data} --no-clean {words} --out {tmp_path}/out/spindle\n"
        f"Next: python predict.py --system tiny --runs {tmp_path}/out --images DIR\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize("name", ["bestfitting", "red_ai"])
@pytest.mark.parametrize(("options", "first"), [("", 0), ("--recipe.seed 0", 0), ("--recipe.seed 5", 5)])
def test_members_that_differ_by_seed_alone_stay_different(name, options, first, tmp_path, monkeypatch):
    adapted = []

    def train_system(system, adapt, *rest):
        adapted.extend(adapt(member.recipe) for member in system.members)

    monkeypatch.setattr(command, "train_system", train_system)
    given = ["--system", name, "--data", "nowhere", "--out", str(tmp_path / "out"), "--deterministic", "off"]
    assert command.main([*given, "--weights", "none", *words(options)]) == 0
    members = [member.recipe for member in recipes.system_named(name).members]
    assert len({recipe.seed for recipe in members}) > 1
    assert [recipe.seed for recipe in adapted] == [recipe.seed + first for recipe in members]


@pytest.mark.parametrize(
    "options",
    [
        "--recipe.validation-fold 1 --recipe.optimization.early-stopping 3 --recipe.optimization.measure AUC",
        "--recipe.validation_fold=1 --recipe.optimization.early_stopping=3 --recipe.optimization.measure=AUC",
        "--recipe.validation-fold 1 --recipe.optimization.schedule Plateau",
    ],
)
def test_members_choose_a_fold_beside_a_network_of_cut_cells_that_keeps_none_out(options, tmp_path, monkeypatch):
    adapted = []

    def train_system(system, adapt, *rest):
        adapted.extend(adapt(one.recipe) for one in (*system.members, *system.specialists))

    monkeypatch.setattr(command, "train_system", train_system)
    given = ["--system", "cpu_bestfitting", "--data", "nowhere", "--out", str(tmp_path / "out"), "--weights", "none"]
    assert (
        command.main([*given, "--deterministic", "off", "--recipe.optimization.batch-size", "8", *words(options)]) == 0
    )
    *members, completeness = adapted
    own = recipes.recipe_named("cpu_completeness")
    expected = replace(own, weights="none", optimization=replace(own.optimization, batch_size=8))
    assert completeness == expected and completeness.validation_fold == -1
    for recipe in members:
        assert recipe.validation_fold == 1
        assert (recipe.optimization.early_stopping, recipe.optimization.measure) == (3, "AUC") or "Plateau" in options
        assert isinstance(recipe.optimization.schedule, Plateau) == ("Plateau" in options)
    for recipe in adapted:
        run.check_fields_together(recipe)


@pytest.mark.parametrize(
    "options, said",
    [
        ("--weights {}/one.weights.h5", "for two: found weights that do not fit"),
        ("--weights {0}/one.weights.h5 --member-weights two={0}/one.weights.h5", "for two: found weights that do not"),
        ("--weights {}/one.weights.h5", "--member-weights two=WEIGHTS"),
        ("--member-weights two={}/nowhere.h5", "nowhere.h5', which does not exist"),
        ("--member-weights two=imagenet", "'imagenet' for SmallCnn"),
        ("--member-weights twp=none", "found 'twp'; expected one of one, two. Fix: did you mean 'two'?"),
        ("--member-weights spindle=none", "expected one of one, two"),  # not trained here: it has labels of its own
        ("--member-weights two", "found 'two'; expected MEMBER=WEIGHTS"),
        ("--member-weights two=none two=imagenet", "two twice"),
    ],
)
def test_what_no_member_can_start_from_is_refused_first(call, files, tmp_path, capsys, options, said):
    assert call(*words(options.format(files))) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_members_of_no_system_are_refused(data, tmp_path, capsys):
    assert (
        command.main(["--data", str(data), "--out", str(tmp_path / "out"), "--member-weights", "cpu_lite0=none"]) == 2
    )
    assert "--member-weights: found no --system" in capsys.readouterr().err
    assert command.main(["--data", str(data), "--out", str(tmp_path / "out"), "--fine-tune", "grades.parquet"]) == 2
    said = capsys.readouterr().err
    named = re.search(r"NAME is one of (.*)", said)[1].split(", ")
    assert "--labels TABLE" in said and all(recipes.recipe_named(name.strip()) for name in named)


@pytest.mark.slow
def test_members_that_have_begun_need_their_file_no_more(call, files, capsys):
    (files / "away.weights.h5").write_bytes((files / "two.weights.h5").read_bytes())
    options = ["--member-weights", f"two={files}/away.weights.h5"]
    assert call(*options) == 0
    (files / "away.weights.h5").unlink()
    assert call(*options) == 0


def test_full_size_networks_without_weights_are_told():
    """Those whose ImageNet weights come by themselves have them; all others are files of timm, which a user gives."""
    for name, first, count in (
        ("bestfitting", "bestfitting_inception", 4),
        ("red_ai", "red_ai_duo_seresnext50", 13),
        ("mpware_zfturbo_dieter", "mpware_puzzle_cam", 4),
    ):
        own = {member.recipe.name: member.recipe for member in recipes.system_named(name).members}
        told = f"^{first}, .*: trained from random weights; --member-weights {first}=FILE"
        with pytest.warns(HpaWarning, match=told):
            warn_of_random_starts(list(own.values()))
        random = [recipe.network.backbone for recipe in own.values() if recipe.weights == "none"]
        assert len(random) == count and not any(isinstance(backbone, EfficientNet) for backbone in random)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for system in recipes.SYSTEMS:
            if system.name.startswith(("milimed", "cpu_final", "cpu_bestfitting", "cpu_red", "cpu_mpware")):
                warn_of_random_starts([member.recipe for member in system.members])


def test_a_system_says_what_starts_from_random_weights(data, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "train_system", lambda *arguments: None)
    arguments = ["--system", "cpu_pair", "--data", str(data), "--out", str(tmp_path / "out"), "--deterministic", "off"]
    with pytest.warns(HpaWarning, match="^cpu_b0: trained from random weights"):
        assert command.main(arguments) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", HpaWarning)
        assert command.main([*arguments, "--weights", "none"]) == 0
        assert command.main([*arguments, "--member-weights", "cpu_b0=none"]) == 0


def test_values_may_have_equals_signs():
    assert parse_member_weights(["one=s3://bucket/a=b.pth"], ["one"]) == {"one": "s3://bucket/a=b.pth"}
    with pytest.raises(InputError, match="'one='; expected MEMBER=WEIGHTS"):
        parse_member_weights(["one="], ["one"])
