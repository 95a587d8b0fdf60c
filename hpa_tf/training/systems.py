"""Train every member of a system, one after the other, and with hand grades its second stage too."""

from collections.abc import Callable

import keras

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.recipes import Recipe, System, differences, to_json
from hpa_tf.training.run import train
from hpa_tf.training.site import Data, Site

SYSTEM = "system.json"


def train_system(system: System, adapt: Callable[[Recipe], Recipe], data: Data, out: str, site: Site) -> None:
    """Train the members into `out`/MEMBER, skipping finished ones; `out`/system.json names them and their weights.

    Args:
        system: Its members' recipes.
        adapt: The changes of the command line.
        data: What is trained on.
        out: Folder of the run folders.
        site: Where it runs.

    Raises:
        InputError: `out` holds another system; also see `train`.
    """
    claim_system(system, out, site)
    for number, member in enumerate(system.members, start=1):
        announce(system, number, "", site)
        train(adapt(member.recipe), data, files.join(out, member.recipe.name), site)
        keras.backend.clear_session()


def claim_system(system: System, out: str, site: Site) -> None:
    """Write which system a folder holds, or check that it holds the same one.

    Raises:
        InputError: It holds another one.
    """
    path, value = files.join(out, SYSTEM), to_json(system)
    if files.exists(path) and (lines := differences(files.read_json(path), value)):
        raise InputError(path, f"another system ({'; '.join(lines[:10])})", system.name, "choose another --out")
    if site.is_chief:
        files.make_folder(out)
        files.write_json(path, value)


def announce(system: System, number: int, stage: str, site: Site) -> None:
    """Say which member comes now, counted from 1."""
    member = system.members[number - 1]
    if site.is_chief:
        what = f"member {number} of {len(system.members)}: {member.recipe.name}, weight {member.weight:g}{stage}"
        print(what, flush=True)
