"""Build the book: run notebooks, draw figures, make pages; each only when its inputs changed.

A step leaves a key (a digest of all its inputs) behind when it succeeds and only then, so that what
failed is tried again until it is mended.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import nbformat
from tqdm import tqdm

from bnbook import experiments, files
from bnbook.errors import BnbookError
from bnbook.evidence import ledger, records, sources
from bnbook.plots import style

EXECUTED = Path("_build/executed/notebooks")
FIGURES = Path("_build/figures")
HTML = Path("_build/html")
PICTURE = "ioffe_fig1-accuracy.svg"
"""The README's picture."""
DRAWN = {"bench": "bnbook.bench.figures"}
"""Records that are no experiment's -> module that draws them."""
LAST_LINES = 12
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def notebooks(root: Path) -> list[Path]:
    """Return the book's notebooks, in order."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def run_notebooks(root: Path, profile: str, workers: int = 2) -> list[Path]:
    """Execute the notebooks whose inputs changed, with papermill.

    Parameters
    ----------
    root : pathlib.Path
        The project's folder.
    profile : str
        Passed to every notebook.
    workers : int
        Notebooks at a time; the cores are shared out among them.

    Returns
    -------
    list of pathlib.Path
        The notebooks that were executed.

    Raises
    ------
    BnbookError
        When cells raise, write to stderr, or a notebook lacks a parameter; the error holds the
        notebook, the cell and the last lines of each. Notebooks that succeeded are kept.
    """
    parameters = {"profile": profile}
    keys = {path: _notebook_key(path, parameters) for path in notebooks(root)}
    stale = [path for path, key in keys.items() if not _is_current(_executed(root, path), key)]
    if not stale:
        return []
    threads = max(1, records.cores() // min(workers, len(stale)))
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    failures = []
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(
            total=len(stale), desc="notebooks", unit="nb", disable=not sys.stderr.isatty()
        ) as progress,
    ):
        futures = {pool.submit(_execute, root, path, parameters): path for path in stale}
        for future in as_completed(futures):
            path = futures[future]
            progress.update()
            if error := future.exception():
                if not isinstance(error, BnbookError):
                    raise error
                failures.append(str(error))
            else:
                _key_file(_executed(root, path)).write_text(keys[path])
    if failures:
        raise BnbookError("\n\n".join(failures))
    return stale


def _executed(root: Path, path: Path) -> Path:
    return root / EXECUTED / path.name


def _key_file(made: Path) -> Path:
    return made.with_name(f".{made.name}.key")


def _is_current(made: Path, key: str) -> bool:
    return made.exists() and _has_key(made, key)


def _has_key(made: Path, key: str) -> bool:
    file = _key_file(made)
    return file.is_file() and file.read_text() == key


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _notebook_key(path: Path, parameters: Mapping[str, Any]) -> str:
    """Digest of a notebook, its parameters, the source it imports and the locked versions."""
    notebook = nbformat.read(path, as_version=4)
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    lock = path.parent.parent / "requirements.lock"
    return _digest(
        [
            path.read_text("utf-8"),
            dict(parameters),
            sources.imported_digest(code),
            lock.read_text("utf-8") if lock.is_file() else "",
            _digests(path.parent.parent, ["results/*/*.parquet"]),
        ]
    )


def _execute(root: Path, path: Path, parameters: Mapping[str, Any]) -> None:
    """Execute one notebook to a temporary name, clean it, and move it into place."""
    import papermill
    from jupyter_core.utils import ensure_event_loop
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    name = path.relative_to(root)
    _check_parameters(path, name, parameters)
    target = _executed(root, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".running-{path.name}")
    try:
        papermill.execute_notebook(
            str(path),
            str(aside),
            parameters=dict(parameters),
            kernel_name="python3",
            cwd=str(root),
            progress_bar=False,
            log_output=False,
            autosave_cell_every=0,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
        notebook = nbformat.read(aside, as_version=4)
    except PapermillExecutionError as error:
        lines = ANSI.sub("", "\n".join(error.traceback)).splitlines()[-LAST_LINES:]
        cell = _cell_number(aside, error.cell_index)
        raise BnbookError(
            f"{name}, cell {cell} raised {error.ename}: {error.evalue}\n" + "\n".join(lines)
        ) from error
    finally:
        aside.unlink(missing_ok=True)
        ensure_event_loop().close()  # this thread's, which the kernel's client leaves open
    _refuse_stderr(notebook, name)
    files.write_changed(target, _clean(notebook, parameters["profile"]).encode())


def _cell_number(executed: Path, index: int) -> int:
    """Number of a cell in the notebook as written: without the cells that papermill put in."""
    cells = nbformat.read(executed, as_version=4).cells[:index]
    return sum(not _is_injected(cell) for cell in cells) + 1


def _is_injected(cell: Any) -> bool:
    tags = cell.metadata.get("tags", [])
    return any(tag.startswith(("papermill", "injected")) for tag in tags)


def _check_parameters(path: Path, name: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse a notebook without a parameters cell or with parameters unknown to it."""
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise BnbookError(
            f"{name} must have one code cell tagged `parameters`, found {len(cells)}."
        )
    tree = ast.parse(cells[0].source)
    known = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if unknown := sorted(set(parameters) - known):
        raise BnbookError(
            f"{name} does not know the parameter {', '.join(unknown)}; its parameters cell sets"
            f" {', '.join(sorted(known))}."
        )


