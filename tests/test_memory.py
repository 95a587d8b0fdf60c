"""Freed memory stays in the process: the kernel is not asked for the same pages again."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import numpy as np
from hpa_tf.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    return [np.ones(quarters << 18, np.uint8) for quarters in range(1, 40)]  # 195 MB, all dropped at the end


for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the limits are glibc's")
def test_repeated_large_arrays_fault_their_pages_once():
    faults = {}
    for mode in ("keep", "default"):
        output = subprocess.run([sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, text=True, check=True)
        faults[mode] = int(output.stdout)
    assert faults["keep"] * 10 < faults["default"], faults
