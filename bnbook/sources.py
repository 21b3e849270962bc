"""Digests of the package's source that something depends on, definition by definition.

A result depends on the functions and classes that its run can reach, not on whatever else stands in
their files. So a digest holds, of each module, the top-level statements that are reached: those
that define a name in use, the imports trimmed to such names, and whatever runs when the module is
imported. Names are followed through imports and attributes (``module.name``); a module that is used
in any other way counts whole. A function's own names, such as parameters, lead nowhere. Neither
comments nor docstrings count.
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

_DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_IMPORT = ast.Import | ast.ImportFrom
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_COMPREHENSION = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Origin(NamedTuple):
    """What an imported name stands for: a module, or a name of one."""

    module: str
    name: str | None


def source_digests(
    module: str, function: str | None = None, without: Collection[str] = ()
) -> dict[str, str]:
    """SHA-256 of what a module, or one function of it, depends on, by module.

    Parameters
    ----------
    module : str
        Full name, such as ``bnbook.experiments.ioffe_fig1``.
    function : str, optional
        Name of a function at the module's top level; the whole module by default.
    without : collection of str
        Modules that do not count, nor what they import.

    Returns
    -------
    dict
        Name of a module -> 64 hexadecimal digits.

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
    reach = _Reach(())
    try:
        tree = ast.parse(code)
    except SyntaxError:
        tree = ast.Module([], type_ignores=[])
    reach.within(_Source(tree), tree)
    return combined(reach.digests())


def combined(digests: Mapping[str, str]) -> str:
    """SHA-256 over digests by name."""
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


class _Source:
    """A module's syntax tree: which statements define which name, and what imports stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self.statements = tree.body
        self.imported = dict(_imported(tree))
        self.defining: dict[str, list[int]] = {}
        for at, statement in enumerate(tree.body):
            for name in _defined(statement):
                self.defining.setdefault(name, []).append(at)
        self.always = [at for at, statement in enumerate(tree.body) if self._runs(statement)]

    def _runs(self, statement: ast.stmt) -> bool:
        """Whether a statement does something when the module is imported, beside defining names.

        A definition does if it is decorated by something of this package.
        """
        if isinstance(statement, _DEFINITION):
            names = [used[0] for each in statement.decorator_list for used in _used(each)]
            return any(name in self.defining or name in self.imported for name in names)
        return not isinstance(statement, _IMPORT) and not _defined(statement)


class _Reach:
    """What has been reached so far: statements, and names that imports are trimmed to."""

    def __init__(self, without: Collection[str]) -> None:
        self.without = set(without)
        self.kept: dict[str, set[int]] = {}
        self.names: dict[str, set[str]] = {}

    def digests(self) -> dict[str, str]:
        """Digest of each module's statements, in their order."""
        found = {}
        for module, kept in self.kept.items():
            statements = [_source(module).statements[at] for at in sorted(kept)]
            trimmed = [_trimmed(statement, self.names[module]) for statement in statements]
            tree = ast.Module(trimmed, type_ignores=[])
            found[module] = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
        return found

    def whole(self, module: str) -> None:
        """Reach everything in a module."""
        if module in self.without:
            return
        source = self._enter(module)
        for name in source.defining:
            self.name(module, name)

    def name(self, module: str, name: str) -> bool:
        """Reach what defines a name in a module; tell whether anything does."""
        if module in self.without:
            return True
        source = self._enter(module)
        if name in self.names[module]:
            return True
        if name not in source.defining:
            return False
        self.names[module].add(name)
        self._origin(source.imported.get(name))
        for at in source.defining[name]:
            self._keep(module, source, at)
        return True

    def within(self, source: _Source, node: ast.AST, module: str = "") -> None:
        """Reach what a piece of a module's code uses."""
        for used in _used(node):
            self._follow(source, used, module)

    def _enter(self, module: str) -> _Source:
        source = _source(module)
        if module not in self.kept:
            self.kept[module], self.names[module] = set(), set()
            for at in source.always:
                self._keep(module, source, at)
        return source

    def _keep(self, module: str, source: _Source, at: int) -> None:
        statement = source.statements[at]
        if at not in self.kept[module]:
            self.kept[module].add(at)
            if not isinstance(statement, _IMPORT):
                self.within(source, statement, module)

    def _follow(self, source: _Source, used: tuple[str, ...], module: str) -> None:
        """Reach a dotted name: through modules while there are any, then a name of the last."""
        first, *rest = used
        if module and first in source.defining:
            self.name(module, first)
        origin = source.imported.get(first)
        if origin is None or origin.name is not None:
            self._origin(origin)
            return
        at = origin.module
        while rest and _path(f"{at}.{rest[0]}"):
            at = f"{at}.{rest.pop(0)}"
        if not rest or not self.name(at, rest[0]):
            self.whole(at)

    def _origin(self, origin: Origin | None) -> None:
        """Reach what an import of a name stands for; a module waits for its attributes."""
        if origin is None or origin.name is None:
            return
        if not self.name(origin.module, origin.name):
            self.whole(origin.module)


