"""Digests of the package's source that something depends on, definition by definition.

A result depends on what the code that its run can reach computes, and not on where that code
stands. So a digest is taken over definitions: from one name, every top-level definition that it
uses is followed, through imports and attributes (``module.name``), and written down in a canonical
form in which each name is replaced by what it stands for. Moving a definition to another file,
importing it another way, comments, docstrings and the annotations of functions change nothing.
What a module runs when it is imported counts as soon as one of its definitions does; a module that
is used in any other way than for a name of it counts whole. A function's own names, such as
parameters, lead nowhere. The form holds no empty fields, so that the versions of Python agree.
The whole text of the C++ file beside a module, of the same name, counts with the module.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Collection, Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bnbook.errors import BnbookError

PACKAGE = "bnbook"
ON_IMPORT = "(on import)"
"""The entry for what modules run when they are imported."""

_DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_IMPORT = ast.Import | ast.ImportFrom
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_COMPREHENSION = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_SILENT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""Fields of a syntax tree that change nothing that is computed."""

Used = tuple[str, ...]
"""A name in a piece of code, with the attributes that are taken of it."""
Piece = str | Used
"""A part of a canonical form: text, or a name that is still to be looked up."""


class Definition(NamedTuple):
    """A name of one of the package's modules; without a name, the module itself."""

    module: str
    name: str | None

    @property
    def label(self) -> str:
        """What a digest calls it: the name alone, so that it may move."""
        return self.name or self.module.rpartition(".")[2]


def source_digests(
    module: str, function: str | None = None, without: Collection[str] = ()
) -> dict[str, str]:
    """SHA-256 of the definitions that a module, or one function of it, depends on, by name.

    `module` is a full name, such as ``bnbook.experiments.ioffe_fig1.experiment.experiment``.
    `function` stands at the module's top level; without it the whole module counts. The definitions
    of the modules in `without` do not count, nor what only they use. Names come without their
    module, and definitions of one name have one entry. A digest has 64 hexadecimal digits.

    Raises
    ------
    BnbookError
        When there is no such module or function.
    """
    reach = _Reach(without)
    if function is None:
        reach.whole(module)
    elif not reach.name(module, function):
        raise BnbookError(
            f"expected a function named {function} in the module {module}, found none."
        )
    return reach.digests()


def source_digest(module: str, function: str | None = None, without: Collection[str] = ()) -> str:
    """SHA-256 over the `source_digests`, of which the parameters are the same."""
    return combined(source_digests(module, function, without))


def imported_digest(code: str) -> str:
    """SHA-256 of the package's source that some code, such as a notebook's, reaches.

    Code that cannot be parsed reaches nothing.
    """
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return combined({})
    reach = _Reach(())
    reach.within(_Source(tree), _pieces(tree))
    return combined(reach.digests())


