"""A run as Markdown beside its plots, and as one HTML page that needs nothing else."""

import html
import os
import platform

from load import gates

STYLE = """body{font:15px/1.5 sans-serif;max-width:760px;margin:2em auto;padding:0 1em;color:#111827;background:#fff}
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{border:1px solid #d1d5db;padding:.25em .6em;text-align:right}
th{background:#f3f4f6}td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto;margin:.5em 0}
.bad{color:#b91c1c;font-weight:bold}.good{color:#15803d;font-weight:bold}code{background:#f3f4f6;padding:0 .2em}"""


def cell(value):
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine():
    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} cores, {model}"


def gate_table(result):
    rows = [(name, gates.MEANINGS[name][0], f"{gates.MEANINGS[name][1]} {bound:g}", found, "kept" if kept else "BROKEN")
            for name, bound, found, kept in result.gates]
    return ("Gates", ("gate", "", "bound", "found", ""), rows)


def tables_of(result):
    return [gate_table(result)] + result.tables


def verdict(result):
    return "Nothing failed." if not result.problems else f"{len(result.problems)} problems:"


def markdown(result, conditions):
    lines = [f"# Load: {result.kind}", "", verdict(result), ""]
    lines += [f"- {problem}" for problem in result.problems] + [""] * bool(result.problems)
    lines += ["| | |", "| --- | --- |"] + [f"| {name} | {value} |" for name, value in conditions] + [""]
    for title, header, rows in tables_of(result):
        lines += [f"## {title}", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows] + [""]
    for name, _ in result.plots:
        lines += [f"![{name}]({name}.svg)", ""]
    return "\n".join(lines)


def html_table(header, rows):
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    lines = [f"<table><tr>{cells}</tr>"] if header else ["<table>"]
    for row in rows:
        kind = {"BROKEN": ' class="bad"', "kept": ' class="good"'}.get(row[-1], "")
        lines.append("<tr>" + "".join(f"<td{kind if i == len(row) - 1 else ''}>{html.escape(cell(value))}</td>"
                                      for i, value in enumerate(row)) + "</tr>")
    return "\n".join(lines + ["</table>"])


def page(result, conditions):
    title = html.escape(f"Load: {result.kind}")
    parts = [f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
             f"<style>{STYLE}</style></head><body><h1>{title}</h1>",
             f'<p class="{"bad" if result.problems else "good"}">{verdict(result)}</p>']
    if result.problems:
        parts.append("<ul>" + "".join(f"<li>{html.escape(problem)}</li>" for problem in result.problems) + "</ul>")
    parts.append(html_table((), conditions))
    for heading, header, rows in tables_of(result):
        parts += [f"<h2>{html.escape(heading)}</h2>", html_table(header, rows)]
    parts += [svg for _, svg in result.plots] + ["</body></html>"]
    return "\n".join(parts) + "\n"


def write(result, conditions, folder):
    """report.md, report.html and the plots; returns the page's path. conditions: [(name, value)]."""
    os.makedirs(folder, exist_ok=True)
    files = {"report.md": markdown(result, conditions), "report.html": page(result, conditions)}
    files.update({name + ".svg": svg for name, svg in result.plots})
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return os.path.join(folder, "report.html")
