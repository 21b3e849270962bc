"""Where the results stand: recorded and fresh tables, judged and held against each other."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bnbook import experiments
from bnbook.bench import scaling
from bnbook.errors import BnbookError
from bnbook.evidence import claims, ledger, records, wording
from bnbook.experiments import Experiment


class Row(NamedTuple):
    """One claim judged from one table."""

    experiment: str
    claim: dict[str, Any]
    profile: str
    source: str
    judgement: dict[str, Any]
    conflict: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the row as a flat mapping, for JSON."""
        return {
            "id": self.claim["id"],
            **{k: self.claim[k] for k in ("paper", "statement", "criterion", "unit")},
            **self.judgement,
            "profile": self.profile,
            "source": self.source,
            "conflict": self.conflict,
        }


MEASUREMENTS = (scaling.MEASUREMENT,)
"""What has a record and facts but no claims, and so a ledger file like an experiment's."""


def everything(name: str | None = None) -> list[Experiment]:
    """Return every experiment, then the measurements without claims; or the experiment named."""
    if name is not None:
        return [experiments.find(name)]
    return [*(experiments.find(each) for each in experiments.names()), *MEASUREMENTS]


def entries(experiment: Experiment, folder: Path) -> dict[str, dict]:
    """Judge every record that an experiment has under a results folder: profile -> entry."""
    found = {}
    for profile in records.PROFILES:
        path = records.path(folder, experiment.name, profile)
        if path.is_file():
            record = records.read(path)
            found[profile] = ledger.entry(experiment.claims, _facts(experiment, record), record)
    return found


def _facts(experiment: Experiment, record: records.Record) -> dict[str, dict[str, Any]]:
    """Return an experiment's facts; none while its record lacks what they are made of."""
    missing = record.provenance.get("missing", 0)
    return claims.if_possible(lambda: experiment.facts(record.table), missing, {})


def content(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Return what an experiment's ledger file should hold, from its records."""
    name = experiment.name
    return ledger.describe(name, experiment.title, experiment.claims, entries(experiment, folder))


def rewrite_ledger(folder: Path, name: str | None = None) -> list[Path]:
    """Write the ledger file of every experiment that has records, or of one; return the paths."""
    written = []
    for experiment in everything(name):
        judged = content(experiment, folder)
        if judged["profiles"]:
            written.append(ledger.write(folder, experiment.name, judged))
    return written


def rows(recorded: Path, fresh: Path, only: str | None = None) -> Iterator[Row]:
    """Judge the recorded tables and the fresh ones.

    Both folders are results folders. `only` is an experiment; None takes all. Recorded rows come
    first. A fresh row is in conflict when it contradicts the recorded judgement of the same profile
    beyond the intervals (`claims.conflict`).

    Raises
    ------
    BnbookError
        When a ledger file is not what its records and claims give.
    """
    on_file = ledger.read(recorded)
    for experiment in everything(only):
        name = experiment.name
        ours = content(experiment, recorded)
        if ours["profiles"] and not ledger.agree(ours, on_file.get(name)):
            raise BnbookError(
                f"{ledger.path(recorded, name)} is not what the records and claims of {name} give."
                " It was left as it is; `make judge` writes it again."
            )
        by_id = {claim["id"]: claim for claim in ours["claims"]}
        for profile, entry in ours["profiles"].items():
            for key, judgement in entry["judgements"].items():
                yield Row(name, by_id[key], profile, "recorded", judgement, False)
        for profile, entry in entries(experiment, fresh).items():
            known = ours["profiles"].get(profile, {"judgements": {}})["judgements"]
            for key, judgement in entry["judgements"].items():
                against = key in known and claims.conflict(known[key], judgement)
                yield Row(name, by_id[key], profile, "fresh", judgement, against)


def compare(
    experiment: Experiment, profile: str, recorded: Path, fresh: Path
) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any], bool]]:
    """Yield (claim, recorded judgement, fresh judgement, conflict) for each claim.

    Raises
    ------
    BnbookError
        When one of the two records is missing.
    """
    name = experiment.name
    ours, yours = (
        ledger.entry(experiment.claims, {}, records.read(records.path(folder, name, profile)))
        for folder in (recorded, fresh)
    )
    for claim in experiment.claims:
        pair = ours["judgements"][claim.id], yours["judgements"][claim.id]
        yield claim.describe(), *pair, claims.conflict(*pair)


