"""The roles ``{claim}`` and ``{fact}``: numbers in sentences come from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from bnbook.book.pages import evidence, places
from bnbook.errors import BnbookError
from bnbook.evidence import wording

logger = logging.getLogger(__name__)
SHAKEN = ", but inconclusive when adjusted"
"""Follows a verdict that the adjustment over its paper's claims would change."""


def read_evidence(env: BuildEnvironment) -> evidence.Evidence:
    """Read the ledger files of the book that is being built."""
    return evidence.read(Path(env.srcdir) / env.config.bnbook_results)


def depend_on(env: BuildEnvironment, file: Path) -> None:
    """Make the page that is being read depend on a file under the source folder."""
    env.note_dependency(file.relative_to(env.srcdir).as_posix())


def badge_classes(verdict: str) -> list[str]:
    """Return the classes that put a shape beside a verdict's words: colour alone is not enough."""
    return ["verdict", f"verdict-{verdict.replace(' ', '-')}"]


def link(
    env: BuildEnvironment, claim: Mapping[str, Any], text: str, classes: list[str]
) -> nodes.Node:
    """Link something to the claim's entry in the ledger.

    Sphinx keeps the text of what is linked and drops its classes, so they go around the link.
    """
    reference = places.reference(env, "ref", evidence.anchor(claim), text)
    return nodes.inline("", "", reference, classes=classes)


def recorded(env: BuildEnvironment, request: evidence.Request) -> tuple[dict[str, Any], str]:
    """Return the (content, profile) of an experiment, and depend on its ledger file."""
    if request.field:
        raise BnbookError(f"expected `experiment [@profile]`, found {request.field!r} besides.")
    found = read_evidence(env)
    content = found.experiment(request.name)
    depend_on(env, found.file(content))
    return content, evidence.profile_of(content, request.profile)


def adjusted(env: BuildEnvironment, content: Mapping[str, Any], profile: str) -> dict[str, float]:
    """Return the adjusted p values for an experiment's best profile, and depend on all files."""
    if profile != evidence.profile_of(content, None):
        return {}
    found = read_evidence(env)
    for other in found.contents.values():
        depend_on(env, found.file(other))
    return found.adjusted


def qualified(
    env: BuildEnvironment, content: Mapping[str, Any], profile: str, claim: str
) -> list[nodes.Node]:
    """Return what follows a verdict that the adjustment would change; of any other nothing."""
    judgement = content["profiles"][profile]["judgements"][claim]
    shaken = wording.shaken(judgement, adjusted(env, content, profile).get(claim))
    return [nodes.Text(SHAKEN)] if shaken else []


def provenance(profile: str, record: Mapping[str, Any]) -> list[nodes.Node]:
    """Return the sentence that says where a record comes from."""
    return [
        nodes.literal(text, text) if kind == "code" else nodes.Text(text)
        for kind, text in evidence.provenance(profile, record)
    ]


def warn(source: SphinxRole | SphinxDirective, error: BnbookError) -> None:
    """Warn of what a role or directive could not find, where it stands."""
    logger.warning(
        f"{{{source.name}}}: {error}",
        location=source.get_location(),
        type="bnbook",
        subtype=source.name,
    )


class _LedgerRole(SphinxRole):
    """A role that prints something from the ledger; what it cannot find is a warning."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Print it, or warn and show the source."""
        try:
            return self.printed(), []
        except BnbookError as error:
            warn(self, error)
            return [nodes.problematic(self.rawtext, self.rawtext)], []

    def printed(self) -> list[nodes.Node]:
        """Return what is printed for the role's text."""
        return self.render(evidence.Request.parse(self.text))

    def render(self, request: evidence.Request) -> list[nodes.Node]:
        """Return what is printed of one name."""
        raise NotImplementedError


class ClaimRole(_LedgerRole):
    """``{claim}`id [field] [@profile]```: a claim's value and interval, or one field of it."""

    def render(self, request: evidence.Request) -> list[nodes.Node]:
        """Return the text; numbers and verdicts link to the claim's entry in the ledger."""
        found = read_evidence(self.env)
        content, claim = found.claim(request.name)
        depend_on(self.env, found.file(content))
        profile = evidence.profile_of(content, request.profile)
        text = evidence.claim_text(content, claim, request.field, profile)
        if request.field in evidence.DESCRIPTIONS:
            return [nodes.inline(text, text, classes=["claim-words"])]
        if request.field != "verdict":
            return [link(self.env, claim, text, ["claim"])]
        badge = link(self.env, claim, text, badge_classes(text))
        return [badge, *qualified(self.env, content, profile, claim["id"])]


class FactRole(_LedgerRole):
    """``{fact}`experiment.name [field] [@profile]```: a number that no claim is about."""

    def render(self, request: evidence.Request) -> list[nodes.Node]:
        """Return the text."""
        experiment, _, name = request.name.partition(".")
        content, profile = recorded(self.env, replace(request, name=experiment, field=""))
        text = evidence.fact_text(content, name, request.field, profile)
        return [nodes.inline(text, text, classes=["fact"])]


class ProvenanceRole(_LedgerRole):
    """``{provenance}`experiment [@profile]```: where the numbers come from, in a sentence."""

    def render(self, request: evidence.Request) -> list[nodes.Node]:
        """Return the sentence's nodes."""
        content, profile = recorded(self.env, request)
        return provenance(profile, content["profiles"][profile]["record"])


class TookRole(_LedgerRole):
    """``{took}`experiment [experiment ...]```: how long their best records took to compute."""

    def printed(self) -> list[nodes.Node]:
        """Return the time of all of them together."""
        seconds = 0.0
        for name in self.text.split():
            content, profile = recorded(self.env, evidence.Request.parse(name))
            seconds += content["profiles"][profile]["record"]["seconds"]
        return [nodes.Text(evidence.duration(seconds))]


ROLES: dict[str, Callable[[], SphinxRole]] = {
    "claim": ClaimRole,
    "fact": FactRole,
    "provenance": ProvenanceRole,
    "took": TookRole,
}


def setup(app: Sphinx) -> None:
    """Add the roles."""
    for name, role in ROLES.items():
        app.add_role(name, role())
