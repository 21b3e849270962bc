"""What a finding says: its kind, where it was found, and the number beside what is normal."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
"""From the gravest: results are wrong; results are worse than they need be; good to know."""


@dataclass(frozen=True)
class Kind:
    """All that is the same for every finding of one kind.

    Attributes
    ----------
    name : str
        In words, such as "never updated".
    severity : str
        Of `SEVERITIES`, unless a finding says otherwise.
    normal : str
        The value that is normal, and why.
    costs : str
        What happens if nothing is done.
    cure : str
        One line of code to try; ``{layer}`` stands for the layer's name, or the module's before it.
    chapter : str
        Stem of the chapter that explains it.
    """

    name: str
    severity: str
    normal: str
    costs: str
    cure: str
    chapter: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or good to know.

    Attributes
    ----------
    kind : str
        Name of the `Kind`.
    severity : str
        ``error``, ``warning`` or ``note``.
    layers : tuple of str
        Where: the layer that is worst first. Empty for the network as a whole.
    value : float
        The number that was found, in the unit that `found` says.
    found, normal, costs, cure, chapter : str
        What was found; what is normal, and why; what it costs; one line of code to try; the stem of
        the chapter that explains it.
    """

    kind: str
    severity: str
    layers: tuple[str, ...]
    value: float
    found: str
    normal: str
    costs: str
    cure: str
    chapter: str

    @property
    def layer(self) -> str:
        """The layer that is worst; empty for the network as a whole."""
        return self.layers[0] if self.layers else ""

    @property
    def where(self) -> str:
        """The layers in words."""
        if not self.layers:
            return "the whole network"
        more = len(self.layers) - 1
        return f"layer {self.layer}" + (f" and {more} more" if more else "")


def make(
    kind: Kind,
    layers: list[str] | tuple[str, ...],
    value: float,
    found: str,
    *,
    severity: str | None = None,
    costs: str | None = None,
    place: str | None = None,
) -> Finding:
    """Make a finding of a kind.

    `severity` and `costs` stand in place of the kind's; `place` is the module that the cure is
    about, where that is not the layer.
    """
    worst = layers[0] if layers else ""
    return Finding(
        kind=kind.name,
        severity=severity or kind.severity,
        layers=tuple(layers),
        value=float(value),
        found=found,
        normal=kind.normal,
        costs=costs or kind.costs,
        cure=kind.cure.replace("{layer}", worst if place is None else place),
        chapter=kind.chapter,
    )
