"""TF_CONFIG: which machines train together, and which of them this process is."""

import json
import os
import re

from hpa_tf.errors import InputError

EXAMPLE = '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/]+):(?P<port>[0-9]{1,5})")
_KINDS = ("chief", "worker")
"""Kinds of machine that take steps; where there is a chief, it is the first."""


def read_cluster() -> tuple[list[str], int]:
    """Return the addresses of all processes of the training, and the index of this one among them.

    Raises:
        InputError: TF_CONFIG is not set, or says something that no cluster can be made of.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        raise _bad("no TF_CONFIG")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(f"no JSON ({error}): {text[:80]!r}") from error
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not any(cluster.get(kind) for kind in _KINDS):
        raise _bad(f"no cluster with workers: {text[:80]!r}")
    addresses = {kind: _addresses(kind, cluster[kind]) for kind in _KINDS if kind in cluster}
    together = [address for some in addresses.values() for address in some]
    if len({_same(address) for address in together}) < len(together):
        raise _bad(f"the same address twice: {together}")
    kind, index = _task(config)
    if kind not in addresses:
        raise _bad(f"task type {kind!r} in a cluster of {', '.join(map(repr, addresses))}")
    if not 0 <= index < len(addresses[kind]):
        raise _bad(f"task index {index} for {len(addresses[kind])} {kind}(s), which are counted from 0")
    return together, index + (len(addresses.get("chief", [])) if kind == "worker" else 0)


def _addresses(kind: str, value: object) -> list[str]:
    if not isinstance(value, list) or not value:
        raise _bad(f"cluster.{kind} {value!r}, which is no list of addresses")
    for address in value:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not match or not 0 < int(match["port"]) < 65536:
            raise _bad(f"the address {address!r} in cluster.{kind}, which is not HOST:PORT")
    if kind == "chief" and len(value) > 1:
        raise _bad(f"{len(value)} chiefs")
    return value


def _same(address: str) -> tuple[str, int]:
    """Return what two spellings of an address have in common."""
    host, _, port = address.rpartition(":")
    return host.lower(), int(port)


def _task(config: dict) -> tuple[str, int]:
    task = config.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
        raise _bad(f"task {task!r}, without type and index" if task else "no task")
    index = task["index"]
    if not isinstance(task["type"], str):
        raise _bad(f"task type {task['type']!r}, which is no text")
    if isinstance(index, bool) or not re.fullmatch(r"-?[0-9]{1,9}", str(index)):
        raise _bad(f"task index {index!r}, which is no number")
    return task["type"], int(index)


def _bad(found: str) -> InputError:
    return InputError("TF_CONFIG", found, f"e.g. {EXAMPLE}", "set it on each machine, with an index for each")
