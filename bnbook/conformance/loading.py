"""Finding a reader's layer by MODULE:CLASS or PATH.py:CLASS."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from bnbook.conformance.cases import FEATURES, Make, first_line
from bnbook.errors import BnbookError


def load(target: str) -> Make:
    """Find a reader's layer.

    Parameters
    ----------
    target : str
        "MODULE:CLASS", the module found from here or installed, or "PATH.py:CLASS".

    Returns
    -------
    callable
        num_features -> layer.

    Raises
    ------
    BnbookError
        When there is no such file, module or class, when importing it fails, or when
        ``CLASS(4)`` is not a module of torch.
    """
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise BnbookError(
            "the layer must be given as MODULE:CLASS or PATH.py:CLASS, such as torch.nn:BatchNorm1d"
            f" or mine.py:BatchNorm, found {target!r}."
        )
    found = _member(imported(place), place, name)
    try:
        layer = found(FEATURES)
    except (Exception, SystemExit) as error:
        raise BnbookError(
            f"{target} must be constructed as {name}(num_features); {name}({FEATURES}) raised"
            f" {first_line(error)}"
        ) from error
    if not isinstance(layer, nn.Module):
        raise BnbookError(
            f"{target} must make a torch.nn.Module, {name}({FEATURES}) made a"
            f" {type(layer).__name__}."
        )
    make: Make = found
    return make


def _member(module: ModuleType, place: str, name: str) -> Any:
    found = getattr(module, name, None)
    if callable(found):
        return found
    here = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, nn.Module)]
    some = ", ".join(sorted(here)[:8]) or "none"
    what = "no such name" if found is None else f"a {type(found).__name__}"
    raise BnbookError(f"{place} must have a class {name}, found {what}. Its layers: {some}.")


def imported(place: str) -> ModuleType:
    """Import a module by its name, from here or installed, or a file by its path.

    Raises
    ------
    BnbookError
        When there is no such file or module, or importing it fails.
    """
    path = Path(place)
    if place.endswith(".py") and not path.is_file():
        raise BnbookError(f"{place} must be a Python file, found none at {path.resolve()}.")
    folder = path.resolve().parent if place.endswith(".py") else Path.cwd()
    try:
        with _importable(folder):
            return _execute(path) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise BnbookError(f"{place} could not be imported: {first_line(error)}") from error


def _execute(path: Path) -> ModuleType:
    name = f"bnbook_conformance_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no loader for {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