def combined(digests: Mapping[str, str]) -> str:
    """SHA-256 over digests by name."""
    return _sha(json.dumps(sorted(digests.items())))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class _Source:
    """A module's code: the canonical form of each definition, and what imported names stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self.imported = dict(_ours(tree))
        self.others = dict(_others(tree))
        self.passed_on = {name for s in tree.body if isinstance(s, _IMPORT) for name in _defined(s)}
        self.defining: dict[str, list[tuple[Piece, ...]]] = {}
        self.on_import: list[tuple[str, tuple[Piece, ...]]] = []
        for statement in tree.body:
            names = _defined(statement)
            form = () if isinstance(statement, _IMPORT) else tuple(_pieces(statement))
            for name in names:
                self.defining.setdefault(name, []).append(form)
            if self._runs(statement):
                self.on_import.append((min(names, default=ON_IMPORT), form))

    def _runs(self, statement: ast.stmt) -> bool:
        """Whether a statement does something when the module is imported, beside defining names.

        A definition does if it is decorated by something of this package.
        """
        if isinstance(statement, _DEFINITION):
            used = [name for each in statement.decorator_list for name in _names(each)]
            return any(
                n in self.imported or n in self.defining.keys() - self.passed_on for n in used
            )
        if isinstance(statement, ast.If) and _names(statement.test)[-1:] == ["TYPE_CHECKING"]:
            return False
        return not isinstance(statement, _IMPORT) and not _defined(statement)


class _Reach:
    """The definitions that have been reached so far, each with its resolved canonical forms."""

    def __init__(self, without: Collection[str]) -> None:
        self.without = set(without)
        self.entered: set[str] = set()
        self.forms: dict[Definition, list[list[str | Definition]]] = {}

    def digests(self) -> dict[str, str]:
        """Digest of each name's definitions; a use of one of several of a name says which."""
        alone = {of: self._digest(of, {}) for of in self.forms}
        named: dict[str, list[Definition]] = {}
        for of in self.forms:
            named.setdefault(of.label, []).append(of)
        several = {of: alone[of] for group in named.values() if len(group) > 1 for of in group}
        return {
            label: _sha(" ".join(sorted(self._digest(of, several) for of in group)))
            for label, group in named.items()
        }

    def _digest(self, of: Definition, several: Mapping[Definition, str]) -> str:
        def said(piece: str | Definition) -> str:
            if isinstance(piece, str):
                return piece
            return f"<{piece.label} {several[piece]}>" if piece in several else f"<{piece.label}>"

        return _sha("\n".join("".join(map(said, form)) for form in self.forms[of]))

    def whole(self, module: str) -> None:
        """Reach everything in a module."""
        if module not in self.without:
            source = self._enter(module)
            for name in source.defining:
                self.name(module, name)

    def name(self, module: str, name: str) -> Definition | None:
        """Reach what defines a name in a module; return where it stands, None if nothing does."""
        if module in self.without:
            return Definition(module, name)
        source = self._enter(module)
        if name in source.passed_on:
            origin = source.imported.get(name)
            return self._origin(origin) if origin else Definition(module, name)
        if name not in source.defining:
            return None
        found = Definition(module, name)
        if found not in self.forms:
            self.forms[found] = []
            for form in source.defining[name]:
                self.forms[found].append(self.within(source, form, module))
        return found

    def within(
        self, source: _Source, form: Iterator[Piece] | tuple[Piece, ...], module: str = ""
    ) -> list[str | Definition]:
        """Reach what a piece of a module's code uses; return its form with the names looked up."""
        found: list[str | Definition] = []
        for piece in form:
            found += [piece] if isinstance(piece, str) else self._follow(source, piece, module)
        return found

    def _enter(self, module: str) -> _Source:
        source = _source(module)
        if module not in self.entered:
            self.entered.add(module)
            if (path := _path(module)) and (compiled := path.with_suffix(".cpp")).is_file():
                of = Definition(module, f"{module.replace('.', '/')}.cpp")
                self.forms[of] = [[compiled.read_text("utf-8")]]
            for name, form in source.on_import:
                if name != ON_IMPORT:
                    self.name(module, name)
                else:
                    runs = self.forms.setdefault(Definition(module, ON_IMPORT), [])
                    runs.append(self.within(source, form, module))
        return source

    def _follow(self, source: _Source, used: Used, module: str) -> list[str | Definition]:
        """Look a dotted name up: through modules while there are any, then a name of the last."""
        first, *rest = used
        origin = source.imported.get(first)
        if origin is None:
            own = self.name(module, first) if module and first in source.defining else None
            if own and first not in source.passed_on:
                return [own, *(f".{each}" for each in rest)]
            return [".".join((source.others.get(first, first), *rest))]
        found: Definition | None
        if origin.name is None:
            at = origin.module
            while rest and _path(f"{at}.{rest[0]}"):
                at = f"{at}.{rest.pop(0)}"
            found = self.name(at, rest[0]) if rest else None
            if found is None:
                self.whole(at)
                found = Definition(at, None)
            else:
                rest.pop(0)
        else:
            found = self._origin(origin)
        return [found, *(f".{each}" for each in rest)]

    def _origin(self, origin: Definition) -> Definition:
        """Reach what an import of a name stands for; a module waits for its attributes."""
        if origin.name is not None:
            found = self.name(origin.module, origin.name)
            if found is not None:
                return found
            self.whole(origin.module)
        return Definition(origin.module, None)


def _pieces(node: ast.AST, local: Set[str] = frozenset()) -> Iterator[Piece]:
    """Yield the canonical form of a piece of code; names in `local` lead nowhere."""
    used = _dotted(node)
    if used is not None and used[0] not in local:
        yield used
        return
    yield f"{type(node).__name__}("
    inside = local | _bound(node)
    first = node.generators[0].iter if isinstance(node, _COMPREHENSION) else None
    for name, value in _fields(node):
        yield f"{name}="
        inner = inside if _is_inside(node, name) else local
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, ast.AST):
                yield f"{type(each).__name__}:{each!r},"
            elif isinstance(each, ast.comprehension) and each.iter is first:
                yield from _pieces(first, local)
                yield from _pieces(ast.comprehension(each.target, _NOTHING, each.ifs, 0), inner)
            else:
                yield from _pieces(each, inner)
        yield ";"
    yield ")"