def _used(node: ast.AST, local: Set[str] = frozenset()) -> Iterator[tuple[str, ...]]:
    """Yield the names in a piece of code, each with the attributes that are taken of it.

    Names in `local` are left out, and what functions and comprehensions bind for themselves.
    """
    if isinstance(node, ast.Attribute):
        attributes = [node.attr]
        base = node.value
        while isinstance(base, ast.Attribute):
            attributes.append(base.attr)
            base = base.value
        if isinstance(base, ast.Name):
            if base.id not in local:
                yield (base.id, *reversed(attributes))
            return
    elif isinstance(node, ast.Name) and node.id not in local:
        yield (node.id,)
    outside, inside = _scopes(node)
    for child in outside:
        yield from _used(child, local)
    if inside:
        bound = local | _bound(node)
        for child in inside:
            yield from _used(child, bound)


def _scopes(node: ast.AST) -> tuple[list[ast.AST], list[ast.AST]]:
    """Split a node's children: evaluated around it, and in a scope of the node's own."""
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, _FUNCTION):
        inside = node.body if isinstance(node.body, list) else [node.body]
    elif isinstance(node, _COMPREHENSION):
        first = node.generators[0]
        others = (child for child in children if child is not first)
        return [first.iter], [*others, first.target, *first.ifs]
    else:
        inside = []
    return [child for child in children if child not in inside], list(inside)


def _bound(node: ast.AST) -> set[str]:
    """Names of a function's or a comprehension's own scope, but for what it imports."""
    if isinstance(node, _COMPREHENSION):
        targets = [leaf for each in node.generators for leaf in ast.walk(each.target)]
        return {leaf.id for leaf in targets if isinstance(leaf, ast.Name)}
    found: set[str] = set()
    shared: set[str] = set()
    for each in _scopes(node)[1]:
        for part in _own(each):
            if isinstance(part, ast.Global):
                shared.update(part.names)
            elif (name := _binds(part)) is not None:
                found.add(name)
    return (found - shared) | _parameters(node)


def _parameters(node: ast.AST) -> set[str]:
    if not isinstance(node, _FUNCTION):
        return set()
    of = node.args
    rest = [each for each in (of.vararg, of.kwarg) if each]
    return {each.arg for each in (*of.posonlyargs, *of.args, *of.kwonlyargs, *rest)}


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


def _imported(tree: ast.Module) -> Iterator[tuple[str, Origin]]:
    """Yield the names of this package that are imported anywhere, and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _is_ours(alias.name):
                    whole = alias.name if alias.asname else PACKAGE
                    yield alias.asname or PACKAGE, Origin(whole, None)
        elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found = Origin(inner, None) if _path(inner) else Origin(node.module, alias.name)
                yield alias.asname or alias.name, found


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


def _trimmed(statement: ast.stmt, wanted: set[str]) -> ast.stmt:
    """Keep, of an import, the names that are wanted."""
    if not isinstance(statement, _IMPORT):
        return statement
    names = [a for a in statement.names if (a.asname or a.name.split(".")[0]) in wanted]
    if isinstance(statement, ast.Import):
        return ast.Import(names)
    return ast.ImportFrom(statement.module, names, statement.level)


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