def _refuse_stderr(notebook: Any, name: Path) -> None:
    written = [cell for cell in notebook.cells if not _is_injected(cell)]
    for number, cell in enumerate(written, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                lines = "\n".join(output.text.splitlines()[-LAST_LINES:])
                raise BnbookError(f"{name}, cell {number} wrote to stderr:\n{lines}")


def _clean(notebook: Any, profile: str) -> str:
    """Drop what differs between equal runs; the profile stays, for the page's banner."""
    notebook.cells = [cell for cell in notebook.cells if not _is_injected(cell)]
    for number, cell in enumerate(notebook.cells):
        for field in ("papermill", "execution"):
            cell.metadata.pop(field, None)
        cell["id"] = f"cell-{number}"
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace('"quick"', f'"{profile}"')
    notebook.metadata.pop("papermill", None)
    notebook.metadata["bnbook"] = {"profile": profile}
    return str(nbformat.writes(notebook, version=4))


def draw_figures(root: Path) -> list[Path]:
    """Draw the figures of every ledger file's best record, where record or code changed.

    Parameters
    ----------
    root : pathlib.Path
        The project's folder.

    Returns
    -------
    list of pathlib.Path
        The files that changed.
    """
    changed = []
    for name, content in ledger.read(root / "results").items():
        profile = ledger.best_profile(content)
        module = _drawing(name)
        if module is None:
            continue
        stamp = root / FIGURES / name
        digest = content["profiles"][profile]["record"]["digest"]
        key = _digest([digest, sources.source_digest(module.__name__)])
        paths = {n: root / FIGURES / f"{name}-{n}.svg" for n in module.FIGURES}
        if _has_key(stamp, key) and all(path.is_file() for path in paths.values()):
            continue
        table = records.read(records.path(root / "results", name, profile)).table
        for figure, path in paths.items():
            if style.save(module.FIGURES[figure](table), path, digest):
                changed.append(path)
        _key_file(stamp).write_text(key)
    return changed


def _drawing(name: str) -> Any:
    """Return the module whose FIGURES draw a record: an experiment, or one of `DRAWN`."""
    if name in experiments.names():
        return experiments.find(name)
    return importlib.import_module(DRAWN[name]) if name in DRAWN else None


def make_pages(root: Path) -> bool:
    """Build the HTML with Jupyter Book; warnings are errors.

    Parameters
    ----------
    root : pathlib.Path
        The project's folder.

    Returns
    -------
    bool
        Whether anything had to be built.

    Raises
    ------
    BnbookError
        With the warnings, when there are any. The next call tries again.
    """
    inputs = (
        "_config.yml", "_toc.yml", "*.md", "book/**/*", "notebooks/*.ipynb", "results/claims/*",
        f"{EXECUTED}/*.ipynb", f"{FIGURES}/*.svg", "bnbook/book/pages/**/*",
        "bnbook/evidence/ledger.py", "bnbook/evidence/claims.py", "bnbook/evidence/timings.py",
        "requirements.lock",
    )  # fmt: skip
    key = _digest(_digests(root, inputs))
    made = root / HTML
    if _is_current(made, key):
        return False
    _key_file(made).unlink(missing_ok=True)
    code = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", code, "build", ".", "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode or not (made / "index.html").is_file():
        said = ANSI.sub("", done.stdout + done.stderr).splitlines()
        telling = [s for s in said if re.search(r"WARNING|ERROR|^\w*(Error|Exception): ", s)]
        raise BnbookError(
            "the pages could not be built:\n" + "\n".join(telling or said[-LAST_LINES:])
        )
    _key_file(made).write_text(key)
    return True


def _digests(root: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Digest of every file that matches, by path relative to the root."""
    files = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if "__pycache__" not in path.parts
    }
