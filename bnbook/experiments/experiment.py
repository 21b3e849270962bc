"""What every experiment does with its configs: change a profile, check it, split it into runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from bnbook.errors import BnbookError

C = TypeVar("C", bound=Any)


def configure(
    name: str, profiles: Mapping[str, C], profile: str, seed: int, changes: Mapping[str, Any]
) -> C:
    """Return a profile's config with changes, its seeds shifted and its data chosen.

    Parameters
    ----------
    name : str
        The experiment's, for errors.
    profiles : mapping
        Profile name -> frozen config with fields ``seeds`` and ``data``.
    profile : str
        One of them.
    seed : int
        Added to every seed, for runs that no record holds.
    changes : mapping
        Fields to replace; None leaves a field as it is.

    Returns
    -------
    Config
        Where `data` names several sets ("a or b"), the largest that this machine has.

    Raises
    ------
    BnbookError
        When the profile or a field is unknown.
    """
    if profile not in profiles:
        raise BnbookError(
            f"profile must be one of {', '.join(profiles)} for {name}, found {profile!r}."
        )
    config = profiles[profile]
    known = [field.name for field in fields(config)]
    if unknown := sorted(set(changes) - set(known)):
        raise BnbookError(f"{name} has no field {unknown}; it has {', '.join(known)}.")
    config = replace(config, **{k: v for k, v in changes.items() if v is not None})
    config = replace(config, seeds=tuple(seed + s for s in config.seeds))
    if " or " in config.data:
        from bnbook import datasets

        config = replace(config, data=datasets.largest(config.data.split(" or ")))
    return config


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


def single_runs(config: C, axes: Sequence[str]) -> list[C]:
    """Split a config into runs: every combination of the values of some fields.

    Parameters
    ----------
    config : Config
        Frozen, the fields in `axes` tuples.
    axes : sequence of str
        Fields, the slowest first.

    Returns
    -------
    list of Config
        Each with one value in each of these fields.
    """
    values = [getattr(config, axis) for axis in axes]
    return [
        replace(config, **{axis: (value,) for axis, value in zip(axes, run, strict=True)})
        for run in itertools.product(*values)
    ]


def common(part: C, axes: Sequence[str]) -> C:
    """Return a run without the fields in `axes`: equal for runs that differ in these alone."""
    return replace(part, **dict.fromkeys(axes, ()))


def ensembles(parts: Iterable[C], fuses: Callable[[C], Hashable]) -> list[list[C]]:
    """Gather the runs that train as one ensemble.

    Parameters
    ----------
    parts : iterable of Config
        Single runs.
    fuses : callable
        What two runs must have in common to train as one.

    Returns
    -------
    list of list of Config
        Ensembles by their first run, runs in their order.
    """
    groups: dict[Hashable, list[C]] = {}
    for part in parts:
        groups.setdefault(fuses(part), []).append(part)
    return list(groups.values())


def check_fused(runs: Sequence[C], fuses: Callable[[C], Hashable]) -> None:
    """Refuse runs that do not train as one ensemble.

    Raises
    ------
    BnbookError
        With the first run that is unlike the others.
    """
    if odd := [run for run in runs if fuses(run) != fuses(runs[0])]:
        raise BnbookError(f"runs of one ensemble differ in seed and rate alone, found {odd[0]}.")
