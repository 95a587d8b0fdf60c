"""`python -m tfrecords_builder label --rule NAME ... --out labels.parquet`: one rule, from tables to a table of labels.

Each rule has its own options, so none is ever ignored: `label --rule NAME --help` lists them.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tyro

from hpa_tf import files, label_rules, records
from hpa_tf.classes import CLASSES
from hpa_tf.data_folder import CELL_COLUMNS, graded_data, read_cells
from hpa_tf.errors import InputError
from hpa_tf.identity import check_parquet
from hpa_tf.image_labels import rows_of_images
from hpa_tf.label_rules import LabelTable
from tfrecords_builder.label_predictions import AddLikely, DropUnlikely, FiveLevels, OutOfFold
from tfrecords_builder.label_start import Rule, Setter

PROGRAM = "python -m tfrecords_builder label"


@dataclass(frozen=True)
class FromImage(Rule):
    """Give every cell the labels of its image."""

    image_labels: str | None = None
    """CSV of image labels (ID, Label) instead of those that the data was built with, such as corrected ones."""

    def apply(self) -> LabelTable:
        """Run the rule."""
        from tfrecords_builder.sources import read_label_table

        if self.data is None or self.labels is not None:
            raise InputError("--rule from_image", "no --data, or --labels", "--data DIR alone", "leave --labels out")
        manifest = records.read_manifest(self.data)
        table = read_cells(self.data, manifest)
        inputs, of_image = {"data": manifest.fingerprint}, None
        if self.image_labels:
            rows, faults, _ = read_label_table(self.image_labels)
            if faults:
                raise faults[0][1]
            inputs[os.path.basename(self.image_labels)] = label_rules.digest(self.image_labels)
            images, given = set(table["image_id"]), {name: class_ids for name, (class_ids, _) in rows.items()}
            of_image = rows_of_images(given, images, self.image_labels)
            if missing := sorted(images - set(of_image)):
                found = f"no row for image {missing[0]} (and {len(missing) - 1} more)"
                raise InputError(self.image_labels, found, "a row for every image of the data", "add the rows")
        return label_rules.from_image(table, inputs, of_image)


@dataclass(frozen=True)
class FromGrades(Rule):
    """Turn hand grades (of `python -m hpa_tf.grading`) into soft labels, and mark the graded cells."""

    grades: tuple[str, ...] = ()
    """Folders of journals."""
    maps: str = "train"
    """train, validation (team 4's maps), or a JSON file of your own."""
    only_graded: bool = False
    """Leave every value unknown that no grade decided: for train.py --validation-labels."""
    write_maps: str | None = None
    """Also write the maps as JSON here, to be edited and given as --maps."""

    def apply(self) -> LabelTable:
        """Run the rule."""
        if not self.grades:
            raise InputError("--grades", "none", "one folder or more", "give the --out of the grading page")
        if self.data is None:
            raise InputError("--data", "none", "the data folder that was graded", "give it: grades are checked with it")
        if self.write_maps:
            files.check_can_be_written("--write-maps", self.write_maps)
        maps = label_rules.read_maps(self.maps)
        manifest = records.read_manifest(self.data)
        data = graded_data(self.data, manifest, read_cells(self.data, manifest, CELL_COLUMNS))
        found = [label_rules.grades_of_folder(folder, data) for folder in self.grades]
        label_rules.check_no_copies(self.grades, [journals for _, journals, _ in found])
        print(label_rules.describe_grades([journal for _, journals, _ in found for journal in journals]))
        sums = label_rules.joined_sums(some for _, _, some in found)
        if self.write_maps:
            label_rules.write_maps(maps, self.write_maps)
        table = pd.concat([grades for grades, _, _ in found], ignore_index=True)
        return label_rules.from_grades(self.start(), table, maps, sums, self.only_graded)


@dataclass(frozen=True)
class Soften(Rule):
    """Move labels away from 0 and 1, the further the more labels the cell has."""

    share: float = 0.01
    """For each label of a cell."""
    keep: tuple[Setter, ...] = ("from_grades",)
    """Values that these rules set stay."""

    def apply(self) -> LabelTable:
        """Run the rule."""
        if not 0 <= self.share <= 1:
            raise InputError("--share", str(self.share), "0 to 1", "change it")
        return label_rules.soften(self.start(), self.share, self.keep)


@dataclass(frozen=True)
class Merge:
    """Take each value from one of several tables of the same cells, by an explicit priority."""

    out: str
    """Table of labels to write (.parquet)."""
    tables: tuple[str, ...] = ()
    """Tables of labels."""
    priority: tuple[str, ...] = ()
    """Rules, most important first, such as from_grades drop_unlikely from_image; default: the order of the tables."""

    def apply(self) -> LabelTable:
        """Run the rule."""
        if len(self.tables) < 2:
            raise InputError("--tables", f"{len(self.tables)}", "two or more", "give the tables to merge")
        return label_rules.merge([label_rules.read_labels(path) for path in self.tables], self.tables, self.priority)


RULES = {
    "from_image": FromImage,
    "from_grades": FromGrades,
    "drop_unlikely": DropUnlikely,
    "add_likely": AddLikely,
    "soften": Soften,
    "five_levels": FiveLevels,
    "out_of_fold": OutOfFold,
    "merge": Merge,
}


def run(arguments: Sequence[str]) -> None:
    """Run one rule.

    Raises:
        InputError: An option or a table cannot be used.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--rule")
    names, rest = parser.parse_known_args(arguments)
    if names.rule not in RULES:
        if names.rule is None and {"-h", "--help"} & set(rest):
            lines = [f"  {name:<14} {rule.__doc__}" for name, rule in RULES.items()]
            print(f"{PROGRAM} --rule NAME --out labels.parquet ...\n\n" + "\n".join(lines))
            print(f"\n{PROGRAM} --rule NAME --help lists the options of a rule.")
            return
        raise InputError("--rule", repr(names.rule), f"one of {', '.join(RULES)}", "choose one")
    rule = tyro.cli(RULES[names.rule], args=rest, prog=f"{PROGRAM} --rule {names.rule}")
    check_parquet("--out", rule.out, "labels")
    before = rule.start() if isinstance(rule, Rule) and not isinstance(rule, FromImage) else None
    labels = rule.apply()
    label_rules.write_labels(labels, rule.out)
    print(describe(labels, before))
    print(f"{rule.out}: {len(labels)} cells, steps {', '.join(step.name for step in labels.steps)}")


def describe(labels: LabelTable, before: LabelTable | None) -> str:
    """Return what a rule did, by class; without `before`, the number of labels."""
    if before is None:
        known = (labels.values >= 0.5).sum(axis=0)
        return "\n".join(f"{c} {name}: {known[c]} cells" for c, name in enumerate(CLASSES) if known[c])
    table = label_rules.count_changes(before, labels)
    moved = table[(table["raised"] + table["lowered"] + table["became_known"] + table["became_unknown"]) > 0]
    if moved.empty:
        return "no label changed"
    with np.errstate(divide="ignore", invalid="ignore"):
        share = moved["lowered"] / np.maximum(moved["before"], 1)
    moved = moved.assign(lowered_share=[f"{one:.1%}" for one in share])
    shown = ["class", "before", "after", "raised", "lowered", "lowered_share", "became_known", "became_unknown"]
    return moved[shown].to_string(index=False)
