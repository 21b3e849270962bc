"""The C++ kernels of `bnbook.training.deep`: compiled on first use, kept in the cache, loaded.

They are plain C++ without headers of torch: a compiler needs seconds for them, once for each
machine. One library serves every depth, width, batch, rate and seed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cpp")

_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
_VARIANTS = (("-fopenmp",), ("-Wno-unknown-pragmas",))  # without threads where there is no OpenMP
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32
ARGUMENTS = {
    "pack": [_POINTER],
    "forward": [_POINTER] * 5 + [_INT],
    "join": [_POINTER] * 4,
    "backward": [_POINTER] * 7 + [_INT],
    "pool": [_POINTER] * 3,
    "unpool": [_POINTER] * 4,
}
PREFIXES = ("half", "full")


class Layer(ctypes.Structure):
    """A convolution with the normalisation after it, as the source's ``Layer``."""

    _fields_ = (
        *((name, _INT) for name in ("n", "h", "w", "cin", "cout", "stride", "used")),
        *((name, ctypes.c_float) for name in ("eps", "momentum")),
        *(
            (name, _POINTER)
            for name in (
                "weight", "dweight", "bias", "dbias", "packed", "turned", "y", "gamma", "dgamma",
                "mean", "var", "mu", "root", "scale", "tilt", "level",
            )
        ),
    )  # fmt: skip


def compiler() -> str | None:
    """Return the path of a C++ compiler; None where there is none."""
    return next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)


def library() -> ctypes.CDLL | None:
    """Return the kernels; None, after a warning, where they cannot be compiled.

    Returns
    -------
    ctypes.CDLL or None
        None without a warning where there is no C++ compiler.
    """
    found = compiler()
    return None if found is None else _loaded(found)


@cache
def _loaded(found: str) -> ctypes.CDLL | None:
    path = _cache() / f"kernels-{_key(found)}.so"
    if not path.is_file() and (complaint := _compile(found, path)):
        warnings.warn(
            f"{found} could not compile {SOURCE.name}: residual networks train through autograd,"
            f" which is slower. It said: {complaint[:500]}",
            stacklevel=3,
        )
        return None
    loaded = ctypes.CDLL(str(path))
    for prefix in PREFIXES:
        for name, arguments in ARGUMENTS.items():
            function = getattr(loaded, f"{prefix}_{name}")
            function.argtypes, function.restype = arguments, None
    return loaded


def _compile(found: str, path: Path) -> str:
    """Compile aside and rename; return what the compiler said if it failed, else nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = ""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, path.name)
        for variant in _VARIANTS:
            command = [found, *_FLAGS, *variant, str(SOURCE), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                os.replace(made, path)
                return ""
            said = done.stderr.strip() or f"nothing (status {done.returncode})"
    return said


def _key(found: str) -> str:
    """Tell apart sources, compilers and processors, which may share one cache."""
    version = subprocess.run([found, "--version"], capture_output=True, check=False).stdout
    parts = (SOURCE.read_bytes(), " ".join(_FLAGS).encode(), version, _processor().encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """Return what ``-march=native`` depends on, where Linux tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    facts = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join((platform.machine(), *sorted(set(facts))))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bnbook")
