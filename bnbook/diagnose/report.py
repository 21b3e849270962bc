"""A report: as a table in the terminal, as JSON, and as one page of HTML with two pictures."""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bnbook.diagnose.findings import NOTE, Finding
from bnbook.diagnose.layers import FIXED, OTHER
from bnbook.diagnose.passes import Seen, Subject, noise, population
from bnbook.diagnose.scale import Scales
from bnbook.diagnose.statistics import Gap, fit, worth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOOK = "https://github.com/bnbook/bnbook/blob/main/book"


@dataclass(frozen=True)
class Row:
    """What was measured at one layer; NaN where it does not apply.

    Attributes
    ----------
    name, layer, use : str
        Name in the network, class, and what it does: ``live`` normalises with the batch in
        training, ``frozen`` with fixed statistics, ``per example`` with each example's own.
    values : int
        Values of a feature in a batch.
    worth : float
        Independent values that a batch is worth.
    mean_off, variance_off : float
        Running against population statistics: in standard deviations, and as a logarithm.
    effect : float
        What the layer's running statistics alone do to the outputs, in units of their spread.
    loss_effect : float
        The same to the loss.
    spread, gradient : float
        Standard deviation of the inputs; root mean square of the loss's gradient by them, times
        that.
    turn : float
        Length of the gradient of the weight before the layer over that of the weight.
    """

    name: str
    layer: str
    use: str
    values: int = 0
    worth: float = math.nan
    mean_off: float = math.nan
    variance_off: float = math.nan
    effect: float = math.nan
    loss_effect: float = math.nan
    spread: float = math.nan
    gradient: float = math.nan
    turn: float = math.nan


def rows(subject: Subject, trained: Seen, still: Seen, gap: Gap, scales: Scales) -> tuple[Row, ...]:
    """Gather what was measured, a row a layer: those that were reached first, in their order."""
    names = [*trained, *(n for n in subject.layers if n not in trained)]
    return tuple(_row(name, subject, trained, still, gap, scales) for name in names)


def _row(name: str, subject: Subject, trained: Seen, still: Seen, gap: Gap, scales: Scales) -> Row:
    layer = subject.layers[name]
    kind = type(layer.module).__name__
    if layer.kind == OTHER:
        return Row(name, kind, "per example")
    calls = trained.get(name, [])
    if name not in subject.live or not calls:
        frozen = layer.kind == FIXED or bool(calls)
        return Row(name, kind, "frozen" if frozen else "unused")
    found = fit(layer, calls) if layer.tracked else None
    return Row(
        name, kind, "live",
        values=max(call.values for call in calls),
        worth=worth(noise(calls)),
        mean_off=found.mean if found else math.nan,
        variance_off=found.variance if found else math.nan,
        effect=gap.layers.get(name, math.nan),
        loss_effect=gap.layer_losses.get(name, math.nan),
        spread=math.sqrt(float(population(still.get(name, calls)).var.mean())),
        gradient=scales.gradients.get(name, math.nan),
        turn=scales.turns.get(name, math.nan),
    )  # fmt: skip


