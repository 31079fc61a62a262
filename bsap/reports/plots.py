"""Curves of a run as SVG drawings that take their colours for text and axes from the page around them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bsap.errors import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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

    def draw(axes: Axes) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
        for n, (name, points) in enumerate(curves.items()):
            colour, dash = COLOURS[n % len(COLOURS)], _DASHES[n // len(COLOURS) % len(_DASHES)]
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            label = visible(name, limit=40).lstrip("_")  # matplotlib hides labels that start with an underscore
            axes.plot(xs, ys, dash, color=colour, label=label, linewidth=1.6, marker="o", markersize=3)
        axes.set_ylabel(y)
        if ticks is not None:
            axes.set_xticks(range(len(ticks)), [visible(tick, limit=20) for tick in ticks])
        axes.grid(alpha=0.25, color=_INK)
        if curves:
            axes.figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=columns)

    # The legend lies below the curves, in as many columns as names of this length leave room for.
    columns = max(1, 55 // (max(map(len, curves), default=0) + 8))
    return _svg(draw, x=x, height=3.2 + 0.17 * -(-len(curves) // columns))


def bar_plot(bars: Mapping[str, float], *, x: str) -> str:
    """One horizontal bar for each name, as an SVG element."""

    def draw(axes: Axes) -> None:
        axes.barh(range(len(bars)), list(bars.values()), color=COLOURS[1])
        axes.set_yticks(range(len(bars)), [visible(name, limit=40) for name in bars])
        axes.invert_yaxis()
        axes.locator_params("x", nbins=5)

    return _svg(draw, x=x, height=0.6 + 0.34 * max(len(bars), 1))


def _svg(draw: Callable[[Axes], None], *, x: str, height: float) -> str:
    """A drawing without its XML head and fixed size, hidden from screen readers, which read the caption."""
    import matplotlib
    from matplotlib.figure import Figure

    coloured: tuple[Any, ...] = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": x, "font.size": 10, "text.parse_math": False}
    text = io.StringIO()
    with matplotlib.rc_context({**style, **dict.fromkeys(coloured, _INK)}):
        figure = Figure(figsize=(4.6, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(x)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} aria-hidden="true">{rest}'
