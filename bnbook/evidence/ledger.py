"""The ledger: every experiment's claims, facts and verdicts, one JSON file each.

The files under ``results/claims`` are made from the recorded tables and committed; pages and the
README read them and nothing else, so that a page needs neither the experiments nor torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from bnbook import files
from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.evidence.claims import Claim, assess, judge
from bnbook.evidence.intervals import holm
from bnbook.evidence.wording import format_interval, format_value, reasons

RECORD_FIELDS = (
    "seeds", "data", "device", "processor", "cores", "system", "seconds", "date", "commit",
    "versions", "config",
)  # fmt: skip

_LEFT = "It was left as it is; restore it with `git checkout` or make it again with `bnbook judge`."
ROUNDING = 1e-8  # half of the digits that float64 has: what a fit may lose, and no claim notices


def entry(claims: Sequence[Claim], facts: Mapping[str, Any], record: records.Record) -> dict:
    """Describe one profile of an experiment: its record, judgements and facts."""
    about = {field: record.provenance.get(field) for field in RECORD_FIELDS}
    if record.provenance.get("missing"):
        about |= {field: record.provenance[field] for field in ("members", "missing")}
    about["reached"] = reached(record.table, bool(about.get("missing")))
    return {
        "record": {"digest": record.digest, **about},
        "judgements": assess(
            claims,
            record.table,
            record.provenance.get("missing", 0),
            record.provenance.get("config"),
        ),
        "facts": dict(facts),
    }


def reached(table: pd.DataFrame, growing: bool = False) -> list[float] | None:
    """Return the least and the most that networks end at on training images, in per cent.

    Each network (arm, depth, gain and minibatch) at the rate that is best for it there, means over
    seeds, of each seed the longest run; None where a table has no training accuracy. Where other
    seeds choose rates, only those that are shown. While a record is growing a network of which one
    rate alone has run has no best one.
    """
    if "training_accuracy" not in table:
        return None
    ended = table["step"] == table.get("length", table["step"].max())
    last = table[ended & ~_choosing(table)].dropna(subset="training_accuracy").sort_values("step")
    keys = [key for key in ("arm", "n", "gain", "batch_size") if key in last]
    ends = last.groupby([*keys, "learning_rate", "seed"])["training_accuracy"].last()
    mean = ends.groupby(level=[*keys, "learning_rate"]).mean()
    rates = mean.groupby(level=keys)
    best = 100 * rates.max()[rates.size() > int(growing)]
    if best.empty:
        return None
    return [float(best.min()), float(best.max())]


def _choosing(table: pd.DataFrame) -> pd.Series:
    """Whether a row is of a seed that chooses rates and is not shown."""
    if "tunes" in table:
        return table["tunes"].astype(bool)
    return table["role"].eq("tuning") if "role" in table else pd.Series(False, table.index)


def describe(
    name: str, title: str, claims: Sequence[Claim], profiles: Mapping[str, dict]
) -> dict[str, Any]:
    """Return the whole content of an experiment's ledger file."""
    return {
        "experiment": name,
        "title": title,
        "claims": [claim.describe() for claim in claims],
        "profiles": dict(profiles),
    }


def path(folder: Path, name: str) -> Path:
    """Return where an experiment's ledger file stands under a results folder."""
    return folder / "claims" / f"{name}.json"


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every ledger file under a results folder: experiment -> content."""
    found = {}
    for file in sorted((folder / "claims").glob("*.json")):
        try:
            content = json.loads(file.read_text("utf-8"))
            _ = [claim["id"] for claim in content["claims"]], content["profiles"].keys()
            name = content["experiment"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BnbookError(f"{file} is not a ledger file ({error!r}). {_LEFT}") from error
        if name != file.stem:
            raise BnbookError(f"{file} is the ledger file of {name} by what it says. {_LEFT}")
        found[name] = content
    return found


def best_profile(content: Mapping[str, Any]) -> str:
    """Return the largest profile that an experiment has a record of."""
    for profile in reversed(records.PROFILES):
        if profile in content["profiles"]:
            return profile
    raise BnbookError(f"{content['experiment']} has no recorded profile; run `bnbook run` first.")


def by_id(
    ledger: Mapping[str, Mapping[str, Any]],
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return every claim by its id: the content of the file that has it, and the claim."""
    return {
        claim["id"]: (dict(content), claim)
        for content in ledger.values()
        for claim in content["claims"]
    }


