"""Curves of a run as SVG drawings that take their colours for text and axes from the page around them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

from bsap.reports.text import visible

COLOURS = ("#c24e00", "#1f7fc4", "#a8578c", "#b07a00", "#2f9e77", "#7a6fd0")
"""Colours with a contrast of at least 3 to 1 on white and on near black; lines also differ in their dashes."""

_DASHES = ("-", "--", "-.", ":")
_INK = "#010203"  # replaced by the page's own colour
Points = Sequence[tuple[float, float]]


def line_plot(
    curves: Mapping[str, Points], *, x: str, y: str, ticks: Sequence[str] | None = None, diagonal: bool = False
) -> str:
    """Lines as an SVG element.

    Args:
        curves: points by the name of each line.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
        ticks: names for x = 0, 1, ...; by default numbers.
        diagonal: whether to draw y = x, where a calibrated scorer lies.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none", "svg.hashsalt": f"{x}|{y}", "font.size": 10, "font.family": "sans-serif",
        "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
        "text.parse_math": False,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
        for n, (name, points) in enumerate(curves.items()):
            colour, dash = COLOURS[n % len(COLOURS)], _DASHES[n // len(COLOURS) % len(_DASHES)]
            xs, ys = zip(*points, strict=True) if points else ((), ())
            label = visible(name, limit=40).lstrip("_")  # matplotlib hides labels that start with an underscore
            axes.plot(xs, ys, dash, color=colour, label=label, linewidth=1.6, marker="o", markersize=3)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if ticks is not None:
            axes.set_xticks(range(len(ticks)), [visible(tick, limit=20) for tick in ticks])
        axes.grid(alpha=0.25, color=_INK)
        if curves:
            axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def bar_plot(bars: Mapping[str, float], *, y: str) -> str:
    """One bar for each name, as an SVG element."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": y, "font.size": 10, "text.color": _INK, "axes.edgecolor": _INK}
    style |= {"axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "text.parse_math": False}
    with rc_context(style):
        figure = Figure(figsize=(4.6, 0.6 + 0.34 * max(len(bars), 1)), layout="constrained")
        axes = figure.add_subplot()
        names = [visible(name, limit=40) for name in bars]
        axes.barh(range(len(bars)), list(bars.values()), color=COLOURS[1])
        axes.set_yticks(range(len(bars)), names)
        axes.invert_yaxis()
        axes.set_xlabel(y)
        return _svg(figure)


def _svg(figure: object) -> str:
    """The drawing without its XML head and fixed size, hidden from screen readers, which read the caption."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})  # type: ignore[attr-defined]
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} aria-hidden="true">{rest}'