def differences(ours: Mapping[str, Any], yours: Mapping[str, Any]) -> list[str]:
    """Say in words what differs between two records' provenance, seeds and machines included.

    Of a config and of versions each entry that differs, and no other.
    """
    one, other = (_entries(about) for about in (ours, yours))
    return [
        f"{name}: ours {_short(one.get(name))}, yours {_short(other.get(name))}"
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]


def _entries(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two records are compared in, a config's and the versions' entries by name."""
    found = dict[str, Any]()
    for field in ("data_digest", "config", "source_digest", "device", "processor", "versions"):
        value = about.get(field)
        inside = {f"{field}.{k}": v for k, v in value.items()} if isinstance(value, dict) else None
        found |= {field: value} if inside is None else inside
    return found


def _short(value: Any) -> str:
    """Write a value; of a long one the two ends."""
    text = str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:40]} … {text[-20:]}"


MOST_LETTERS = 70
"""Of a value that `differences` writes out."""
Found = tuple[dict[str, Any], str, dict[str, Any]]
"""A claim, the profile it is judged at, and the judgement."""
README_TABLE = re.compile(r"(<!-- claims: made by `make judge` -->\n).*?(<!-- end -->)", re.DOTALL)


def readme(text: str, folder: Path) -> str:
    """Return a README's text with its claims made from the ledger: counts, then folded tables.

    Raises
    ------
    BnbookError
        When the markers between which the table stands are missing.
    """
    if not README_TABLE.search(text):
        raise BnbookError("README.md lacks the markers of its table of claims; it was left as is.")
    on_file = ledger.read(folder)
    found, adjusted = list(ledger.judged(on_file)), ledger.adjusted(on_file)
    papers = dict.fromkeys(claim["paper"] for claim, *_ in found)
    folded = (
        _folded(paper, [one for one in found if one[0]["paper"] == paper], adjusted)
        for paper in papers
    )
    said = wording.shaken_of((judged, adjusted.get(claim["id"])) for claim, _, judged in found)
    table = f"{_counts(found)}\n{said}\n\n{''.join(folded)}"
    return README_TABLE.sub(lambda match: match[1] + table + match[2], text)


def _counts(found: Sequence[Found]) -> str:
    """Return the table of how many claims have which verdict: experiments by paper, then others."""
    groups: dict[str, Counter[str]] = {}
    for claim, _, judgement in found:
        group = claim["paper"] if claim["kind"] == "experiment" else claim["kind"]
        groups.setdefault(group, Counter())[judgement["verdict"]] += 1
    others = {kind: groups.pop(kind) for kind in claims.KINDS if kind in groups}
    rows = [*groups.items(), ("**all experiments**", sum(groups.values(), Counter()))]
    rows += [(claims.KINDS[kind], counts) for kind, counts in others.items()]
    columns = ("claims of", *claims.VERDICTS, "all")
    lines = [columns, ["---"] * len(columns)]
    for group, counts in rows:
        lines.append([group, *(str(counts[name]) for name in claims.VERDICTS), str(counts.total())])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _folded(paper: str, found: Sequence[Found], adjusted: Mapping[str, float]) -> str:
    """Return a paper's claims as a table that GitHub shows when its line is clicked."""
    lines = [
        _row(
            f"{claim['statement']} ({wording.place(claim)}; {claim['kind']}; `{claim['id']}`)",
            wording.format_value(claim, judged["value"]),
            wording.format_interval(claim, judged),
            str(judged["n"]),
            wording.format_p(adjusted.get(claim["id"])),
            profile,
            _verdict(claim, judged, adjusted),
        )
        for claim, profile, judged in found
    ]
    columns = ("claim", "value", "95 % interval", "n", "adjusted p", "profile", "verdict")
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    summary = f"<summary>{html.escape(paper)}: {len(found)} claim{'s' * (len(found) > 1)}</summary>"
    return f"<details>\n{summary}\n\n{head}{''.join(lines)}\n</details>\n\n"


def _verdict(
    claim: Mapping[str, Any], judged: Mapping[str, Any], adjusted: Mapping[str, float]
) -> str:
    """Return the verdict in bold and what qualifies it."""
    said = wording.reasons(claim, judged, adjusted.get(claim["id"]))
    return " ".join([f"**{judged['verdict']}**", *said])


def _row(*cells: str) -> str:
    """Return a row of a Markdown table; what would end a cell or begin a tag is escaped."""
    return "| " + " | ".join(c.replace("|", "\\|").replace("<", "&lt;") for c in cells) + " |\n"
