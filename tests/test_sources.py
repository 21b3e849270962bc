"""Source digests: what counts, what does not, and what is followed where."""

import textwrap

import pytest

from bnbook import experiments, sources, store
from bnbook.errors import BnbookError

BASE = '''
from bnbook import errors, claims
from bnbook.records import root, read
LIMIT = 3
@dataclass
class Config:
    steps: int = LIMIT
def run():
    """Say."""
    from bnbook.pages import evidence
    return helper(LIMIT) + claims.LEVEL + root() + evidence.duration(1)
def helper(x):
    return x  # same
def draw():
    return claims.interval + read()
'''


@pytest.fixture
def digests(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    sources._path.cache_clear()  # of the example of another test

    def of(source, function="run"):
        (tmp_path / "bnbook_example.py").write_text(textwrap.dedent(source))
        return sources.source_digests("bnbook_example", function)

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Say.", "Say more."),
        ("# same", "# other"),
        ("claims.interval + read()", "2"),
        ("root, read", "root"),
        ("steps: int", "stages: int"),
        ("errors, claims", "claims"),
    ],
)
def test_what_does_not_count(digests, old, new):
    assert old in BASE
    assert digests(BASE.replace(old, new)) == digests(BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("return x", "return -x"),
        ("helper(LIMIT)", "helper(errors)"),
        ("bnbook.records import root", "bnbook.records import fresh as root"),
        ("@dataclass", "print('when imported')\n@dataclass"),
    ],
)
def test_what_counts(digests, old, new):
    assert old in BASE
    before, after = digests(BASE), digests(BASE.replace(old, new))
    assert before["bnbook_example"] != after["bnbook_example"]


LOCAL = """
from bnbook import claims
def helper(x):
    return x
def run(values):
    BODY
"""


@pytest.mark.parametrize(
    "body",
    [
        "helper = 3; return helper",
        "return [helper for helper in values]",
        "return {helper: 1 for (helper, _) in values if helper}",
        "return sum(helper.size for each in values for helper in each)",
        "return lambda helper, *claims: (helper, claims.interval)",
        "return (lambda *, helper: helper)(helper=1)",
        "def inner(helper=values): return helper",
        "def inner():\n        def helper(): return 1\n        return helper()",
        "with values as helper: return helper",
        "try: return values\n    except ValueError as helper: return helper",
        "return (helper := 3) + helper",
        "return [last := each for each in values] + [(helper := 1) for each in values] + helper",
        "match values:\n        case [helper, *_]: return helper",
        "for helper in values: helper += 1",
    ],
)
def test_a_functions_own_names_lead_nowhere(digests, body):
    source = LOCAL.replace("BODY", body)
    assert digests(source) == digests(source.replace("return x", "return -x"))
    assert "bnbook.claims" not in digests(source)


@pytest.mark.parametrize(
    "body",
    [
        "return helper",
        "return [helper for each in values] + [helper for helper in values]",
        "return [helper for helper in helper(values)]",
        "def inner(values=helper): return values",
        "def inner(values: helper): return values",
        "def inner():\n        helper = 1\n    return helper",
        "global helper; helper = 1",
        "class Inner:\n        def helper(self): return helper",
        "@helper\n    def inner(helper): return helper",
        "return lambda helper=helper: helper",
    ],
)
def test_names_of_the_module_count_within_functions(digests, body):
    source = LOCAL.replace("BODY", body)
    assert digests(source) != digests(source.replace("return x", "return -x"))


def test_of_other_modules_only_what_is_used(digests):
    found = digests(BASE)
    assert {"bnbook.claims", "bnbook.records", "bnbook.pages.evidence"} <= found.keys()
    assert "bnbook.pages.tables" not in found
    other = digests(BASE.replace("claims.LEVEL", "claims.judge"))
    assert other["bnbook.claims"] != found["bnbook.claims"]
    assert other["bnbook.records"] == found["bnbook.records"]


def test_what_is_used_brings_its_own(digests):
    code = "from bnbook import claims\ndef run():\n    return claims.{}\n"
    assert "bnbook.errors" not in digests(code.format("LEVEL"))
    assert "bnbook.errors" in digests(code.format("interval"))


def test_a_module_that_is_passed_on_counts_whole(digests):
    code = "from bnbook import claims\ndef run():\n    return {}\n"
    part, whole = digests(code.format("claims.LEVEL")), digests(code.format("vars(claims)"))
    everything = sources.source_digests("bnbook.claims")
    assert whole["bnbook.claims"] == everything["bnbook.claims"] != part["bnbook.claims"]


def test_names_are_followed_through_packages_that_pass_them_on(digests):
    found = digests("from bnbook import formulas\ndef run():\n    formulas.fold_linear()\n")
    assert "bnbook.formulas.population" in found
    assert "bnbook.formulas.whitening" not in found


def test_registered_functions_count_wherever_the_register_does():
    found = sources.source_digests("bnbook.conformance.checks", "CHECKS")
    assert "bnbook.formulas.population" in found  # which only registered checks use


def test_a_function_or_module_that_is_not_there(digests):
    with pytest.raises(BnbookError, match="expected a function named nothing"):
        digests(BASE, "nothing")
    with pytest.raises(BnbookError, match=r"expected a module named bnbook\.nowhere"):
        sources.source_digests("bnbook.nowhere")


def test_without_leaves_out_modules_and_what_only_they_import(digests):
    code = "from bnbook import sweep\ndef run():\n    return sweep.sweep\n"
    assert {"bnbook.sweep", "bnbook.store"} <= digests(code).keys()
    found = sources.source_digests("bnbook_example", "run", {"bnbook.sweep"})
    assert found.keys() == {"bnbook_example"}


def test_code_of_a_notebook():
    code = "from bnbook import claims\nclaims.{}"
    one, other = (sources.imported_digest(code.format(name)) for name in ("LEVEL", "judge"))
    assert one != other
    assert sources.imported_digest("%magic") == sources.imported_digest("1 + 1")


def test_figure_1_depends_on_its_own_network_and_on_no_other():
    found = store.source_digests(experiments.find("ioffe_fig1"))
    assert {"bnbook.norm", "bnbook.models", "bnbook.chain"} <= found.keys()
    assert found.keys().isdisjoint({"bnbook.analysis.ioffe_fig1", "bnbook.figures.ioffe_fig1"})
    assert found["bnbook.models"] != sources.source_digests("bnbook.models")["bnbook.models"]
