"""Obtaining a data set: downloaded or copied aside, checked, and only then put in place."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bnbook.datasets.catalogue import CIFAR_ARCHIVE, IDX_FILES, SHA256, SPECS, SPLITS, WAYS, spec_of
from bnbook.datasets.finding import Folder, find, home_of, status_of, within
from bnbook.errors import BnbookError


def get(name: str, folder: Folder | None = None) -> Path:
    """Download a data set from its official address, unless it is there whole.

    `name` is ``mnist``, ``fashion-mnist`` or ``cifar10``. The data goes to ``folder/<name>``;
    without `folder`, to the cache. The result is the folder that holds it. Anything else that stood
    there is kept beside it, as ``<name>.replaced-<time>``.

    Raises
    ------
    BnbookError
        If ``name`` is none of these, pooch is missing, the download fails, or what came is not
        the data set. Then the folder is as it was.
    """
    files = [f"{file}.gz" for split in SPLITS for file in IDX_FILES[split]]

    def download(stage: Path) -> None:
        try:
            import pooch
        except ImportError as error:
            raise OSError(f"downloading needs pooch: pip install pooch ({error})") from error
        for file in [CIFAR_ARCHIVE] if name == "cifar10" else files:
            url = SPECS[name].url + file
            try:
                pooch.retrieve(url, SHA256[f"{name}/{file}"], file, stage)
            except (OSError, ValueError) as error:
                raise ConnectionError(f"could not download {url}: {error}") from error

    return _install(name, folder, download)


def import_folder(name: str, source: Folder, folder: Folder | None = None) -> Path:
    """Check the files of a data set, then copy them to where `load` finds them.

    `name`, `folder` and the result are as for `get`. `source` is the folder of the files, or one
    with a folder ``<name>``; or CIFAR-10's binary archive.

    Raises
    ------
    BnbookError
        If ``name`` is not one of `get`'s, ``source`` does not hold the data whole and unaltered,
        or the copy fails. Then the folder is as it was.
    """
    found = [find(name, split, within(name, source)) for split in SPLITS]

    def copy(stage: Path) -> None:
        for file in dict.fromkeys(file for split in found for file in split.files):
            shutil.copyfile(file, stage / (CIFAR_ARCHIVE if file == Path(source) else file.name))

    return _install(name, folder, copy)


def _install(name: str, folder: Folder | None, fill: Callable[[Path], None]) -> Path:
    """Fill a new folder, check it, and only then put it where the data set belongs."""
    if package := spec_of(name).package:
        raise BnbookError(f"{name} is not files, it comes with {package}: pip install {package}")
    target = home_of(name, folder)
    if status_of(name, [target]).where:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as aside:
            stage = Path(aside, name)
            stage.mkdir()
            fill(stage)
            for split in SPLITS:
                find(name, split, within(name, stage))
            if target.exists():
                target.rename(target.with_name(f"{name}.replaced-{time.time_ns()}"))
            stage.rename(target)
    except OSError as error:
        untouched = f"No file in {target} was deleted or overwritten."
        raise BnbookError(f"{error}\n{untouched}\n{WAYS.format(name)}") from error
    return target
