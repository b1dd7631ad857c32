"""A histogram as hand-written SVG, which uses the page's colours and needs no library."""

import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 32, 12, 56
MAX_BINS = 24


def histogram(values: Sequence[float], mean: float, unit: str) -> str:
    """The histogram of the finite values, with zero and the mean marked."""
    finite = np.array([value for value in values if math.isfinite(value)])
    if finite.size == 0:
        return "<p>Every picture equals its ground truth.</p>"
    edges = _edges(finite)
    counts, _ = np.histogram(finite, edges)
    low, high, most = edges[0], edges[-1], int(counts.max())

    def x_of(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y_of(count: float) -> float:
        return HEIGHT - BOTTOM - count / most * (HEIGHT - TOP - BOTTOM)

    bars = [
        f'<rect class="{"loss" if right <= 0 else "bar"}" x="{x_of(left) + 1:.1f}" '
        f'y="{y_of(count):.1f}" width="{max(1.0, x_of(right) - x_of(left) - 2):.1f}" '
        f'height="{HEIGHT - BOTTOM - y_of(count):.1f}"><title>{count} between {left:+.2f} and '
        f"{right:+.2f} {unit}</title></rect>"
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True)
        if count
    ]
    ticks = [
        f'<text x="{x_of(value):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
        f"{value:+.{_digits(high - low)}f}</text>"
        for value in edges[:: max(1, (len(edges) - 1) // 6)]
    ]
    zero = _vertical_line(x_of(0.0), "zero") if low < 0 < high else ""
    floor = HEIGHT - BOTTOM
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Histogram of gains">'
        f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{WIDTH - RIGHT}" y2="{floor}"/>'
        f'<text x="{LEFT - 8}" y="{TOP + 10}" text-anchor="end">{most}</text>'
        f'<text x="{LEFT - 8}" y="{floor}" text-anchor="end">0</text>'
        f"{''.join(bars)}{zero}{_vertical_line(x_of(mean), 'mean')}{''.join(ticks)}"
        f'<text x="{(WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">gain over '
        f"bicubic, {unit}; dashed: the mean, {mean:+.2f}</text></svg>"
    )


def _edges(finite: np.ndarray) -> np.ndarray:
    """Bin edges on round numbers, about twice the square root of the count."""
    spread = max(float(np.ptp(finite)), 0.05)
    target_bins = min(MAX_BINS, max(6, math.ceil(2 * math.sqrt(finite.size))))
    power = 10.0 ** math.floor(math.log10(spread / target_bins))
    step = next(
        power * factor for factor in (1, 2, 5, 10) if power * factor * target_bins >= spread
    )
    first, last = math.floor(finite.min() / step), math.floor(finite.max() / step) + 1
    return np.arange(first, last + 1) * step


def _digits(span: float) -> int:
    return 1 if span >= 2 else 2


def _vertical_line(x: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>'
