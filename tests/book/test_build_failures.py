"""The build fails when it should, says where, and keeps failing until it is mended.

A small project in a folder of its own: one notebook, one page that cites a claim, one figure.
"""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest

from bnbook.book import build, judging, notebooks
from bnbook.errors import BnbookError
from bnbook.evidence import records
from tests.book.test_judging import FACTS
from tests.experiments.test_ioffe_fig1 import made_up

GOOD = "total = 1 + 1\nprint(total)"
PAGE = "# A page\n\nAbout {claim}`ioffe.fig1a.speed value` times as fast. See {cite:p}`a`.\n"
CONFIG = """
title: A small book
author: us
execute: {execute_notebooks: "off"}
exclude_patterns: [_build, results]
bibtex_bibfiles: [references.bib]
sphinx:
  extra_extensions: [bnbook.book.pages]
"""


def write_notebook(root, source=GOOD, parameters='profile = "quick"', name="11-it"):
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell("# Run it"), tagged, nbformat.v4.new_code_cell(source)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["kernelspec"] = kernel
    nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def project(tmp_path):
    for folder in ("notebooks", "book"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_config.yml").write_text(CONFIG)
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n"
        "- file: notebooks/11-it\n- file: book/ledger\n- file: book/references\n"
    )
    (tmp_path / "index.md").write_text(PAGE)
    (tmp_path / "book" / "ledger.md").write_text("# Ledger\n\n```{ledger}\n```\n")
    (tmp_path / "book" / "references.md").write_text(
        "# References\n\n```{bibliography}\n:all:\n```\n"
    )
    (tmp_path / "references.bib").write_text("@misc{a, author={A, B}, title={T}, year={2000}}\n")
    write_notebook(tmp_path)
    records.write(records.path(tmp_path / "results", "ioffe_fig1", "quick"), made_up(), FACTS)
    judging.rewrite_ledger(tmp_path / "results")
    return tmp_path


def fails(call, *says):
    """The call fails now and again, with the same words."""
    for _ in range(2):
        with pytest.raises(BnbookError) as error:
            call()
        for text in says:
            assert text in str(error.value), str(error.value)


