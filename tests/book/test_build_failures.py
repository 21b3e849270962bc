"""The build fails when it should, says where, and keeps failing until it is mended.

A small project in a folder of its own: one notebook, one page that cites a claim, one figure.
"""

import nbformat
import pytest

from bnbook.book import build, judging
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
        return build.run_notebooks(root, "quick")

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


@pytest.mark.slow
class TestPages:
    @pytest.fixture(autouse=True)
    def _executed(self, project):
        build.run_notebooks(project, "quick")
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

    def test_figures_are_drawn_once(self, project):
        assert build.draw_figures(project) == []
        figure = project / build.FIGURES / "ioffe_fig1-rates.svg"
        content = figure.read_bytes()
        figure.unlink()
        assert build.draw_figures(project) == [figure]
        assert figure.read_bytes() == content
