"""Run the book's notebooks with papermill, each only when something that it depends on changed.

Each runs in a process of its own, so that an interrupt ends them at once and a kernel that dies
takes nothing else with it. A copy is replaced only by one that ran to its end.
"""

from __future__ import annotations

import ast
import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Collection, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import nbformat
from tqdm import tqdm

from bnbook import files
from bnbook.errors import BnbookError
from bnbook.evidence import records, sources

EXECUTED = Path("_build/executed/notebooks")
TIME_LIMIT: dict[str, int] = {"quick": 300}
"""Seconds that a cell may take, by profile; the other profiles set none."""
LAST_LINES = 12
ANSI = re.compile(r"\x1b\[[0-9;]*m")
_EXPERIMENT = re.compile(r"bnbook\.experiments\.(\w+)|experiments\.find\(\W(\w+)")


def notebooks(root: Path) -> list[Path]:
    """Return the book's notebooks, in order."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def run_notebooks(root: Path, profile: str, workers: int = 2) -> list[Path]:
    """Execute the notebooks whose inputs changed, with papermill."""
    parameters = {"profile": profile}
    keys, failures = dict[Path, str](), list[str]()
    keep_only(root / EXECUTED, [_executed(root, path) for path in notebooks(root)])
    for path in notebooks(root):
        try:
            keys[path] = _key(path, parameters)
        except BnbookError as error:
            failures.append(str(error))
    stale = [path for path, key in keys.items() if not is_current(_executed(root, path), key)]
    failures += _run(root, stale, keys, parameters, workers) if stale else []
    if failures:
        raise BnbookError("\n\n".join(failures))
    return stale


def _run(
    root: Path,
    stale: list[Path],
    keys: Mapping[Path, str],
    parameters: Mapping[str, Any],
    workers: int,
) -> list[str]:
    """Execute notebooks side by side; return what went wrong."""
    threads = max(1, records.cores() // min(workers, len(stale)))
    failures, limit = [], TIME_LIMIT.get(parameters["profile"])
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin_worker, (threads,)
    )
    bar = tqdm(total=len(stale), desc="notebooks", unit="nb", disable=not sys.stderr.isatty())
    try:
        futures = {pool.submit(_execute, root, path, parameters, limit): path for path in stale}
        for future in as_completed(futures):
            path = futures[future]
            bar.update()
            try:
                future.result()
            except BnbookError as error:
                failures.append(str(error))
            except BrokenProcessPool:
                failures.append(f"{path.relative_to(root)}: its process was killed; run it again.")
            else:
                stamp(_executed(root, path), keys[path])
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            child.kill()
        raise
    finally:
        bar.close()
        pool.shutdown(wait=False, cancel_futures=True)
    return failures


def _begin_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the build ends its workers itself
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def _executed(root: Path, path: Path) -> Path:
    return root / EXECUTED / path.name


def key_file(made: Path) -> Path:
    """Return the file beside what was made that holds its key."""
    return made.with_name(f".{made.name}.key")


def stamp(made: Path, key: str) -> None:
    """Note of which inputs something was made, and what it is."""
    files.write_bytes(key_file(made), _stamp(made, key))


def _stamp(made: Path, key: str) -> bytes:
    return f"{key} {content(made)}".encode()


def is_current(made: Path, key: str) -> bool:
    """Whether something was made of these inputs and is still what was made."""
    file = key_file(made)
    return made.exists() and file.is_file() and file.read_bytes() == _stamp(made, key)


def keep_only(folder: Path, made: Collection[Path]) -> None:
    """Delete what stands in a folder beside these files and their keys: nobody makes it any longer.

    A page that shows it would be built here and nowhere else.
    """
    kept = {*made, *map(key_file, made)}
    for path in set(folder.glob("*")) - kept:
        path.unlink()


def content(made: Path) -> str:
    """Digest of a file, or of all files of a folder with their names, be there none."""
    inside = [made] if made.is_file() else sorted(p for p in made.rglob("*") if p.is_file())
    sha = hashlib.sha256()
    for path in inside:
        sha.update(f"\0{path.relative_to(made)}\0".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()


def digest(facts: Any) -> str:
    """SHA-256 of facts as JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _key(path: Path, parameters: Mapping[str, Any]) -> str:
    """Digest of a notebook, its parameters, and what its code depends on."""
    root = path.parent.parent
    notebook = _read(path, path.relative_to(root))
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    return digest([path.read_text("utf-8"), dict(parameters), code_key(root, code)])


