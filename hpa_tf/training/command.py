"""The command line of `train.py`: options, what each asks for, exit codes."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tensorflow as tf
import tyro

from hpa_tf import files
from hpa_tf.devices import find_gpus, memory_explained
from hpa_tf.errors import HpaError, InputError
from hpa_tf.identity import check_parquet
from hpa_tf.memory import keep_freed_memory
from hpa_tf.models.fcan import Fcan, Readout
from hpa_tf.recipes import RECIPES, SYSTEMS, Recipe, choose_classes, describe_choices, recipe_named, system_named
from hpa_tf.recipes.relabel import is_relabelling
from hpa_tf.recipes.upgrades import upgrade_options
from hpa_tf.training.fine_tuning import FINE_TUNED, check_second_stage, fine_tune_system
from hpa_tf.training.folds import out_of_fold_table, train_folds
from hpa_tf.training.inputs import check_asked, warn_of_schedules, warn_of_unused_labels
from hpa_tf.training.loop import Diverged, Pace
from hpa_tf.training.preemption import EXIT_CODE, Interrupted
from hpa_tf.training.relabelling import train_relabelling
from hpa_tf.training.run import show_sampling, train
from hpa_tf.training.site import Data, Site
from hpa_tf.training.start import parse_member_weights, warn_of_random_starts
from hpa_tf.training.strategy import Precision, StrategyName, describe, make_strategy, resolve_precision
from hpa_tf.training.systems import changed_by, system_out_of_fold_table, train_system, train_system_folds

DEFAULT_RECIPE = "cpu_lite0"
DEFAULT_DATA, DEFAULT_RUNS = "shards", "runs"
DIVERGED_EXIT_CODE = 3
_SMALLER = (
    "--recipe.optimization.batch-size with a smaller number (and another --out, where this one holds a checkpoint)"
)
DESCRIPTION = f"""Train a network on a data folder; the same command goes on after a stop.

