"""What surrounds the book: workflows, licences, citation, lock and the doors to it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import bnbook

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
PINNED = re.compile(r"uses: [\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
LOCKED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;=*]+)$")

# Put together from parts, so that this file does not contain what it forbids.
FORBIDDEN = {
    "a package registry's host": re.compile(
        "|".join(
            re.escape(name + "." + end)
            for name, end in [
                ("pypi", "org"),
                ("python" + "hosted", "org"),
                ("download.py" + "torch", "org"),
                ("ana" + "conda", "org"),
                ("ana" + "conda", "com"),
                ("npm" + "js", "org"),
            ]
        ).encode()
    ),
    "a home folder": re.compile(
        rb"(?<![\w.~-])(?:/" + rb"home/|/" + rb"root/|/" + rb"Users/|[A-Z]:\\{1,2}" + rb"Users)"
    ),
}


def load(path: Path) -> dict[Any, Any]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict), path
    return document


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found = load(path)["jobs"]
    assert found, path
    return found


def commands(path: Path) -> Iterator[list[str]]:
    """Every simple command of a workflow's `run` steps, as words."""
    for job in jobs(path).values():
        for step in job["steps"]:
            for line in step.get("run", "").splitlines():
                for command in re.split(r"\|\||&&|[|;]", line):
                    if command.split()[:1] in (["make"], [".venv/bin/bnbook"]):
                        yield shlex.split(command)


def called(path: Path, program: str) -> list[str]:
    """What a workflow asks of a program: targets of make, verbs of the command line."""
    words = [words for words in commands(path) if Path(words[0]).name == program]
    return [w for command in words for w in command[1:] if "=" not in w and not w.startswith("-")]


def make_targets(text: str) -> set[str]:
    return set(re.findall(r"^([A-Za-z][\w-]*)\s*:(?!=)", text, flags=re.MULTILINE))


def unpinned(text: str) -> list[str]:
    """The lines of a workflow that use an action by anything but a full commit and its version."""
    uses = [line.strip().removeprefix("- ") for line in text.splitlines()]
    return [line for line in uses if line.startswith("uses:") and not PINNED.fullmatch(line)]


def forbidden_in(content: bytes, root: Path = ROOT) -> list[str]:
    """What a file mentions that holds on one machine only, or names where packages come from."""
    found = [what for what, pattern in FORBIDDEN.items() if pattern.search(content)]
    here = re.compile(rb"(?<![\w.~-])" + re.escape(str(root)).encode() + rb"(?![\w-])")
    if len(root.parts) > 2 and here.search(content):
        found.append("where this checkout lies")
    return found


def locked(text: str) -> dict[str, Version]:
    """Name and version of every line of a lock; anything but `name==version` is an error."""
    versions: dict[str, Version] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if line:
            match = LOCKED.fullmatch(line)
            assert match, f"requirements.lock line {number} is not name==version: {raw!r}"
            name = canonicalize_name(match["name"])
            assert name not in versions, f"requirements.lock line {number} pins {name} twice"
            versions[name] = Version(match["version"])
    return versions


