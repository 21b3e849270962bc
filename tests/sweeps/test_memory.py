"""Memory that a worker keeps, by the page faults of taking it again."""

import subprocess
import sys

import pytest

TAKEN = """
import ctypes, resource, sys
from bnbook.sweeps import memory
if sys.argv[1] == "kept" and not memory.keep_freed():
    sys.exit("no glibc")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
    ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
)
def step():
    blocks = [libc.malloc(2**24) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 2**24)
    for block in blocks:
        libc.free(block)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    """Page faults of a second step that takes 8 blocks of 16 MiB, as the first one did."""
    done = subprocess.run(
        [sys.executable, "-c", TAKEN, how], capture_output=True, text=True, check=False
    )
    if "no glibc" in done.stderr:
        pytest.skip("no glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_what_a_step_frees_serves_the_next_without_faults():
    # 128 MiB are 32,768 pages of 4 KiB, or 64 of 2 MiB where the system deals in those.
    assert 10 * (faults("kept") + 1) < faults("given back")
