"""Plots as SVG texts that need nothing else: scatter, lines, bars. Colours work on white and on dark grey."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 46
COLOURS = ("#3b7dd8", "#d9534f", "#2e9e6b", "#c08a1e", "#8a63c9", "#6b7280")


def nice_ticks(low, high, count=5):
    """Round numbers that cover low to high: [(number)], at least two."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def number(value):
    return f"{value:g}"


class Plot:
    """A frame with axes; x and y are the ticks, which may have names in place of their numbers."""

    def __init__(self, title, x_label, y_label, x_ticks, y_ticks, x_names=None, y_names=None):
        self.x_range = (x_ticks[0], x_ticks[-1])
        self.y_range = (y_ticks[0], y_ticks[-1])
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            'role="img" font-family="sans-serif" font-size="12">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            self.text(LEFT, 18, title, "start", "#111827", "bold"),
        ]
        for i, tick in enumerate(y_ticks):
            y = self.y(tick)
            self.parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
            self.parts.append(self.text(LEFT - 6, y + 4, y_names[i] if y_names else number(tick), "end"))
        for i, tick in enumerate(x_ticks):
            self.parts.append(self.text(self.x(tick), HEIGHT - BOTTOM + 16, x_names[i] if x_names else number(tick), "middle"))
        self.parts.append(self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label, "middle"))
        self.parts.append(f'<g transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">'
                          f'{self.text(0, 0, y_label, "middle")}</g>')
        self.legend_x = WIDTH - RIGHT

    @staticmethod
    def text(x, y, words, anchor, colour="#374151", weight="normal"):
        return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
                f"{escape(words)}</text>")

    def x(self, value):
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def legend(self, names):
        for name, colour in reversed(names):
            self.parts.append(self.text(self.legend_x, 18, name, "end", colour, "bold"))
            self.legend_x -= 8 * len(name) + 14

    def mark(self, x, words):
        """A vertical line with a word at its top."""
        at = self.x(x)
        self.parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#6b7280" stroke-dasharray="4 3"/>')
        self.parts.append(self.text(at + 4, TOP + 10, words, "start"))

    def end(self):
        return "\n".join(self.parts + ["</svg>"]) + "\n"


def _ticks_of(series, axis):
    values = [point[axis] for _, points in series for point in points]
    return nice_ticks(min(0.0, min(values, default=0.0)), max(values, default=1.0))


def scatter(title, x_label, y_label, series, marks=()):
    """series: [(name, [(x, y)])]; marks: [(x, word)]."""
    plot = Plot(title, x_label, y_label, _ticks_of(series, 0), _ticks_of(series, 1))
    for i, (_, points) in enumerate(series):
        dots = "".join(f'<circle cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}" r="2"/>' for x, y in points)
        plot.parts.append(f'<g fill="{COLOURS[i]}" fill-opacity="0.6">{dots}</g>')
    return _finish(plot, series, marks)


def lines(title, x_label, y_label, series, marks=()):
    plot = Plot(title, x_label, y_label, _ticks_of(series, 0), _ticks_of(series, 1))
    for i, (_, points) in enumerate(series):
        path = " ".join(f"{plot.x(x):.1f},{plot.y(y):.1f}" for x, y in points)
        plot.parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[i]}" stroke-width="2"/>')
    return _finish(plot, series, marks)


def bars(title, x_label, y_label, values):
    """values: [(name, height)]."""
    names = [name for name, _ in values]
    plot = Plot(title, x_label, y_label, [i - 0.5 for i in range(len(values) + 1)],
                nice_ticks(0.0, max((height for _, height in values), default=1.0)), [""] * (len(values) + 1))
    for i, (_, height) in enumerate(values):
        left, right, top = plot.x(i - 0.4), plot.x(i + 0.4), plot.y(height)
        plot.parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                          f'height="{HEIGHT - BOTTOM - top:.1f}" fill="{COLOURS[0]}"/>')
        plot.parts.append(plot.text(plot.x(i), HEIGHT - BOTTOM + 16, names[i], "middle"))
    return plot.end()


def _finish(plot, series, marks):
    for x, words in marks:
        plot.mark(x, words)
    if len(series) > 1:
        plot.legend([(name, COLOURS[i]) for i, (name, _) in enumerate(series)])
    return plot.end()
