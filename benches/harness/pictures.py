"""Bar charts as SVG, small enough to be committed."""

from html import escape

WIDTH, ROW, GAP, LEFT, RIGHT, TOP = 760, 20, 12, 250, 90, 44
COLOURS = ("#2563a8", "#c9781f", "#5b8c5a", "#8a5a8c")


def bars(title, unit, groups):
    """A chart of horizontal bars; the thin line on a bar is its range.

    `groups` are (label, [(series, values)]); each series has one colour
    throughout, and the bar's length is the median.
    """
    series = list(dict.fromkeys(name for _, entries in groups for name, _ in entries))
    top = max(max(values) for _, entries in groups for _, values in entries) or 1
    height = TOP + sum(len(entries) * ROW + GAP for _, entries in groups) + 8
    scale = (WIDTH - LEFT - RIGHT) / top
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="8" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
        *legend(series),
    ]
    y = TOP
    for label, entries in groups:
        parts.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>')
        for name, values in entries:
            parts += bar(y, scale, values, COLOURS[series.index(name) % len(COLOURS)], unit)
            y += ROW
        y += GAP
    return "\n".join([*parts, "</svg>", ""])


def legend(series):
    x = 8
    for index, name in enumerate(series):
        yield f'<rect x="{x}" y="26" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>'
        yield f'<text x="{x + 14}" y="35">{escape(name)}</text>'
        x += 30 + 7 * len(name)


def bar(y, scale, values, colour, unit):
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    low, high = (LEFT + value * scale for value in (ordered[0], ordered[-1]))
    yield f'<rect x="{LEFT}" y="{y + 2}" width="{middle * scale:.1f}" height="{ROW - 5}" fill="{colour}"/>'
    yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 9.5}" y2="{y + 9.5}" stroke="black"/>'
    yield f'<text x="{max(high, LEFT + middle * scale) + 5:.1f}" y="{y + 14}">{middle:.3g} {escape(unit)}</text>'
