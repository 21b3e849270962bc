"""What an experiment is: one frozen value, and what is done with the configs of all of them.

Nothing here imports torch: claims are judged and figures drawn without it.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.evidence.claims import Claim, Facts
from bnbook.training.session import Plan, Session

Config = Any
"""A frozen dataclass with the fields ``seeds`` and ``data``, which checks its own values."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """A pure function of a frozen config, with what is claimed of its table.

    Attributes
    ----------
    name : str
        Its folder's name, and that of its records.
    title : str
        What it is, in a few words.
    profiles : mapping
        Profile name -> frozen config.
    axes : tuple of str
        Fields by which a config is split into single runs, the slowest first.
    fused : tuple of str
        Those of them in which runs may differ that train as one ensemble.
    apart : tuple of str
        Those of `fused` by which `run` trains one ensemble after the other, so that the bits of
        one seed do not depend on how many there are.
    train : callable, optional
        Single runs that fuse and a `Session` -> one tidy table for each run.
    measure : callable, optional
        In place of `train`, for runs that are computed alone: a single run and a torch device ->
        its tidy table.
    split : callable, optional
        A config -> its single runs, where they are not the product of the `axes`.
    rounds : callable, optional
        For a search: a config and the rows of the runs that ended (no rows at first) -> the single
        runs that come next, none when all is run. It depends on nothing else, so that a search goes
        on wherever its record is.
    needs : mapping
        Field -> values that a config must hold there, or the claims cannot be judged.
    columns : mapping
        Column of the table -> what it holds, with its unit.
    claims : sequence of Claim
        Written before the run.
    facts : callable
        Table -> the numbers that pages quote beside the claims, by name.
    figures : mapping
        Name -> function that draws a table on a new figure.
    plans : tuple of Plan
        Ways of computing from which the fastest is chosen by a trial.
    """

    name: str
    title: str
    profiles: Mapping[str, Config]
    columns: Mapping[str, str]
    claims: Sequence[Claim]
    facts: Callable[[pd.DataFrame], Facts]
    figures: Mapping[str, Callable[[pd.DataFrame], Any]]
    axes: tuple[str, ...] = ("seeds",)
    fused: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    train: Callable[[Sequence[Config], Session], list[pd.DataFrame]] | None = None
    measure: Callable[[Config, Any], pd.DataFrame] | None = None
    split: Callable[[Config], list[Config]] | None = None
    rounds: Callable[[Config, pd.DataFrame], list[Config]] | None = None
    searched: str = ""
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    plans: tuple[Plan, ...] = (Plan(),)

    @property
    def computes(self) -> Callable[..., Any]:
        """The function that makes the table: `train` or `measure`."""
        found = self.train or self.measure
        if found is None:
            raise BnbookError(f"{self.name} has neither a train nor a measure function.")
        return found

    @property
    def module(self) -> str:
        """Full name of the module of `computes`, which holds this value as ``EXPERIMENT``."""
        return self.computes.__module__

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: a worker takes the experiment from its own source."""
        return load, (self.module,)

    def configure(self, profile: str, seed: int = 0, **changes: Any) -> Config:
        """Return a profile's config with changes, its seeds shifted and its data chosen.

        `seed` is added to every seed, for runs that no record holds. `changes` replace fields; None
        leaves a field as it is. Other `data` must be of the profile's kind. Where `data` names
        several sets ("a or b"), the largest that this machine has is chosen.

        Raises
        ------
        BnbookError
            When the profile or a field is unknown, or a value is impossible.
        """
        if profile not in self.profiles:
            known = ", ".join(self.profiles)
            raise BnbookError(f"profile must be one of {known} for {self.name}, found {profile!r}.")
        config = self.profiles[profile]
        if (data := changes.get("data")) is not None:
            self._check_kind(config.data, data)
        names = [each.name for each in fields(config)]
        if unknown := sorted(set(changes) - set(names)):
            raise BnbookError(f"{self.name} has no field {unknown}; it has {', '.join(names)}.")
        config = replace(config, **{k: v for k, v in changes.items() if v is not None})
        for name, needed in self.needs.items():
            if missing := [value for value in needed if value not in getattr(config, name)]:
                raise BnbookError(
                    f"{name} must hold {missing[0]}, which the claims of {self.name} need, found"
                    f" {getattr(config, name)}."
                )
        config = replace(config, seeds=tuple(seed + s for s in config.seeds))
        if " or " in config.data:
            from bnbook import datasets

            config = replace(config, data=datasets.largest(config.data.split(" or ")))
        return config

    def _check_kind(self, usual: str, data: str) -> None:
        """Refuse data of another kind than the profile's."""
        from bnbook import datasets

        one, *_ = usual.split(" or ")
        wanted, found = datasets.kinds(one), datasets.kinds(data)
        if found != wanted:
            raise BnbookError(
                f"data of {self.name} must be {datasets.TOGETHER.join(wanted)}, such as {one!r};"
                f" found {data!r}, which is {datasets.TOGETHER.join(found)}."
            )

    def parts(self, config: Config) -> list[Config]:
        """Split a config into single runs, each a config itself, in the order of the table."""
        return self.split(config) if self.split else single_runs(config, self.axes)

    def asked(
        self, config: Config, table_of: Callable[[Config], pd.DataFrame | None]
    ) -> list[Config]:
        """Return the single runs that are wanted as far as that is known: without `rounds` all.

        `table_of` gives the table of a run that ended, else None. A round is over when all of its
        runs ended; `rounds` sees none but those that it asked for.
        """
        rounds = self.rounds
        if rounds is None:
            return self.parts(config)
        return [run for own in self._searches(config) for run in _asked(rounds, own, table_of)]

    def _searches(self, config: Config) -> list[Config]:
        """Return a config for each search of its own."""
        if not self.searched:
            return [config]
        name = self.searched
        return [replace(config, **{name: (value,)}) for value in getattr(config, name)]

    def fuses(self, part: Config) -> Hashable:
        """Return what two single runs must have in common to train as one ensemble."""
        alone = {n: value for n, value in vars(part).items() if n not in self.fused}
        return tuple(alone.items())

    def together(self, runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
        """Run single runs that fuse: one tidy table for each, in their order.

        Raises
        ------
        BnbookError
            When they do not fuse.
        """
        if odd := [run for run in runs if self.fuses(run) != self.fuses(runs[0])]:
            differ = " and ".join(self.fused) or "nothing"
            raise BnbookError(f"runs of one ensemble differ in {differ} alone, found {odd[0]}.")
        if self.train:
            return self.train(runs, session)
        from bnbook.training import fit

        return [self.computes(run, fit.choose_device(session.device)) for run in runs]

    def run(self, config: Config, device: str = "auto") -> pd.DataFrame:
        """Run a whole config on a device, ``auto``, ``cpu`` or ``cuda``; see `columns`."""
        if self.rounds:
            return self._search(config, device)
        groups: dict[Hashable, list[Config]] = {}
        for part in self.parts(config):
            own = tuple(getattr(part, name) for name in self.apart)
            groups.setdefault((self.fuses(part), own), []).append(part)
        tables = [t for group in groups.values() for t in self.together(group, Session(device))]
        return pd.concat(tables, ignore_index=True)

    def _search(self, config: Config, device: str) -> pd.DataFrame:
        """Run one search after the other, a run at a time, until none asks for more."""
        tables: dict[Config, pd.DataFrame] = {}
        while new := [run for run in self.asked(config, tables.get) if run not in tables]:
            tables |= {run: self.together([run], Session(device))[0] for run in new}
        return pd.concat([tables[run] for run in self.asked(config, tables.get)], ignore_index=True)


def _asked(
    rounds: Callable[[Config, pd.DataFrame], list[Config]],
    config: Config,
    table_of: Callable[[Config], pd.DataFrame | None],
) -> list[Config]:
    """Return what one search has asked for so far."""
    asked, table = list[Config](), pd.DataFrame()
    while new := [run for run in rounds(config, table) if run not in asked]:
        asked += new
        found = [table_of(run) for run in new]
        if any(each is None for each in found):
            break
        table = pd.concat([table, *found], ignore_index=True)
    return asked


C = TypeVar("C", bound=Any)


def load(module: str) -> Experiment:
    """Return the experiment of a module."""
    found: Experiment = importlib.import_module(module).EXPERIMENT
    return found


def check_positive(config: Any, names: Iterable[str]) -> None:
    """Refuse fields below 1.

    Raises
    ------
    BnbookError
        With the field and what was found.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise BnbookError(f"{name} must be at least 1, found {getattr(config, name)}.")


def check_distinct(config: Any, names: Iterable[str]) -> None:
    """Refuse fields that are empty or hold a value twice.

    Raises
    ------
    BnbookError
        With the field and what was found.
    """
    for name in names:
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            raise BnbookError(f"{name} must be distinct and not empty, found {values}.")


def check_known(config: Any, field: str, values: Sequence[Any]) -> None:
    """Refuse a field that holds other values than these.

    Raises
    ------
    BnbookError
        With the field, the values expected and what was found.
    """
    found = getattr(config, field)
    if set(found) - set(values):
        raise BnbookError(f"{field} must be among {', '.join(map(str, values))}, found {found}.")


def is_single(config: Any, axes: Sequence[str]) -> bool:
    """Whether a config is a single run: one value on each axis."""
    return all(len(getattr(config, axis)) == 1 for axis in axes)


def single_runs(config: C, axes: Sequence[str]) -> list[C]:
    """Split a config into runs: every combination of the values of some fields.

    `axes` names fields that are tuples, the slowest first. Each run has one value in each of them.
    """
    values = [getattr(config, axis) for axis in axes]
    return [
        replace(config, **{axis: (value,) for axis, value in zip(axes, run, strict=True)})
        for run in itertools.product(*values)
    ]