def code_key(root: Path, code: str) -> str:
    """Digest of code, of the source and the records that it uses, and of the lock.

    Records and ledger files count where the code names their experiment.
    """
    named = {name for pair in _EXPERIMENT.findall(code) for name in pair if name}
    used = [*(p for name in sorted(named) for p in sorted((root / "results" / name).glob("*")))]
    used += [root / "results/claims" / f"{name}.json" for name in sorted(named)]
    lock = root / "requirements.lock"
    return digest(
        [
            code,
            sources.imported_digest(code),
            lock.read_text("utf-8") if lock.is_file() else "",
            {str(each.relative_to(root)): content(each) for each in used if each.is_file()},
        ]
    )


def _read(path: Path, name: Path) -> Any:
    """Read a notebook; a file that is none is named."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # JSON, schema and decoding errors of several packages
        said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise BnbookError(
            f"{name} is no notebook that can be read ({said}). It was left as it is; a merge's"
            " conflict markers (<<<<<<<) or a cut file are the usual reasons."
        ) from error


def _execute(root: Path, path: Path, parameters: Mapping[str, Any], limit: int | None) -> None:
    """Execute one notebook to a temporary name, clean it, and move it into place."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    name = path.relative_to(root)
    _check_parameters(path, name, parameters)
    target = _executed(root, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".running-{os.getpid()}-{path.name}")
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
            execution_timeout=limit,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
        notebook = nbformat.read(aside, as_version=4)
    except PapermillExecutionError as error:
        lines = ANSI.sub("", "\n".join(error.traceback)).splitlines()[-LAST_LINES:]
        cell = _number(aside, error.cell_index + 1)  # papermill put its own cell at the top
        raise BnbookError(
            f"{name}, cell {cell} raised {error.ename}: {error.evalue}\n" + "\n".join(lines)
        ) from error
    except CellTimeoutError as error:
        cell = _running(aside)
        raise BnbookError(f"{name}, cell {cell} took more than {limit} s and was ended.") from error
    except (DeadKernelError, RuntimeError) as error:
        raise BnbookError(
            f"{name}, cell {_running(aside)}: the kernel died ({error}). The system may have ended"
            " it for want of memory; run the cell by itself, or fewer notebooks at a time."
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    _refuse_stderr(notebook, name)
    files.write_changed(target, _clean(notebook, parameters["profile"]).encode())


def _number(executed: Path, before: int) -> int:
    """Number of the cell after so many, in the notebook as written: without papermill's own."""
    cells = nbformat.read(executed, as_version=4).cells[:before]
    return sum(not _is_injected(cell) for cell in cells) + 1


def _running(executed: Path) -> int:
    """Number of the last cell that papermill began: only those have noted an exception or none."""
    cells = nbformat.read(executed, as_version=4).cells if executed.is_file() else []
    begun = [c.metadata.get("papermill", {}).get("exception") is not None for c in cells]
    last = max((at for at, began in enumerate(begun) if began), default=0)
    return sum(not _is_injected(cell) for cell in cells[:last]) + 1


def _is_injected(cell: Any) -> bool:
    tags = cell.metadata.get("tags", [])
    return any(tag.startswith(("papermill", "injected")) for tag in tags)


def _check_parameters(path: Path, name: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse a notebook without a parameters cell or with parameters unknown to it."""
    notebook = _read(path, name)
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise BnbookError(
            f"{name} must have one code cell tagged `parameters`, found {len(cells)}."
        )
    try:
        tree = ast.parse(cells[0].source)
    except SyntaxError as error:
        raise BnbookError(
            f"{name}: the cell tagged `parameters` must be plain Python, found line"
            f" {error.lineno}: {(error.text or '').strip()!r}."
        ) from error
    known = {name for node in tree.body for name in _assigned(node)}
    if unknown := sorted(set(parameters) - known):
        raise BnbookError(
            f"{name} does not know the parameter {', '.join(unknown)}; its parameters cell sets"
            f" {', '.join(sorted(known))}."
        )


def _assigned(node: ast.stmt) -> list[str]:
    """Names that a statement of the parameters cell sets, annotated or not."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


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
