"""Plots as SVG, written by hand: a bar for each way, with a line from the lowest to the highest value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, VALUES, ROW, TOP, BOTTOM = 720, 210, 130, 34, 52, 12
# Own backgrounds, so that a plot is readable on light and on dark pages.
STYLE = """
    .paper { fill: #ffffff } .text { fill: #1f2328 } .quiet { fill: #59636e } .range { stroke: #1f2328 }
    .ours { fill: #0969da } .other { fill: #9198a1 }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #0d1117 } .text { fill: #f0f6fc } .quiet { fill: #9198a1 } .range { stroke: #f0f6fc }
      .ours { fill: #4493f8 } .other { fill: #656c76 }
    }
    text { font: 14px system-ui, sans-serif } .title { font-weight: 600; font-size: 16px }"""


@dataclass(frozen=True)
class Bar:
    """One bar: a name, the median, the lowest and the highest value, and whether it is this project."""

    name: str
    median: float
    lowest: float
    highest: float
    ours: bool = False


def short(value: float) -> str:
    """A number with as many digits as its size deserves."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def plot(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """A plot with a bar for each way.

    Args:
        title: what was measured, and which direction is better.
        unit: unit of the values.
        bars: at least one.
    """
    height = TOP + ROW * len(bars) + BOTTOM
    space = WIDTH - LABELS - VALUES
    scale = space / (max(bar.highest for bar in bars) or 1)
    described = "; ".join(f"{bar.name} {short(bar.median)} {unit}" for bar in bars)
    size = f'width="{WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size} role="img">',
        f"  <title>{escape(title)}: {escape(described)}</title>",
        f"  <style>{STYLE}\n  </style>",
        f'  <rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        f'  <text class="text title" x="16" y="30">{escape(title)}</text>',
    ]
    for index, bar in enumerate(bars):
        top = TOP + ROW * index
        middle = top + 11
        kind = "ours" if bar.ours else "other"
        low, high = (LABELS + value * scale for value in (bar.lowest, bar.highest))
        lines += [
            f'  <text class="text" x="{LABELS - 10}" y="{middle + 5}" text-anchor="end">{escape(bar.name)}</text>',
            f'  <rect class="{kind}" x="{LABELS}" y="{top}" width="{bar.median * scale:.1f}" height="22" rx="2"/>',
            f'  <line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke-width="2"/>',
            f'  <text class="quiet" x="{high + 8:.1f}" y="{middle + 5}">{short(bar.median)} {escape(unit)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
