"""The tests that hang on arithmetic, as other processors would compute: `make matrix`.

Torch, oneDNN, MKL and OpenBLAS choose their code by the processor. Each can be told to take that of
an older one, so that a sum in another order, or without fused multiply-adds, is met here before a
reader meets it. Every setting runs on one thread, the oldest and the newest on two as well.
"""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from bnbook.evidence import records

SETTINGS = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Nehalem",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Haswell",
    },
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "ALL"},
}  # fmt: skip
"""What torch calls the processor's capability -> environment, from the oldest to the newest."""
TESTS = (
    "tests/formulas", "tests/layers", "tests/conformance/test_conformance.py", "tests/training",
    "tests/networks", "tests/probes", "tests/setups",
    *(f"tests/experiments/test_{name}.py" for name in (
        "ioffe_alg1", "ioffe_alg2", "ioffe_outside", "ioffe_scale", "ioffe_whitening", "jacobians",
    )),
)  # fmt: skip
"""Those that compute; what reads tables, draws or keeps records is the same on every processor."""


def available():
    """Names of the settings that this processor can carry out; the oldest alone where none is."""
    own = torch.backends.cpu.get_cpu_capability().lower()
    names = list(SETTINGS)
    return names[: names.index(own) + 1] if own in names else names[:1]


def environment(name, threads):
    """The environment of a process that computes in a setting; its threads wait without work."""
    return {
        **os.environ, **SETTINGS[name], "BNBOOK_TEST_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip


def run(setting):
    """Run the tests in a setting; return how long it took and what pytest said."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    started = time.monotonic()
    done = subprocess.run(
        [*command, *(sys.argv[1:] or TESTS)], env=environment(*setting),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, time.monotonic() - started, done.stdout + done.stderr


def settings():
    """Return the settings and threads; the newest on one thread is `make test` itself."""
    names = available()
    on_two = [(name, 2) for name in dict.fromkeys((names[-1], names[0]))]
    return on_two + [(name, 1) for name in names[:-1]]


def main():
    """Run every setting, one a core at a time, and exit with 1 if any failed.

    Two threads of small tensors hardly fill two cores, so those settings stand side by side too.
    """
    failed, asked = False, settings()
    with ThreadPoolExecutor(records.cores()) as pool:
        for (name, threads), (code, seconds, said) in zip(asked, pool.map(run, asked), strict=True):
            summary = re.findall(r"^.*\b(?:passed|failed|error).*$", said, re.MULTILINE)
            line = f"{name}, {threads} thread(s), {seconds:.0f} s: {(summary or [said])[-1]}"
            print(line, flush=True)
            if code:
                failed = True
                print(said)
    sys.exit(failed)


if __name__ == "__main__":
    main()
