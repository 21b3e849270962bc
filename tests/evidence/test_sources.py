"""Source digests: what counts, what does not, and what is followed where."""

import ast
import hashlib
import textwrap

import pytest

from bnbook import experiments
from bnbook.errors import BnbookError
from bnbook.evidence import sources
from bnbook.sweeps import store

BASE = '''
from bnbook import errors
from bnbook.evidence import claims, intervals
from bnbook.evidence.records import root, read
LIMIT = 3
@dataclass
class Config:
    steps: int = LIMIT
def run():
    """Say."""
    from bnbook.book.pages import evidence
    return helper(LIMIT) + intervals.LEVEL + root() + evidence.duration(1)
def helper(x):
    return x  # same
def draw():
    return intervals.interval + read()
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
        ("intervals.interval + read()", "2"),
        ("root, read", "root"),
        ("steps: int", "stages: int"),
        ("from bnbook import errors\n", ""),
        ("def run()", "def run() -> float"),
        ("helper(x)", "helper(x: float)"),
        (
            "from bnbook.evidence import claims, intervals",
            "import bnbook.evidence.claims as claims\nfrom bnbook.evidence import intervals",
        ),
        ("import root, read", "import read, root"),
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
        ("helper(LIMIT)", "helper(x=LIMIT)"),
        ("duration(1)", "duration(1.0)"),
        ("def helper(x)", "def helper(x=None)"),
        ("bnbook.evidence.records import root", "bnbook.evidence.records import fresh as root"),
        ("@dataclass", "print('when imported')\n@dataclass"),
    ],
)
def test_what_counts(digests, old, new):
    assert old in BASE
    before, after = digests(BASE), digests(BASE.replace(old, new))
    assert before != after


FORM = "5774797e177387857b286306c6b27f69a65b6662e060666ad9609068df8f4069"
"""Digest of a form, as Python 3.11 gives it; CI's newest Python has to agree."""

FORM = "5d71a6a5dc99542fd20d978298a55c5b2ffaf7acfed9c2154019a05342f9d92d"
"""Digest of a form, as Python 3.11 gives it; the newest Python has to agree."""

LOCAL = """
from bnbook.evidence import claims, intervals
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
        "return lambda helper, *intervals: (helper, intervals.interval)",
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
    assert digests(source).keys() == {"run"}


@pytest.mark.parametrize(
    "body",
    [
        "return helper",
        "return [helper for each in values] + [helper for helper in values]",
        "return [helper for helper in helper(values)]",
        "def inner(values=helper): return values",
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
    assert {"run", "helper", "LIMIT", "LEVEL", "root", "duration"} == found.keys()
    other = digests(BASE.replace("intervals.LEVEL", "claims.judge"))
    assert other["root"] == found["root"]
    assert {"judge", "interval"} <= other.keys()


def test_what_is_used_brings_its_own(digests):
    code = "from bnbook.evidence import intervals\ndef run():\n    return intervals.{}\n"
    assert "BnbookError" not in digests(code.format("LEVEL"))
    assert "BnbookError" in digests(code.format("interval"))


def test_a_module_that_is_passed_on_counts_whole(digests):
    code = "from bnbook.evidence import claims\ndef run():\n    return {}\n"
    part, whole = digests(code.format("claims.LATER")), digests(code.format("vars(claims)"))
    everything = sources.source_digests("bnbook.evidence.claims")
    assert len(part) < len(everything) < len(whole)
    assert {name: whole[name] for name in everything} == everything


def test_names_are_followed_through_packages_that_pass_them_on(digests):
    found = digests("from bnbook import formulas\ndef run():\n    formulas.fold_linear()\n")
    assert "fold_linear" in found
    assert "whiten" not in found


def test_registered_functions_count_wherever_the_register_does():
    found = sources.source_digests("bnbook.conformance.checks", "CHECKS")
    assert "running_average" in found  # which only registered checks use


def test_a_function_or_module_that_is_not_there(digests):
    with pytest.raises(BnbookError, match="expected a function named nothing"):
        digests(BASE, "nothing")
    with pytest.raises(BnbookError, match=r"expected a module named bnbook\.nowhere"):
        sources.source_digests("bnbook.nowhere")


def test_without_leaves_out_modules_and_what_only_they_import(digests):
    code = "from bnbook.sweeps import sweep\ndef run():\n    return sweep.sweep\n"
    assert {"run", "sweep", "Store"} <= digests(code).keys()
    found = sources.source_digests("bnbook_example", "run", {"bnbook.sweeps.sweep"})
    assert found.keys() == {"run"}


def test_code_of_a_notebook():
    code = "from bnbook.evidence import intervals\nintervals.{}"
    one, other = (sources.imported_digest(code.format(name)) for name in ("LEVEL", "judge"))
    assert one != other
    assert sources.imported_digest("%magic") == sources.imported_digest("1 + 1")


def test_figure_1_depends_on_its_own_network_and_on_no_other():
    found = store.source_digests(experiments.find("ioffe_fig1"))
    assert {"BatchNorm", "MLP", "ChainStep"} <= found.keys()
    assert found.keys().isdisjoint({"ResNet", "CLAIMS", "FIGURES", "curves"})


CPP = "bnbook/training/kernels.cpp"


@pytest.fixture
def other_kernels(tmp_path, monkeypatch):
    """Put the module of the kernels, with another C++ file beside it, into another folder."""
    found, name = sources._path, "bnbook.training.kernels"
    here = found(name)
    for path in (here, here.with_suffix(".cpp")):
        (tmp_path / path.name).write_text(path.read_text("utf-8"), "utf-8")

    def change(old, new):
        path = tmp_path / "kernels.cpp"
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), "utf-8")

    moved = tmp_path / here.name
    monkeypatch.setattr(sources, "_path", lambda each: moved if each == name else found(each))
    return change


def test_the_text_of_the_kernels_counts_where_networks_train(other_kernels):
    deep, without = experiments.find("bjorck_fig1"), experiments.find("ioffe_alg2")
    before, apart = store.source_digests(deep), store.source_digests(without)
    assert {CPP, "DeepStep", "library"} <= before.keys()
    assert apart.keys().isdisjoint({CPP, "library"})
    other_kernels("+", "-")
    after = store.source_digests(deep)
    assert {name for name in before if after[name] != before[name]} == {CPP}
    assert store.source_digests(without) == apart


def test_the_text_of_the_kernels_counts_in_notebooks(other_kernels):
    codes = ("from bnbook.training import fit\nfit.fit", "from bnbook.training import session")
    before = [sources.imported_digest(code) for code in codes]
    other_kernels("+", "-")
    after = [sources.imported_digest(code) for code in codes]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]


# One package twice, with other files, imports, aliases, order, comments and annotations.
HERE = {
    "__init__.py": "",
    "norm.py": """
        import torch.nn.functional as F
        from bnbook.errors import BnbookError
        EPS = 1e-5
        class Layer:
            '''Say.'''
            def forward(self, x):
                if x is None:
                    raise BnbookError("nothing")
                return F.relu(_scale(x) + EPS)
        def _scale(x): return 2 * x
        """,
    "train.py": """
        from bnbook import norm
        from bnbook.tools import helpers as kit
        def train(runs):
            return [norm.Layer().forward(kit._scale(run)) for run in runs]
        """,
    "errors.py": "class BnbookError(Exception): pass",
    "tools/__init__.py": "",
    "tools/helpers.py": "def _scale(x): return 3 * x",
}
THERE = {
    "__init__.py": "",
    "layers/__init__.py": "",
    "layers/constants.py": "EPS = 1e-5  # small",
    "layers/all.py": """
        from __future__ import annotations
        from torch.nn import functional
        from bnbook.layers.constants import EPS
        from bnbook.failures import BnbookError as Error
        def unused(): return 4
        def _scale(x: float) -> float: return 2 * x
        class Layer:
            def forward(self, x: float) -> float:
                '''Say more.'''
                if x is None:
                    raise Error("nothing")
                return functional.relu(_scale(x) + EPS)
        """,
    "failures.py": "class BnbookError(Exception):\n    '''Say.'''",
    "setups.py": """
        def _scale(x):
            return 3 * x
        def train(runs):
            from bnbook.layers.all import Layer as L
            return [L().forward(_scale(run)) for run in runs]
        """,
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package in bnbook's place and give the digest of a function of one of its modules."""

    def of(files, module, edit=("", "")):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).replace(*edit))
        monkeypatch.setattr(sources, "_path", lambda name: _found(folder, name))
        return sources.source_digest(module, "train")

    return of


def _found(folder, name):
    base = folder.joinpath(*name.split(".")[1:])
    places = base.with_suffix(".py"), base / "__init__.py"
    return next((place for place in places if place.is_file()), None)


def test_code_that_moves_keeps_its_digest(package):
    assert package(HERE, "bnbook.train") == package(THERE, "bnbook.setups")


@pytest.mark.parametrize(
    "edit",
    [
        ("3 * x", "2 * x"),
        ("kit._scale(run)", "norm._scale(run)"),
        ("_scale(x) + EPS", "EPS + _scale(x)"),
        ("F.relu", "F.gelu"),
        ("torch.nn.functional", "torch.special"),
        ("1e-5", "1e-6"),
        ('"nothing"', '"all"'),
    ],
    ids=" -> ".join,
)
def test_code_that_computes_something_else_does_not(package, edit):
    assert package(HERE, "bnbook.train", edit) != package(HERE, "bnbook.train")


def test_two_definitions_of_one_name_do_not_stand_for_each_other(package):
    swapped = {**HERE, "norm.py": HERE["norm.py"].replace("2 * x", "3 * x")}
    swapped["tools/helpers.py"] = HERE["tools/helpers.py"].replace("3 * x", "2 * x")
    assert package(swapped, "bnbook.train") != package(HERE, "bnbook.train")


def form(tree):
    return "".join(p if isinstance(p, str) else ".".join(p) for p in sources._pieces(tree))


def test_the_form_is_the_same_on_every_version_of_python():
    tree = ast.parse(
        "def f(a, *, b=None):\n    return [a @ b[0] for c in a if c], f'{a!r:>4}', -1j"
    )
    assert hashlib.sha256(form(tree).encode()).hexdigest() == FORM
    older, newer = (ast.parse("def f(): pass").body[0] for _ in range(2))
    newer.type_params = []  # which Python 3.11 does not have
    newer._fields = (*older._fields, "type_params")
    assert form(older) == form(newer)
