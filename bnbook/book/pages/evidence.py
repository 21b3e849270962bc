"""What pages may print: claims, facts and records, found by name and written as text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from bnbook.errors import BnbookError
from bnbook.evidence import ledger, wording
from bnbook.evidence.wording import format_interval, format_value

T = TypeVar("T")
NBSP = "\u00a0"
DESCRIPTIONS = ("statement", "quantity", "criterion", "paper", "section")
"""The fields of a claim that are words, written before the run."""
_MADE_BY = "`bnbook run` records results and `bnbook judge` writes the ledger files"
MOST_LISTED = 20
"""Names that an error lists; of more, the nearest."""


@dataclass(frozen=True)
class Request:
    """What a role or directive asks for, such as ``ioffe.fig1a.speed value @quick``.

    Attributes
    ----------
    name : str
        Of a claim, a fact or an experiment.
    field : str
        Empty for the default.
    profile : str, optional
        None for the best recorded one.
    """

    name: str
    field: str = ""
    profile: str | None = None

    @classmethod
    def parse(cls, text: str) -> Request:
        """Read ``name [field] [@profile]``."""
        words = text.split()
        profile = words.pop()[1:] if words and words[-1].startswith("@") else None
        if not 1 <= len(words) <= 2 or profile == "":
            raise BnbookError(f"expected `name [field] [@profile]`, found {text!r}.")
        return cls(words[0], words[1] if len(words) == 2 else "", profile)


@dataclass(frozen=True)
class Evidence:
    """The ledger files under a results folder.

    Attributes
    ----------
    folder : pathlib.Path
        The results folder.
    contents : dict
        Experiment -> content of its ledger file.
    """

    folder: Path
    contents: dict[str, dict[str, Any]]

    def experiment(self, name: str) -> dict[str, Any]:
        """Return an experiment's content, or raise a `BnbookError` that lists those there are."""
        return _pick(self.contents, name, f"an experiment in {self.folder / 'claims'}")

    def claim(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (content, claim) by the claim's id, or raise an error that lists the ids."""
        return _pick(self._claims, name, f"a claim in {self.folder / 'claims'}")

    @cached_property
    def adjusted(self) -> dict[str, float]:
        """P values adjusted over the claims of each paper, by claim id."""
        return ledger.adjusted(self.contents)

    @cached_property
    def _claims(self) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        return ledger.by_id(self.contents)

    def others(self, claim: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Claims about the same quantity as a claim, in whichever record."""
        about = claim["concerns"]
        found = [other for _, other in self._claims.values() if about == other["concerns"]]
        return [other for other in found if about and other["id"] != claim["id"]]

    def file(self, content: Mapping[str, Any]) -> Path:
        """Return the ledger file that a content was read from."""
        return ledger.path(self.folder, content["experiment"])


def read(folder: Path) -> Evidence:
    """Read the ledger files under a results folder, again only when one of them has changed."""
    stamps = tuple(
        (file.name, file.stat().st_mtime_ns, file.stat().st_size)
        for file in sorted((folder / "claims").glob("*.json"))
    )
    return _read(folder, stamps)


@lru_cache(maxsize=1)
def _read(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> Evidence:
    del stamps
    return Evidence(folder, ledger.read(folder))


def _pick(found: Mapping[str, T], name: str, what: str) -> T:
    if name in found:
        return found[name]
    names = sorted(found)
    if len(names) > MOST_LISTED:
        near = difflib.get_close_matches(name, names, 5, cutoff=0.4)
        there = f"there are {len(names)}, the nearest: {', '.join(near) or names[0]}"
    else:
        there = f"there are: {', '.join(names) or f'none ({_MADE_BY})'}"
    raise BnbookError(f"expected {what}, found {name!r}; {there}.")


def profile_of(content: Mapping[str, Any], wanted: str | None) -> str:
    """Return the profile asked for, or the best one recorded."""
    if wanted is None:
        return ledger.best_profile(content)
    _pick(content["profiles"], wanted, f"a recorded profile of {content['experiment']}")
    return wanted


def anchor(claim: Mapping[str, Any]) -> str:
    """Name of the claim's entry in the ledger, as a label and as an HTML id."""
    return hyphened("claim", claim["id"])


def hyphened(kind: str, name: str) -> str:
    """Write a name so that it can be an anchor or a class: ``kind-name``, in small letters."""
    return f"{kind}-" + "".join(c if c.isalnum() else "-" for c in name.lower())


def place(claim: Mapping[str, Any]) -> str:
    """Where the claim stands: paper and section."""
    return f"{claim['paper']}, {wording.place(claim)}"


def _bind(text: str) -> str:
    """Keep a number and its unit on one line."""
    return text.replace(" ", NBSP)


def value_and_interval(claim: Mapping[str, Any], judgement: Mapping[str, Any]) -> str:
    """Write a claim's value with its interval, as sentences print it."""
    if judgement["value"] is None:
        if judgement["n"]:
            return "no value"
        none = judgement["undefined"]
        return f"no value (in none of {none} seeds)" if none else "no value yet"
    value = _bind(format_value(claim, judgement["value"]))
    if claim.get("exact"):
        most = "at most" if claim["direction"] == "below" else "at least"
        return f"{most} {value} (in {judgement['cases']} cases)"
    if judgement["low"] is None:
        ends = "95 % interval without ends" if judgement["unbounded"] else "no interval"
        return f"{value} ({_bind(ends)})"
    interval = _bind(format_interval(claim, judgement))
    return f"{value} (95{NBSP}% interval {interval})"


def seeds_text(judgement: Mapping[str, Any]) -> str:
    """Write n, the seeds used; ``9 of 10`` when one of them had no value."""
    n, undefined = judgement["n"], judgement["undefined"]
    apart = undefined and judgement["cases"] is None
    return _bind(f"{n} of {n + undefined}" if apart else str(n))


def claim_texts(
    claim: Mapping[str, Any], judgement: Mapping[str, Any], profile: str
) -> dict[str, str]:
    """Write everything that a ``{claim}`` role can print, by the name of the field."""
    numbers = ("value", "low", "high")
    return {
        **{name: str(claim[name]) for name in DESCRIPTIONS},
        **{name: _bind(format_value(claim, judgement[name])) for name in numbers},
        "interval": _bind(format_interval(claim, judgement)),
        "n": str(judgement["n"]),
        "cases": str(judgement["cases"] or judgement["n"]),
        "verdict": judgement["verdict"],
        "profile": profile,
    }


def claim_text(
    content: Mapping[str, Any], claim: Mapping[str, Any], field: str, profile: str
) -> str:
    """Write one field of a claim at a recorded profile; by default value and interval."""
    judgement = content["profiles"][profile]["judgements"][claim["id"]]
    if not field:
        return value_and_interval(claim, judgement)
    return _pick(claim_texts(claim, judgement, profile), field, "a field of a claim")


def fact_text(content: Mapping[str, Any], name: str, field: str, profile: str) -> str:
    """Write a fact at a recorded profile: ``value`` (the default), ``interval``, or an end.

    ``both`` is the value with the interval in brackets where there is one; a line may end between.
    """
    facts = content["profiles"][profile]["facts"]
    fact = _pick(facts, name, f"a fact of {content['experiment']} at {profile}")
    ends = [end for end in ("low", "high") if fact.get(end) is not None]
    texts = {"value": fact_number(fact, fact["value"])}
    texts |= {end: fact_number(fact, fact[end]) for end in ends}
    if len(ends) == 2:
        bare = {**fact, "unit": ""}
        low, high = (fact_number(bare, fact[end]) for end in ends)
        texts["interval"] = f"{low} to {high}{fact.get('unit', '')}"
    elif fact.get("unbounded"):
        texts["interval"] = "without ends"
    elif fact["value"] is None:  # a growing record lacks what it is made of
        texts["interval"] = texts["value"]
    apart = texts.get("interval", texts["value"]) != texts["value"]
    texts = {each: _bind(text) for each, text in texts.items()}
    texts["both"] = f"{texts['value']} ({texts['interval']})" if apart else texts["value"]
    return _pick(texts, field or "value", f"a field of the fact {content['experiment']}.{name}")


def fact_number(fact: Mapping[str, Any], number: float | str | None) -> str:
    """Round a fact's number to its digits, with its unit; 10,000 and above take commas."""
    if isinstance(number, str):
        return number
    digits, unit = fact.get("digits", 0), fact.get("unit", "")
    if number is not None and digits == 0 and abs(number) >= 10_000:
        return f"{number:,.0f}{unit}".replace("-", "−", 1)
    return format_value({"digits": digits, "unit": unit}, number)


def duration(seconds: float) -> str:
    """Write a time of computing in the unit that suits it."""
    minutes = timedelta(seconds=seconds) / timedelta(minutes=1)
    if minutes < 1.5:
        return f"{seconds:.0f} seconds"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def machine(record: Mapping[str, Any]) -> str:
    """Write what a record was computed on."""
    processor = str(record["processor"]).replace("(R)", "").replace("(TM)", "")
    processor = " ".join(processor.split())
    if record["device"] == "cpu":
        return f"on {record['cores']} CPU cores ({processor})"
    return f"on one {record['device']} (host: {processor})"


def _how_often(record: Mapping[str, Any]) -> str:
    """Write how many seeds or, of timings, repetitions a record has."""
    repetitions = (record.get("config") or {}).get("repetitions")
    if repetitions:
        return f"{repetitions} repetitions"
    seeds = record["seeds"]
    n = seeds if isinstance(seeds, int) else len(seeds)
    return f"n = {n} seed{'s' * (n != 1)}"


def _how_far(record: Mapping[str, Any]) -> list[str]:
    """Write how many members a record has that still grows; nothing of a whole one."""
    if not record.get("missing"):
        return []
    return [f"{record['members'] - record['missing']} of {record['members']} runs so far"]


def provenance(profile: str, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write where a record comes from as one sentence."""
    torch = record["versions"].get("torch")
    data = record["data"]
    facts = [
        _how_often(record),
        *_how_far(record),
        "generated data" if data == "generated" else f"data set {data}",
        machine(record),
        f"{duration(record['seconds'])} of computing",
        *([f"torch {torch}"] if torch else []),
        str(record["date"])[:10],
    ]
    digest = str(record["digest"])
    pieces = [
        ("text", "Recorded at "),
        ("code", profile),
        ("text", f": {', '.join(facts)}, record digest "),
        ("code", digest[:8] + "…" * (len(digest) > 8)),
    ]
    if commit := record.get("commit"):
        pieces += [("text", ", commit "), ("code", commit.rstrip("+")[:10])]
        pieces += [("text", " with changes not committed")] * commit.endswith("+")
    return [*pieces, ("text", ".")]
