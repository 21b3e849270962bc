"""How a judged claim is put in words: its numbers, its interval, and what has to be said of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from bnbook.evidence.claims import DECIDED
from bnbook.evidence.intervals import LEVEL

READABLE = 1e6
"""From this size on a number is written with a power of ten."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def reasons(
    claim: Mapping[str, Any], judgement: Mapping[str, Any], adjusted: float | None = None
) -> list[str]:
    """Say in sentences what qualifies a verdict: premises, members, the adjustment, revisions.

    The mappings come from `Claim.describe` and `Judgement.as_dict`. `adjusted` is the p value
    adjusted over the claims of the paper.
    """
    said = [
        f"Premise that fails: {premise['statement']} (found {premise['found']}, needed"
        f" {premise['needed']})."
        for premise in judgement.get("premises", ())
        if not premise["holds"]
    ]
    if not judgement["n"]:
        said.append("No seed has a value.")
    if missing := judgement.get("missing", 0):
        read = "" if judgement["verdict"] == "provisional" else ", and none that this claim reads"
        said.append(f"{missing} member{'s' * (missing > 1)} of the record missing{read}.")
    if judgement.get("unbounded"):
        said.append("The interval has no ends, for what it divides by is not clear of zero.")
    if shaken(judgement, adjusted):
        said.append("Inconclusive when adjusted over the claims of its paper.")
    if claim.get("revised"):
        said.append(claim["revised"])
    return said


def shaken(judgement: Mapping[str, Any], adjusted: float | None) -> bool:
    """Whether a verdict is decided, and would not be by its adjusted p value."""
    decided = judgement["verdict"] in DECIDED
    return decided and adjusted is not None and adjusted > 1 - LEVEL


def shaken_of(found: Iterable[tuple[Mapping[str, Any], float | None]]) -> str:
    """Say how many decided verdicts the adjustment would change, from judgements and p values."""
    counts = Counter(judged["verdict"] for judged, adjusted in found if shaken(judged, adjusted))
    said = " and ".join(f"{counts[verdict]} of the {verdict}" for verdict in DECIDED)
    return f"Adjusted over the claims of their paper, {said} are inconclusive."


def place(claim: Mapping[str, Any]) -> str:
    """Say where in its paper a claim stands: a section by its number, anything else as it is."""
    section = claim["section"]
    return f"section {section}" if section[:1].isdigit() else str(section)


def format_value(claim: Mapping[str, Any], number: float | None) -> str:
    """Round a claim's number to its digits, with its unit; an en dash when there is none.

    Without digits, when it is too large to read, and of exact claims where it is small, it is
    written with a power of ten.
    """
    if number is None:
        return "–"  # noqa: RUF001
    digits = claim["digits"]
    small = claim.get("exact") and abs(number) < 0.01
    if digits is None or small or abs(number) >= READABLE:
        return f"{_power_of_ten(number)}{claim['unit']}"
    text = f"{number:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return f"{text.replace('-', '−')}{claim['unit']}"


def format_p(p: float | None) -> str:
    """Write a p value: three decimals, below 0.001 as that; an en dash when there is none."""
    if p is None:
        return "–"  # noqa: RUF001
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _power_of_ten(number: float) -> str:
    """Write a number with two digits, such as ``1.2 × 10⁻¹⁵``."""
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.1e}".replace("-", "−").split("e")
    raised = str(int(exponent.replace("−", "-"))).translate(SUPERSCRIPTS)
    return f"{mantissa} × 10{raised}"


def format_interval(claim: Mapping[str, Any], judgement: Mapping[str, Any]) -> str:
    """Write the interval as ``low to high``, rounded as the value is."""
    if claim.get("exact"):
        return "worst of all"
    if judgement.get("unbounded"):
        return "without ends"
    if judgement["low"] is None:
        return "–"  # noqa: RUF001
    bare = {**claim, "unit": ""}
    low, high = (format_value(bare, judgement[end]) for end in ("low", "high"))
    return f"{low} to {high}{claim['unit']}"
