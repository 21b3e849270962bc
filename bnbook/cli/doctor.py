"""The command ``bnbook doctor``."""

from __future__ import annotations

import os
from pathlib import Path

from bnbook import __version__
from bnbook.cli.console import out
from bnbook.cli.data import show
from bnbook.errors import BnbookError
from bnbook.evidence import records


def doctor() -> None:
    """Show versions, device and data found, and what to do about what is missing."""
    from bnbook import datasets
    from bnbook.book import pdf

    packages = (
        "torch", "numpy", "pandas", "pyarrow", "scipy", "matplotlib", "seaborn", "mlxtend",
        "pooch", "papermill", "jupyter-book",
    )  # fmt: skip
    found = records.environment("cpu")
    out.print(f"bnbook {__version__}, Python {found['versions']['python']}, {found['system']}")
    out.print(f"processor: {found['processor']}, {found['cores']} cores; device: {_device()}")
    out.print("packages: " + ", ".join(_package(name) for name in packages), soft_wrap=True)
    try:
        browser = pdf.chromium()
    except BnbookError as error:
        browser = str(error)
    out.print(f"browser for the tests and for print: {browser}")
    out.print(f"BNBOOK_DATA: {os.environ.get('BNBOOK_DATA', 'not set')}")
    show(datasets.available())
    drift = _drift(records.root() / "requirements.lock")
    out.print("versions differ from requirements.lock: " + (", ".join(drift) or "none"))


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu (torch sees no GPU)"


def _package(name: str) -> str:
    found = records.installed(name)
    return f"{name} {found}" if found else f"{name} missing (pip install {name})"


def _drift(lock: Path) -> list[str]:
    """Say which installed packages differ from the locked versions."""
    if not lock.is_file():
        return ["no requirements.lock here; run this in the project's folder"]
    pins = [line.split("==") for line in lock.read_text().splitlines() if "==" in line]
    said = []
    for name, pinned in pins:
        installed = records.released(name) or "missing"
        if installed != pinned:
            said.append(f"{name} {installed} (locked {pinned})")
    return said