_NOTHING = ast.Constant(None)


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Yield a node's fields that hold something that counts."""
    for name, value in ast.iter_fields(node):
        if value is None and not (isinstance(node, ast.Constant) and name == "value"):
            continue
        if isinstance(value, list) and name in ("body", "orelse", "finalbody"):
            value = [line for line in value if not isinstance(line, _IMPORT)]
        if value == [] or name in _SILENT or _is_annotation(node, name):
            continue
        yield name, value


def _is_annotation(node: ast.AST, name: str) -> bool:
    """Whether a field annotates something of a function."""
    return name == "returns" or (isinstance(node, ast.arg) and name == "annotation")


def _is_inside(node: ast.AST, name: str) -> bool:
    """Whether a field of a node is evaluated in a scope of the node's own."""
    if isinstance(node, _FUNCTION):
        return name == "body"
    return isinstance(node, _COMPREHENSION)


def _dotted(node: ast.AST) -> Used | None:
    """Return a name with the attributes that are taken of it, None for any other code."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return (node.id, *reversed(attributes)) if isinstance(node, ast.Name) else None


def _names(node: ast.AST) -> list[str]:
    return [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]


def _bound(node: ast.AST) -> set[str]:
    """Names of a function's or a comprehension's own scope, but for what it imports."""
    if isinstance(node, _COMPREHENSION):
        targets = [leaf for each in node.generators for leaf in ast.walk(each.target)]
        return {leaf.id for leaf in targets if isinstance(leaf, ast.Name)}
    if not isinstance(node, _FUNCTION):
        return set()
    found: set[str] = set()
    shared: set[str] = set()
    for each in node.body if isinstance(node.body, list) else [node.body]:
        for part in _own(each):
            if isinstance(part, ast.Global):
                shared.update(part.names)
            elif (name := _binds(part)) is not None:
                found.add(name)
    of = node.args
    rest = [each for each in (of.vararg, of.kwarg) if each]
    parameters = {each.arg for each in (*of.posonlyargs, *of.args, *of.kwonlyargs, *rest)}
    return (found - shared) | parameters


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and those below it, without the scopes of definitions in it."""
    yield node
    if isinstance(node, _COMPREHENSION):
        yield from (each for each in ast.walk(node) if isinstance(each, ast.NamedExpr))
    elif not isinstance(node, _DEFINITION | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _own(child)


def _binds(node: ast.AST) -> str | None:
    """Return the name that a node binds where it stands, if it does."""
    if isinstance(node, ast.NamedExpr):
        return node.target.id
    if isinstance(node, ast.Name):
        return None if isinstance(node.ctx, ast.Load) else node.id
    if isinstance(node, _DEFINITION | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return node.name
    return node.rest if isinstance(node, ast.MatchMapping) else None


def _ours(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """Yield the names of this package that are imported anywhere, and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _is_ours(alias.name):
                    whole = alias.name if alias.asname else PACKAGE
                    yield alias.asname or PACKAGE, Definition(whole, None)
        elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                of_module = Definition(node.module, alias.name)
                found = Definition(inner, None) if _path(inner) else of_module
                yield alias.asname or alias.name, found


def _others(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the names that are imported from other packages, with their full names there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.asname, a.name) for a in node.names if a.asname and not _is_ours(a.name))
        elif isinstance(node, ast.ImportFrom) and not _is_ours(node.module or ""):
            yield from ((a.asname or a.name, f"{node.module}.{a.name}") for a in node.names)


def _defined(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement defines, and does nothing else."""
    if isinstance(statement, _DEFINITION):
        return {statement.name}
    if isinstance(statement, _IMPORT):
        return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        targets = [leaf for target in statement.targets for leaf in _leaves(target)]
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return set()
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    return names if len(names) == len(targets) else set()


def _leaves(target: ast.expr) -> list[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        return [leaf for element in target.elts for leaf in _leaves(element)]
    return [target]


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE


@cache
def _path(name: str) -> Path | None:
    """Find a module's file without importing anything: a submodule stands beside its package."""
    package, *inner = name.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if not inner:
        return path
    base = path.parent.joinpath(*inner)
    places = (base.with_suffix(".py"), base / "__init__.py")
    return next((place for place in places if place.is_file()), None)


def _source(module: str) -> _Source:
    """Parse a module, once for each state of its file."""
    path = _path(module)
    if path is None:
        raise BnbookError(f"expected a module named {module} with source code, found none.")
    state = path.stat()
    return _parsed(path, (state.st_mtime_ns, state.st_size))


@cache
def _parsed(path: Path, _state: tuple[int, int]) -> _Source:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body:
            body[:] = [line for line in body if not _is_docstring(line)] or [ast.Pass()]
    return _Source(tree)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