--recipe NAME chooses the recipe that every --recipe.FIELD changes; the values below are those of the chosen one.
Some fields may be of several classes, each with its own fields: --recipe.optimization.schedule Plateau.
Recipes: {", ".join(recipe.name for recipe in RECIPES)} (default {DEFAULT_RECIPE}).
--system NAME trains the members of a system, one after the other, into OUT/MEMBER (with --folds: OUT/foldK/MEMBER).
--recipe.seed is then that of the first member; the others' stay as far from it as they are in the system.
Systems: {", ".join(system.name for system in SYSTEMS)}.
Exit codes: 0 finished, 2 bad input, {DIVERGED_EXIT_CODE} the loss is no number, {EXIT_CODE} stopped by a
signal or the loss of a peer: start the same command again."""


@dataclass(frozen=True)
class Options:
    """What is trained, on what, where."""

    out: str
    """Run folder (with --system or --folds: the folder of the run folders), local or remote; by default
    runs/NAME of the recipe or the system."""
    data: Annotated[Data, tyro.conf.arg(name="")]
    strategy: StrategyName = "one"
    """one device, mirrored (all GPUs of this machine), multiworker (TF_CONFIG) or tpu (TPU_NAME)."""
    precision: Precision = "auto"
    """auto = float16 on GPU, bfloat16 on TPU, float32 on CPU; logits and loss are always float32."""
    weights: str | None = None
    """Short for --recipe.weights: none, imagenet, starter, a weights file, a run folder, or backbone:RUN
    (a run's backbone alone). With --system: of all members."""
    member_weights: tuple[str, ...] = ()
    """With --system: what single members start from, whatever --weights says, as MEMBER=WEIGHTS:
    bestfitting_inception=inception_v3.pth bestfitting_swin=swin.safetensors."""
    fine_tune: str | None = None
    """With --system: also the second stage of every member, on hand grades: a folder of the grading page, or a cell
    table of labels with a column `graded`. The fine-tuned system is OUT/fine_tuned."""
    folds: int = 0
    """Train one network (with --system: one for each member) for each of the first k folds, which is kept out of its
    training; 0 = one network."""
    out_of_fold: str | None = None
    """With --folds: write each cell's prediction by the network that has not seen its image, as a cell table; with
    --system the members' predictions, mixed as for a submission."""
    readout: Readout | None = None
    """With --out-of-fold, of FCAN: what is written instead of what the recipe says, such as cell and field for labels
    in five levels. The networks that are there are asked again, none is trained anew."""
    show_sampling: bool = False
    """Print expected and drawn cells by class, and stop."""
    deterministic: Literal["auto", "on", "off"] = "auto"
    """Equal runs give equal bits (TensorFlow's op determinism). auto = on CPUs; GPUs have no deterministic kernel for
    the gradient of EfficientNet's depthwise convolutions."""
    pace: Annotated[Pace, tyro.conf.arg(name="")] = field(default_factory=Pace)
    recipe: tyro.conf.FlagConversionOff[Recipe] = field(default_factory=lambda: recipe_named(DEFAULT_RECIPE))


def parse(arguments: Sequence[str], recipe: Recipe, name: str | None = None) -> Options:
    """Return the options; fields of `recipe` are the defaults of --recipe.FIELD, `name` (or its own) that of --out.

    Raises:
        InputError: Options exclude each other, one has no effect beside another, or lacks another (`check_asked`).
    """
    kind = tyro.conf.configure(tyro.conf.AvoidSubcommands)(Options)
    before, arguments = recipe, upgrade_options(arguments)
    recipe, rest = choose_classes(recipe, arguments)
    out = f"{DEFAULT_RUNS}/{name or recipe.name}"
    default = Options(out=out, data=Data(data=DEFAULT_DATA), recipe=recipe)
    description = f"{DESCRIPTION}\n\nFields of several classes:\n{describe_choices(recipe)}"
    options = tyro.cli(kind, args=rest, default=default, prog="train.py", description=description)
    check_together(options, recipe)
    check_asked(before, options.recipe, arguments)
    if options.weights is not None:
        options = replace(options, recipe=replace(options.recipe, weights=options.weights))
    return options


def check_together(options: Options, recipe: Recipe) -> None:
    """Check that no option is without effect beside the others; `recipe` is the chosen one before its changes.

    Raises:
        InputError: One is.
    """
    own, data = options.recipe, options.data
    several = options.folds != 0
    excluded = (
        (
            "--out-of-fold",
            options.out_of_fold and not several and not is_relabelling(recipe),
            "no --folds",
            "say with --folds K how many to train",
        ),
        ("--xla", options.pace.xla and options.strategy != "one", f"--strategy {options.strategy}", "leave --xla out"),
        (
            "--readout",
            options.readout and not (options.out_of_fold and options.folds and isinstance(own.network, Fcan)),
            "a recipe that is no FCAN, or no --folds and --out-of-fold",
            "leave it out",
        ),
        (
            "--recipe.weights",
            options.weights is not None and own.weights not in (recipe.weights, options.weights),
            f"--weights {options.weights} and --recipe.weights {own.weights}",
            "give one of them",
        ),
        (
            "--recipe.validation-fold",
            several and own.validation_fold != recipe.validation_fold,
            f"--folds {options.folds}, where each network keeps its own fold out",
            "leave one of them out",
        ),
        (
            "--unknown-cells",
            data.labels is None and data.unknown_cells != "error",
            "no --labels, whose unknown cells it is about",
            "give --labels TABLE, or leave it out",
        ),
        (
            "--show-sampling",
            options.show_sampling and several,
            f"--folds {options.folds}",
            "look at one fold: --recipe.validation-fold K without --folds",
        ),
        (
            "--show-sampling",
            options.show_sampling and is_relabelling(recipe),
            f"{recipe.name}, each of whose networks draws by the labels of one class",
            "leave it out",
        ),
        (
            "--out",
            not files.is_remote(options.out) and os.path.realpath(options.out) == os.path.realpath(data.data),
            f"the data folder {data.data}",
            "choose another --out",
        ),
    )
    for option, is_so, found, fix in excluded:
        if is_so:
            raise InputError(option, found, "options that go together", fix)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    names, rest = _names(files.expand_home(arguments))
    try:
        with files.full_disk_explained("--out"), memory_explained(_SMALLER):
            _run(names, rest)
    except HpaError as error:
        return _fail(error, 2)
    except Diverged as error:
        return _fail(error, DIVERGED_EXIT_CODE)
    except Interrupted as error:
        return _fail(error, EXIT_CODE)
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        reason = str(error).splitlines()[0][:300]
        return _fail(f"a peer was lost ({reason}); start the same command on all machines again", EXIT_CODE)
    except OSError as error:
        if error.filename is None:
            raise
        fix = "check the path, its permissions and its disk; the same command goes on"
        return _fail(InputError(error.filename, str(error.strerror), "a file that can be read or written", fix), 2)
    return 0


def _names(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take --recipe NAME and --system NAME out of the arguments: they decide the defaults of the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    parser.add_argument("--system")
    return parser.parse_known_args(arguments)


def _run(names: argparse.Namespace, rest: Sequence[str]) -> None:
    if names.system:
        _run_system(names, rest)
        return
    named = recipe_named(names.recipe or DEFAULT_RECIPE)
    options = parse(rest, named)
    if options.fine_tune:
        forms = [recipe.name for recipe in RECIPES if recipe.name.endswith("_fine_tune")]
        fix = f"one network: --recipe NAME --weights RUN --labels TABLE, where NAME is one of {', '.join(forms)}"
        raise InputError("--fine-tune", "no --system", "--system NAME", fix)
    if options.member_weights:
        raise InputError("--member-weights", "no --system", "--system NAME", "give one recipe its own with --weights")
    if options.out_of_fold:
        check_parquet("--out-of-fold", options.out_of_fold, "out_of_fold")
    if options.show_sampling:
        print(show_sampling(options.recipe, options.data))
        return
    site = start(options)
    if site.is_chief:
        warn_of_unused_labels([options.recipe], options.data.labels)
        warn_of_schedules([options.recipe])
    if is_relabelling(named):
        train_relabelling(options.recipe, options.folds, options.data, options.out, options.out_of_fold, site)
    elif options.folds:
        train_folds(options.recipe, options.folds, options.data, options.out, site)
        if options.out_of_fold:
            asked = _reading(options.recipe, options.readout)
            out_of_fold_table(asked, options.folds, options.data, options.out, options.out_of_fold, site)
    else:
        train(options.recipe, options.data, options.out, site)


def _reading(recipe: Recipe, readout: Readout | None) -> Recipe:
    return recipe if readout is None else replace(recipe, network=replace(recipe.network, readout=readout))


def _run_system(names: argparse.Namespace, rest: Sequence[str]) -> None:
    system = system_named(names.system)
    options = parse(rest, system.members[0].recipe, system.name)
    if names.recipe:
        fix = f"leave --recipe {names.recipe} out, or train it alone"
        raise InputError(f"--system {names.system}", f"--recipe {names.recipe}", "the recipes of its members", fix)
    if options.readout:
        raise InputError("--readout", f"--system {names.system}", "one recipe of FCAN", "--recipe bestfitting_fcan")
    if options.folds and options.fine_tune:
        fix = "train the folds first; fine-tune a system that is trained without --folds"
        raise InputError("--fine-tune", f"--folds {options.folds}", "one network a member", fix)
    if options.out_of_fold:
        check_parquet("--out-of-fold", options.out_of_fold, "out_of_fold")

    trained = [member.recipe for member in system.members]
    if not options.folds:
        trained += [specialist.recipe for specialist in system.specialists if not specialist.own_labels]
    own = parse_member_weights(options.member_weights, [recipe.name for recipe in trained])

    shift = options.recipe.seed - system.members[0].recipe.seed

    def of_member(recipe: Recipe) -> Recipe:
        changed = changed_by(lambda one: parse(rest, one).recipe, recipe)
        seed = recipe.seed + shift  # some members differ by their seeds alone
        return replace(changed, weights=own.get(recipe.name, changed.weights), seed=seed)

    if options.show_sampling:
        for member in system.members:
            recipe = of_member(member.recipe)
            print(f"{recipe.name}\n{show_sampling(recipe, options.data.keeping_out(recipe.validation_fold))}\n")
        return
    recipes = [of_member(member.recipe) for member in system.members]
    by_image = [recipe.name for recipe in recipes if not recipe.has_loss_of_cells]
    if options.fine_tune and by_image:
        found = f"{', '.join(dict.fromkeys(by_image))} of {system.name}, whose loss is of labels of images alone"
        fix = "fine-tune one of the others: --recipe NAME --labels TABLE --weights RUN"
        raise InputError("--fine-tune", found, "members with a loss of labels of cells", fix)
    site = start(options)
    if site.is_chief:
        warn_of_unused_labels(recipes, options.data.labels)
        warn_of_schedules(recipes)
        warn_of_random_starts([of_member(one) for one in trained if one.name not in own and options.weights is None])
    if options.folds:
        asked = (system, of_member, options.folds, options.data, options.out)
        train_system_folds(*asked, site)
        if options.out_of_fold:
            system_out_of_fold_table(*asked, options.out_of_fold, site)
        _say_next(system.name, options.out, site)
        return
    if options.fine_tune:
        check_second_stage(system, of_member, options.data, options.fine_tune, site)
    train_system(system, of_member, options.data, options.out, site)
    finished = options.out
    if options.fine_tune:
        fine_tune_system(system, of_member, options.data, options.fine_tune, options.out, site)
        finished = files.join(options.out, FINE_TUNED)
    elif site.is_chief and not by_image:
        print(f"{options.out}: first stage only; --fine-tune GRADES adds the second, on hand grades", flush=True)
    _say_next(system.name, finished, site)


def _say_next(name: str, runs: str, site: Site) -> None:
    if site.is_chief:
        print(f"Next: python predict.py --system {name} --runs {shlex.quote(runs)} --images DIR", flush=True)


def start(options: Options) -> Site:
    """Set TensorFlow up, find the devices, say what was found.

    Raises:
        InputError: The devices that the strategy needs are not there.
    """
    keep_freed_memory()
    gpus = find_gpus()
    if options.deterministic == "on" or (options.deterministic == "auto" and not gpus and options.strategy != "tpu"):
        tf.config.experimental.enable_op_determinism()
    strategy = make_strategy(options.strategy)
    site = Site(strategy, resolve_precision(options.precision, strategy), options.pace)
    print(describe(strategy, site.policy), flush=True)
    return site


def _fail(error: Exception | str, code: int) -> int:
    print(f"train.py: {error}", file=sys.stderr)
    return code