def judged(
    ledger: Mapping[str, Mapping[str, Any]], profile: str | None = None
) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Yield (claim, profile, judgement) for every claim."""
    for content in ledger.values():
        chosen = profile or best_profile(content)
        if chosen in content["profiles"]:
            for claim in content["claims"]:
                yield claim, chosen, content["profiles"][chosen]["judgements"][claim["id"]]


def adjusted(ledger: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Adjust the p values of each paper's claims for how many they are (Holm): claim id -> p.

    Each claim at its experiment's best profile; identities and claims that are not tested or have
    no interval have no p value and do not count.
    """
    papers: dict[str, dict[str, float]] = {}
    for claim, _, judgement in judged(ledger):
        counts = claim["kind"] != "identity" and judgement["verdict"] != "not tested"
        if counts and judgement["p"] is not None:
            papers.setdefault(claim["paper"], {})[claim["id"]] = judgement["p"]
    return {claim: p for of_paper in papers.values() for claim, p in holm(of_paper).items()}


def write(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write an experiment's ledger file in one step and return its path.

    A file that `agree`s with the content stays as it is, whatever this processor's last digits.
    """
    file = path(folder, name)
    try:
        known = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        known = None
    if not agree(content, known):
        files.write_json(file, content)
    return file


def agree(ours: Any, theirs: Any) -> bool:
    """Whether two contents of a ledger file are equal but for rounding.

    Processors add terms up in different orders, which moves the last digits of sums and of lines
    fitted to them. Words, counts, digests and the numbers' names have to be equal.
    """
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(agree(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(agree, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        both_nan = math.isnan(ours) and math.isnan(theirs)
        return both_nan or math.isclose(ours, theirs, rel_tol=ROUNDING, abs_tol=ROUNDING**2)
    return bool(ours == theirs)


def fields(config: Any) -> pd.DataFrame:
    """Return a frozen config as a table, one row per field, for a notebook."""
    values = {field: str(value) for field, value in asdict(config).items()}
    return pd.DataFrame({"value": values}).rename_axis("field")


def facts_table(facts: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return an experiment's facts as a table, rounded, one row per fact, for a notebook."""
    rows = {
        name: {
            "value": format_value(fact, fact["value"]),
            "95 % interval": format_interval(fact, fact),
        }
        for name, fact in facts.items()
    }
    return pd.DataFrame(rows).T.rename_axis("fact")


def verdicts(claims: Sequence[Claim], table: pd.DataFrame, name: str, profile: str) -> pd.DataFrame:
    """Judge claims from a fresh table beside the recorded verdicts, for a notebook.

    The fresh table was made at `profile`. The result has one row per claim. The record's verdict is
    that of its largest profile, which the chapter shows; where the two differ the last column says
    what the record has that this run has not. Pandas shows sentences whole from then on.
    """
    pd.set_option("display.max_colwidth", None)
    content = read(records.recorded()).get(name, {"profiles": {}})
    rows = {}
    for claim in claims:
        described, judgement = claim.describe(), judge(claim, table).as_dict()
        rows[claim.id] = {
            "value": format_value(described, judgement["value"]),
            "95 % interval": format_interval(described, judgement),
            "n": judgement["n"],
            "verdict": judgement["verdict"],
            "the record's": _of_record(content, claim.id),
            "because": " ".join(
                [*reasons(described, judgement), *_apart(content, claim.id, judgement, profile)]
            ),
        }
    return pd.DataFrame(rows).T.rename_axis("claim")


def _of_record(content: Mapping[str, Any], claim: str) -> str:
    """Return the verdict of the largest recorded profile, and which that is."""
    if not content["profiles"]:
        return "no record"
    profile = best_profile(content)
    judged = content["profiles"][profile]["judgements"].get(claim)
    return f"{judged['verdict']} (at {profile})" if judged else "no record"


MOST_NAMED = 6
"""Settings by which a record and a run are told apart."""


def _apart(
    content: Mapping[str, Any], claim: str, judgement: Mapping[str, Any], profile: str
) -> list[str]:
    """Say why a fresh verdict is not the record's: the settings in which they differ."""
    if not content["profiles"]:
        return []
    best = best_profile(content)
    judged = content["profiles"][best]["judgements"].get(claim)
    if judged is None or judged["verdict"] == judgement["verdict"]:
        return []
    if best == profile or profile not in content["profiles"]:
        return [f"The record at {best} is of another machine or other seeds: `bnbook compare`."]
    theirs, ours = (content["profiles"][p]["record"].get("config") or {} for p in (best, profile))
    sizes = {key: (_size(theirs[key]), _size(ours.get(key))) for key in theirs}
    told = [
        f"{key.replace('_', ' ')} {more} (here {less})"
        for key, (more, less) in sizes.items()
        if more != less
    ]
    return [f"The record at {best} has {', '.join(told[:MOST_NAMED])}."]


def _size(value: Any) -> Any:
    """Return a setting as it is written in a sentence: of several values how many there are."""
    return len(value) if isinstance(value, list | tuple) else value