def asked_for() -> list[Requirement]:
    """All that pyproject.toml asks for, itself left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"]]
    for extra in ("data", "book", "test", "check", "bench", "cluster"):
        lines += extras[extra]
    return [r for line in lines if (r := Requirement(line)).name != "bnbook"]


def repository_files() -> list[Path]:
    """Tracked files, and those that would be tracked if they were added now."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout: which files are tracked cannot be told otherwise")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    paths = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).parent / name
    tool = str(beside) if beside.exists() else shutil.which(name)
    if tool is None:
        pytest.skip(f"{name} is not installed; `make check` runs it, the extra `check` has it")
    return subprocess.run(
        [tool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_workflows_are_there():
    assert [path.stem for path in WORKFLOWS] == ["book", "canary", "check", "notebooks"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflow:
    def test_make_targets_exist(self, path):
        targets = make_targets((ROOT / "Makefile").read_text(encoding="utf-8"))
        wanted = called(path, "make")
        assert wanted, f"{path.name} calls no make target"
        assert set(wanted) <= targets

    def test_permissions_are_minimal(self, path):
        """Nothing is granted to all jobs but reading; a job that writes says which one thing."""
        top = load(path)["permissions"]
        assert top in ({}, {"contents": "read"})
        may_write = {"deploy": {"pages", "id-token"}, "report": {"issues"}}
        for name, job in jobs(path).items():
            granted = job.get("permissions", top)
            writes = {scope for scope, level in granted.items() if level != "read"}
            assert writes == may_write.get(name, set()), name

    def test_jobs_that_write_install_nothing(self, path):
        """What can publish or comment runs neither the project's code nor its dependencies."""
        for name, job in jobs(path).items():
            if "write" in job.get("permissions", {}).values():
                text = yaml.safe_dump(job["steps"])
                assert "checkout" not in text, name
                assert "pip" not in text, name
                assert "make" not in text, name

    def test_every_job_ends(self, path):
        for name, job in jobs(path).items():
            assert 1 <= job["timeout-minutes"] <= 60, name

    def test_runs_do_not_pile_up(self, path):
        assert load(path)["concurrency"]["group"]

    def test_actions_are_pinned(self, path):
        text = path.read_text(encoding="utf-8")
        assert unpinned(text) == []

    def test_checkouts_keep_no_credentials(self, path):
        for name, job in jobs(path).items():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False, name


@pytest.mark.parametrize(
    ("workflow", "targets", "verbs"),
    [
        ("check", ["check", "test", "matrix"], []),
        ("notebooks", ["book"], ["check"]),
        ("book", ["clean", "book", "pdf"], ["check"]),
        ("canary", ["check", "book", "test"], []),
    ],
)
def test_a_workflow_calls_what_a_laptop_calls(workflow, targets, verbs):
    path = GITHUB / "workflows" / f"{workflow}.yml"
    assert called(path, "make") == targets
    assert called(path, "bnbook") == verbs


def test_an_action_has_one_version_everywhere():
    uses = {
        line.partition("uses: ")[2]
        for path in WORKFLOWS
        for line in path.read_text(encoding="utf-8").splitlines()
        if "uses: " in line
    }
    names = [use.partition("@")[0] for use in uses]
    assert len(names) == len(set(names)), sorted(uses)


def test_tests_that_workflows_name_exist():
    """Pytest fails when it is given a folder without tests."""
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    named = re.findall(r"pytest (tests/\S+)", text)
    assert named == ["tests/book"]
    assert list((ROOT / "tests" / "book").glob("test_*.py"))


def test_the_canary_keeps_make_from_installing_the_lock():
    stamp = ".venv/.installed"
    assert re.search(rf"^{re.escape(stamp)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    steps = jobs(GITHUB / "workflows" / "canary.yml")["latest"]["steps"]
    install = next(step["run"] for step in steps if "pip install" in step.get("run", ""))
    assert install.rstrip().endswith(f"touch {stamp}")
    assert "requirements.lock" not in install


def test_verbs_that_workflows_and_forms_name_exist():
    forms = "".join(path.read_text() for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
    named = set(re.findall(r"`bnbook (\w+)", forms))
    named.update(verb for path in WORKFLOWS for verb in called(path, "bnbook"))
    assert named == {"check", "compare", "doctor"}
    done = run_tool("bnbook", "--help")
    assert done.returncode == 0, done.stdout + done.stderr
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)  # colours are forced on GitHub's runners
    listed = set(re.findall(r"^\W*([a-z]+)\b", plain, flags=re.MULTILINE))
    assert named <= listed, done.stdout


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.github-workflows", ".github/workflows/*.yml"),
        ("custom.github-workflows-require-timeout", ".github/workflows/*.yml"),
        ("vendor.dependabot", ".github/dependabot.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_schema(schema, pattern):
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
    assert files
    done = run_tool(
        "check-jsonschema", "--builtin-schema", schema, "--default-filetype", "yaml", *files
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_nothing():
    done = run_tool("zizmor", "--offline", "--quiet", "--no-config", "--pedantic", ".github")
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_would_find_something(tmp_path):
    """The audit is not silent because it looked at nothing."""
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    text = (GITHUB / "workflows" / "check.yml").read_text(encoding="utf-8")
    (folder / "check.yml").write_text(text.replace("persist-credentials: false", "fetch-depth: 1"))
    done = run_tool("zizmor", "--offline", "--quiet", "--no-config", str(tmp_path))
    assert done.returncode != 0
    assert "artipacked" in done.stdout


def test_citation():
    citation = load(ROOT / "CITATION.cff")
    assert citation["version"] == bnbook.__version__
    assert set(citation["license"]) == {"MIT", "CC-BY-4.0"}
    references = {r["url"].rpartition("/")[2]: r for r in citation["references"]}
    assert {key: r["year"] for key, r in references.items()} == {
        "1502.03167": 2015,
        "1806.02375": 2018,
    }
    for key, reference in references.items():
        assert reference["identifiers"][0]["value"] == f"arXiv:{key}"


def test_changelog_has_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{bnbook.__version__}]" in text


def test_licences():
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    prose = (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")
    assert "https://creativecommons.org/licenses/by/4.0/" in prose
    for number in range(1, 9):
        assert f"\nSection {number} -- " in prose, f"the legal code's section {number}"


def test_pyproject_ranges():
    wanted = {r.name: r.specifier for r in asked_for()}
    assert wanted["jupyter-book"] == Requirement("jupyter-book>=1.0.4,<2").specifier
    assert wanted["torch"] == Requirement("torch>=2.6").specifier


def test_lock_is_exact():
    assert locked((ROOT / "requirements.lock").read_text())["torch"] == Version("2.13.0")


def test_lock_satisfies_pyproject():
    versions = locked((ROOT / "requirements.lock").read_text())
    for requirement in asked_for():
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{requirement} is not in requirements.lock"
        assert requirement.specifier.contains(versions[name]), f"{requirement}: {versions[name]}"


OLDEST_PYTHON = "3.11.2"
"""Debian 12's, on which the lock has to install."""


def test_the_lock_installs_on_the_oldest_python_promised():
    too_new = {}
    for name in locked((ROOT / "requirements.lock").read_text()):
        try:
            wants = metadata(name).get("Requires-Python")
        except PackageNotFoundError:
            continue  # not installed here: another system's
        if wants and OLDEST_PYTHON not in SpecifierSet(wants):
            too_new[name] = wants
    assert too_new == {}


def test_environment_uses_the_lock():
    environment = load(ROOT / "environment.yml")
    assert environment["name"] == "bnbook"
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert conda == ["python=3.11", "pip"]
    assert pip == ["-r requirements.lock", "-e ."]


def test_gitignore_covers_what_is_built():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"_build/", ".venv/"} <= set(ignored)


def test_no_file_depends_on_one_machine():
    found = {
        str(path.relative_to(ROOT)): what
        for path in repository_files()
        if (what := forbidden_in(path.read_bytes()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("--index-url https://py" + "pi.org/simple", ["a package registry's host"]),
        ("https://download.py" + "torch.org/whl/cpu", ["a package registry's host"]),
        ("open('/" + "home/ada/mnist')", ["a home folder"]),
        ('"/' + 'root/.cache"', ["a home folder"]),
        ("C:\\" + "Users\\ada", ["a home folder"]),
        ("/srv/ada/book/results", ["where this checkout lies"]),
        ("https://example.org/" + "home/page and ~/cache", []),
        ("https://example.org/srv/ada/book", []),
        ("/srv/ada/bookshelf", []),
    ],
)
def test_the_search_for_such_files_can_fail(content, expected):
    assert forbidden_in(content.encode(), root=Path("/srv/ada/book")) == expected


@pytest.mark.parametrize(
    "line",
    [
        "- uses: actions/checkout@v7",
        "- uses: actions/checkout@main # v7.0.1",
        "  uses: actions/checkout@" + 40 * "a",
        "- uses: actions/checkout@" + 39 * "a" + " # v7.0.1",
    ],
)
def test_a_loose_pin_is_seen(line):
    assert unpinned(line) == [line.strip().removeprefix("- ")]


@pytest.mark.parametrize("line", ["numpy>=2.0", "numpy", "numpy==2.*", "-e .", "a==1\nA==2"])
def test_a_loose_lock_is_seen(line):
    with pytest.raises(AssertionError, match=r"requirements\.lock line \d"):
        locked(line)


def test_make_targets_are_read():
    text = "A := 1\nhelp: ## list\nx-y: help\n\tcmd: not\n.PHONY: help\n.venv/.installed: a\n"
    assert make_targets(text) == {"help", "x-y"}