@dataclass
class Report:
    """What `diagnose` found.

    Attributes
    ----------
    findings : tuple of Finding
        The gravest first; empty for a healthy network.
    layers : tuple of Row
        What was measured at each normalisation layer, in the order in which they are reached.
    losses : dict of str to float
        Mean loss over the batches: ``training`` as in training; in evaluation with statistics of
        the ``batch``, the ``running`` ones, and those of the ``population``. NaN without a loss.
    noise, stale : float
        Distance of the outputs with the batch's statistics, and with the running ones, from those
        with the population's, in units of the outputs' spread over examples.
    edge : float
        The largest step along the gradient that still helps; NaN without a loss.
    batches, examples : int
        What was used.
    passes : float
        Forward passes that were made, in units of one over all batches.
    seconds : float
        How long it took.
    """

    findings: tuple[Finding, ...]
    layers: tuple[Row, ...]
    losses: Mapping[str, float]
    noise: float
    stale: float
    edge: float
    batches: int
    examples: int
    passes: float
    seconds: float = math.nan

    @property
    def healthy(self) -> bool:
        """Whether nothing worse than a note was found."""
        return all(finding.severity == NOTE for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; numbers that are not finite become None."""
        content = asdict(self)
        for finding, said in zip(self.findings, content["findings"], strict=True):
            said["layer"] = finding.layer
        plain: dict[str, Any] = _plain(content)
        return plain

    def json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)

    def html(self) -> str:
        """Return one page that needs no other file: findings, two pictures, all numbers."""
        return _page(self)

    def __rich__(self) -> Group:
        """Lay the findings out for a terminal."""
        return Group(_found(self), Text(_summary(self)))

    def __str__(self) -> str:
        """Return what the terminal shows, without colours."""
        sink = io.StringIO()
        Console(file=sink, width=120, no_color=True).print(self)
        return sink.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _found(report: Report) -> Table:
    table = Table("", "finding", "what it costs, and what to try", show_lines=True)
    for finding in report.findings:
        what = Text.assemble(
            (finding.kind, "bold"), f"\n{finding.where}\n{finding.found}.\n",
            (f"Normal: {finding.normal}.", "dim"),
        )  # fmt: skip
        cure = Text.assemble(
            f"{finding.costs}.\n", (finding.cure, "cyan"), (f"\nbook/{finding.chapter}.md", "dim")
        )
        table.add_row(Text(finding.severity), what, cure)
    return table


def _summary(report: Report) -> str:
    count, live = len(report.findings), sum(row.use == "live" for row in report.layers)
    said = (
        f"{count} finding{'' if count == 1 else 's'} in {live} layers that normalise with the"
        f" batch, of {len(report.layers)} normalisation layers; {report.batches} batches,"
        f" {report.examples} examples, {report.passes:.1f} forward passes,"
        f" {report.seconds:.1f} s.\n"
        f"Outputs: running statistics {report.stale:.1%} of their spread away from the"
        f" population's, the batch's {report.noise:.1%}."
    )
    losses = {name: loss for name, loss in report.losses.items() if math.isfinite(loss)}
    if losses:
        said += "\nLoss: " + ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
    if not math.isnan(report.edge):
        edge = f"{report.edge:.2g}" if math.isfinite(report.edge) else "beyond all that were tried"
        said += f"\nLargest step along the gradient that still helps: {edge}"
    return said


def draw_gap(ax: Axes, report: Report) -> None:
    """Draw what each layer's running statistics alone do to the outputs, as bars.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    report : Report
        Layers that were not tried have no bar.
    """
    tried = [row for row in report.layers if math.isfinite(row.effect)]
    marked = {name for finding in report.findings for name in finding.layers}
    places = range(len(tried))
    effects = [100 * row.effect for row in tried]
    colours = ["#CC79A7" if row.name in marked else "#0072B2" for row in tried]
    ax.barh(places, effects, color=colours)
    for place, row in zip(places, tried, strict=True):
        hatch = "//" if row.name in marked else None
        ax.patches[place].set(hatch=hatch, edgecolor="white")
    ax.set_yticks(places, [row.name for row in tried], fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="change of the outputs by one layer's running statistics (% of their spread)")


def draw_depth(ax: Axes, report: Report) -> None:
    """Draw the spread of activations and of gradients by depth, on a logarithmic axis.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    report : Report
        Without a loss there are no gradients to draw.
    """
    live = [row for row in report.layers if row.use == "live"]
    places = range(1, len(live) + 1)
    ax.plot(places, [row.spread for row in live], "o-", color="#0072B2", label="inputs")
    gradients = [row.gradient for row in live]
    if any(math.isfinite(g) for g in gradients):
        label = "gradient × inputs"
        ax.plot(places, gradients, "^", ls=(0, (1, 1)), color="#009E73", label=label)
        ax.legend()
    ax.set(yscale="log", xlabel="layer, in the order of the pass", ylabel="standard deviation")


def _picture(draw: Any, report: Report, height: float) -> str:
    """Return one picture as SVG, without the lines that only a file of its own needs."""
    import matplotlib as mpl

    from bnbook.plots import style

    figure = style.new_figure(1, 1, 7, height)
    draw(figure.axes[0], report)
    sink = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": draw.__name__}):
        figure.savefig(sink, format="svg", metadata={"Date": None}, transparent=True)
    svg = sink.getvalue()
    return svg[svg.index("<svg") :]


STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
article { border-left: 4px solid #0072b2; padding: 0.1rem 1rem; margin: 1rem 0; }
article.error { border-color: #b00020; } article.note { border-color: #888; }
h2 { font-size: 1.25rem; } h3 { font-size: 1.05rem; margin: 0.5rem 0; overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; } dt { font-weight: 600; } dd { margin: 0 0 0.4rem 1rem; }
figure { margin: 1rem 0; background: #fff; color: #000; padding: 0.5rem; }
figure svg { width: 100%; height: auto; } figcaption { font-size: 0.9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.15rem 0.6rem; text-align: right; border-bottom: 1px solid #8888; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""


def _page(report: Report) -> str:
    tried = sum(math.isfinite(row.effect) for row in report.layers)
    gap = _figure(
        draw_gap, report, 1.2 + 0.22 * tried,
        "What each layer's running statistics alone do to the outputs. Hatched: layers with a"
        " finding.",
    )  # fmt: skip
    depth = _figure(draw_depth, report, 3.2, "Spread of inputs and gradients by depth.")
    found = "".join(map(_article, report.findings)) or "<p>No finding.</p>"
    summary = html.escape(_summary(report)).replace("\n", "<br>")
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Batch normalisation, diagnosed</title>\n<style>{STYLE}</style>\n"
        f"<main>\n<h1>Batch normalisation, diagnosed</h1>\n<p>{summary}</p>\n"
        f"<h2>Findings</h2>\n{found}\n<h2>Gap by layer</h2>\n{gap}\n"
        f"<h2>Moments by depth</h2>\n{depth}\n<h2>Layers</h2>\n{_layers(report)}\n"
        "</main>\n</html>\n"
    )


def _figure(draw: Any, report: Report, height: float, caption: str) -> str:
    said = html.escape(caption)
    picture = _picture(draw, report, height)
    return (
        f'<figure><div role="img" aria-label="{said}">{picture}</div>'
        f"<figcaption>{said}</figcaption></figure>"
    )


def _article(finding: Finding) -> str:
    said = {
        "found": html.escape(finding.found),
        "normal": html.escape(finding.normal),
        "costs": html.escape(finding.costs),
        "try": f"<code>{html.escape(finding.cure)}</code>",
        "read": f'<a href="{BOOK}/{finding.chapter}.md">{html.escape(finding.chapter)}</a>',
        "layers": html.escape(", ".join(finding.layers)) or "the whole network",
    }
    lines = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in said.items())
    title = html.escape(f"{finding.severity}: {finding.kind}, {finding.where}")
    return f'<article class="{finding.severity}"><h3>{title}</h3><dl>{lines}</dl></article>'


def _layers(report: Report) -> str:
    numbers = ("worth", "mean_off", "variance_off", "effect", "loss_effect", "spread", "gradient",
               "turn")  # fmt: skip
    titles = "".join(f"<th>{name.replace('_', ' ')}</th>"
                     for name in ("name", "layer", "use", "values", *numbers))  # fmt: skip
    body = ""
    for row in report.layers:
        cells = [html.escape(row.name), html.escape(row.layer), row.use, str(row.values)]
        cells += ["" if math.isnan(v) else f"{v:.3g}" for v in (getattr(row, n) for n in numbers)]
        body += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Numbers of all layers">'
        f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )
