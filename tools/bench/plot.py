"""Costs over what grows, both axes logarithmic, beside the expected curve: SVG panels."""

import math

from load import svg

COLUMNS = 2
GAP = 16
EDGE = 0.35  # doublings left free beside the first and the last point


def log_ticks(low, high):
    """Round numbers from at most low to at least high, some to a power of ten: [number], at least two."""
    steps = [digit * 10.0 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
             for digit in (1, 2, 5)]
    if high > 1000 * low:
        steps = [10.0 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    first = max(i for i, step in enumerate(steps) if step <= low * 1.000001)
    last = min(i for i, step in enumerate(steps) if step >= high * 0.999999)
    return steps[first:max(last, first + 1) + 1]


def cost(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def curve(plot, values, costs, colour, extra=""):
    path = " ".join(f"{plot.x(math.log2(x)):.1f},{plot.y(math.log2(y)):.1f}" for x, y in zip(values, costs))
    plot.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{extra}/>')


def panel(title, x_label, y_label, values, measured, expected, names):
    """measured as a line with numbers, expected dashed; names: of the two in the legend."""
    x_ticks = [math.log2(values[0]) - EDGE, *map(math.log2, values), math.log2(values[-1]) + EDGE]
    y_ticks = log_ticks(min(measured + expected), max(measured + expected) * 1.1)
    plot = svg.Plot(title, x_label, y_label, x_ticks, [math.log2(tick) for tick in y_ticks],
                    ["", *map(str, values), ""], [svg.number(tick) for tick in y_ticks])
    colours = (svg.COLOURS[0], svg.COLOURS[1])
    curve(plot, values, expected, colours[1], ' stroke-dasharray="7 5"')
    curve(plot, values, measured, colours[0])
    for x, y in zip(values, measured):
        at = plot.x(math.log2(x)), plot.y(math.log2(y))
        plot.parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3" fill="{colours[0]}"/>')
        plot.parts.append(f'<g stroke="#ffffff" stroke-width="4" paint-order="stroke">'
                          f'{plot.text(at[0], at[1] - 8, cost(y), "middle")}</g>')
    plot.legend(list(zip(names, colours)))
    return plot.end()


def sheet(panels):
    """Panels as one SVG, in columns."""
    columns = min(COLUMNS, len(panels))
    width = columns * svg.WIDTH + (columns - 1) * GAP
    height = math.ceil(len(panels) / columns) * (svg.HEIGHT + GAP) - GAP
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
             f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    for i, one in enumerate(panels):
        x, y = i % columns * (svg.WIDTH + GAP), i // columns * (svg.HEIGHT + GAP)
        parts.append(one.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1).rstrip())
    return "\n".join(parts + ["</svg>"]) + "\n"