@pytest.mark.slow
class TestNotebooks:
    def run(self, root):
        return notebooks.run_notebooks(root, "quick")

    def test_runs_once_and_again_only_when_it_changed(self, project):
        path = project / "notebooks" / "11-it.ipynb"
        assert self.run(project) == [path]
        executed = project / build.EXECUTED / path.name
        made = nbformat.read(executed, as_version=4)
        assert made.cells[-1].outputs[0].text == "2\n"
        assert made.metadata["bnbook"] == {"profile": "quick"}
        write_notebook(project, "print(3)", name="12-other")
        assert self.run(project) == [project / "notebooks" / "12-other.ipynb"]
        assert self.run(project) == []
        before = executed.stat().st_mtime_ns
        write_notebook(project, GOOD + "\n# a comment")
        assert self.run(project) == [path]
        assert executed.stat().st_mtime_ns > before

    def test_a_failing_cell(self, project):
        write_notebook(project, "numbers = []\nnumbers[3]")
        fails(lambda: self.run(project), "11-it.ipynb, cell 3 raised IndexError", "numbers[3]")
        assert not (project / build.EXECUTED / "11-it.ipynb").exists()
        write_notebook(project)
        assert len(self.run(project)) == 1

    def test_a_failure_leaves_the_last_good_copy(self, project):
        self.run(project)
        good = (project / build.EXECUTED / "11-it.ipynb").read_bytes()
        write_notebook(project, "1 / 0")
        fails(lambda: self.run(project), "cell 3 raised ZeroDivisionError")
        assert (project / build.EXECUTED / "11-it.ipynb").read_bytes() == good

    def test_a_warning_on_stderr(self, project):
        write_notebook(project, "import warnings\nwarnings.warn('careful')")
        fails(lambda: self.run(project), "11-it.ipynb, cell 3 wrote to stderr", "careful")

    def test_unknown_and_missing_parameters(self, project):
        write_notebook(project, parameters="seed = 0")
        fails(lambda: self.run(project), "does not know the parameter profile", "sets seed")
        path = project / "notebooks" / "11-it.ipynb"
        path.write_text(path.read_text().replace('"parameters"', '"other"'))
        fails(lambda: self.run(project), "one code cell tagged `parameters`, found 0")

    def test_an_annotated_parameter_is_one_and_a_magic_is_none(self, project):
        write_notebook(project, parameters='profile: str = "quick"')
        assert len(self.run(project)) == 1
        write_notebook(project, parameters="%matplotlib inline")
        fails(lambda: self.run(project), "11-it.ipynb", "plain Python", "%matplotlib inline")

    def test_cells_after_the_injected_one_are_counted_as_written(self, project):
        write_notebook(project, "1 / 0")
        path = project / "notebooks" / "11-it.ipynb"
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.insert(2, nbformat.v4.new_code_cell("2 + 2"))
        nbformat.write(notebook, path)
        fails(lambda: self.run(project), "11-it.ipynb, cell 4 raised ZeroDivisionError")

    def test_what_is_no_notebook_is_named_and_the_others_run(self, project):
        bad = project / "notebooks" / "12-bad.ipynb"
        bad.write_text("<<<<<<< HEAD\n{}\n=======\n")
        fails(lambda: self.run(project), "12-bad.ipynb is no notebook", "conflict markers")
        assert (project / build.EXECUTED / "11-it.ipynb").exists()

    def test_a_kernel_that_dies(self, project):
        write_notebook(project, "import os\nos._exit(1)")
        fails(lambda: self.run(project), "11-it.ipynb, cell 3: the kernel died")

    def test_an_endless_cell(self, project, monkeypatch):
        monkeypatch.setattr(notebooks, "TIME_LIMIT", {"quick": 2})
        write_notebook(project, "while True:\n    pass")
        with pytest.raises(BnbookError, match=r"11-it.ipynb, cell 3 took more than 2 s"):
            self.run(project)

    def test_an_output_that_was_altered_or_deleted_is_made_again(self, project):
        self.run(project)
        executed = project / build.EXECUTED / "11-it.ipynb"
        before = executed.read_bytes()
        executed.write_text("{}")
        assert len(self.run(project)) == 1
        assert executed.read_bytes() == before
        executed.unlink()
        assert len(self.run(project)) == 1

    def test_only_the_records_of_its_own_experiments_run_it_again(self, project):
        write_notebook(project, "from bnbook.experiments.ioffe_fig1 import claims\nclaims.claims;")
        self.run(project)
        records.write(records.path(project / "results", "other", "quick"), made_up(), FACTS)
        assert self.run(project) == []
        changed = made_up(gap=0.2)
        records.write(records.path(project / "results", "ioffe_fig1", "quick"), changed, FACTS)
        assert len(self.run(project)) == 1

    def test_an_interrupt_ends_it_within_seconds(self, project):
        write_notebook(project, "import time\ntime.sleep(100)")
        code = "import sys; sys.argv = ['bnbook', 'build']; from bnbook.cli import main; main()"
        started = subprocess.Popen(
            [sys.executable, "-c", code], cwd=project, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        aside = project / build.EXECUTED
        while not list(aside.glob(".running-*")) and started.poll() is None:
            time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        assert "Notebooks that had ended are kept" in started.communicate(timeout=60)[1]
        assert started.returncode == 130


@pytest.mark.slow
class TestPages:
    @pytest.fixture(autouse=True)
    def _executed(self, project):
        notebooks.run_notebooks(project, "quick")
        build.draw_figures(project)

    def test_builds_once_and_again_only_when_it_changed(self, project):
        assert build.make_pages(project)
        html = (project / build.HTML / "index.html").read_text()
        assert "4.0×" in html
        assert not build.make_pages(project)
        (project / "index.md").write_text(PAGE + "\nMore.\n")
        assert build.make_pages(project)
        assert "More." in (project / build.HTML / "index.html").read_text()

    @pytest.mark.parametrize(
        ("addition", "says"),
        [
            ("{claim}`ioffe.fig1a.sped`", "ioffe.fig1a.sped"),
            ("```{figure} _build/figures/none.svg\n:alt: none\n\nA caption.\n```", "none.svg"),
            ("{ref}`nowhere`", "nowhere"),
            ("{cite:p}`nobody`", "nobody"),
            ("[a page](missing.md)", "missing.md"),
        ],
        ids=["unknown claim", "missing figure", "dangling reference", "citation", "link"],
    )
    def test_what_is_wrong_is_named_until_it_is_mended(self, project, addition, says):
        build.make_pages(project)
        (project / "index.md").write_text(f"{PAGE}\n{addition}\n")
        fails(lambda: build.make_pages(project), "index.md", says)
        (project / "index.md").write_text(PAGE)
        assert build.make_pages(project)

    def test_a_changed_title_reaches_the_other_pages(self, project):
        build.make_pages(project)
        (project / "book" / "ledger.md").write_text("# All claims\n\n```{ledger}\n```\n")
        assert build.make_pages(project)
        assert "All claims" in (project / build.HTML / "index.html").read_text()

    def test_a_page_that_was_dropped_leaves_and_one_that_is_missing_is_named(self, project):
        build.make_pages(project)
        toc = project / "_toc.yml"
        text = toc.read_text()
        (project / "book" / "references.md").unlink()
        fails(lambda: build.make_pages(project), "references")
        assert (project / build.HTML / "book/references.html").exists()  # the last whole book
        (project / "index.md").write_text("# A page\n")
        toc.write_text(text.replace("- file: book/references\n", ""))
        assert build.make_pages(project)
        assert not (project / build.HTML / "book/references.html").exists()

    def test_an_altered_page_is_made_again(self, project):
        build.make_pages(project)
        index = project / build.HTML / "index.html"
        before = index.read_bytes()
        index.write_bytes(b"")
        assert build.make_pages(project)
        assert index.read_bytes() == before

    def test_what_is_put_beside_the_pages_stays_until_they_are_made_again(self, project):
        build.make_pages(project)
        added = project / build.HTML / "a.pdf"
        added.write_bytes(b"%PDF")
        build.note_addition(project)
        assert not build.make_pages(project)
        assert added.is_file()
        (project / "index.md").write_text(PAGE + "\nMore.\n")
        assert build.make_pages(project)
        assert not added.exists()

    def test_nothing_to_do_is_known_until_something_changes(self, project):
        build.make_pages(project)
        build.finished(project, "quick")
        assert build.nothing_to_do(project, "quick")
        assert not build.nothing_to_do(project, "standard")
        (project / build.HTML / "index.html").write_bytes(b"")
        assert not build.nothing_to_do(project, "quick")

    def test_two_builds_take_turns(self, project):
        def one(_):
            with build.alone(project):
                return build.make_pages(project)

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(one, range(2))) == [False, True]

    @pytest.mark.parametrize("name", ["ioffe_fig1-rates.svg", "ioffe_fig1-rates.narrow.svg"])
    def test_figures_are_drawn_once(self, project, name):
        assert build.draw_figures(project) == []
        figure = project / build.FIGURES / name
        content = figure.read_bytes()
        figure.unlink()
        assert build.draw_figures(project) == [project / build.FIGURES / "ioffe_fig1-rates.svg"]
        assert figure.read_bytes() == content

    def test_some_records_are_drawn_and_the_others_figures_stay(self, project):
        figures = project / build.FIGURES
        kept = figures / "ioffe_fig1-rates.svg"
        kept.write_text("as it is")
        other = figures / "of-no-record.svg"
        other.write_text("")
        assert build.draw_figures(project, only={"no_such_record"}) == []
        assert kept.read_text() == "as it is"
        assert other.exists()
        assert build.draw_figures(project, only={"ioffe_fig1"}) == [kept]
        assert other.exists()
        assert build.draw_figures(project) == []
        assert not other.exists()
