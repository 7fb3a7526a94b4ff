"""Bars as SVG, drawn by hand: the benches need no plotting library."""

from collections.abc import Mapping, Sequence
from html import escape

_COLOURS = ("#b0b7c3", "#7d8aa5", "#f2a65a", "#2a9d8f", "#1d6f65")
_WIDTH, _LEFT, _BAR, _GAP = 760, 130, 16, 30


def bars(title: str, unit: str, groups: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> str:
    """Horizontal bars of each name in each group, one scale a group: what counts is the ratio."""
    lines, y = [f'<text x="0" y="16" font-size="15" font-weight="bold">{escape(title)}</text>'], 40
    for group, values in groups.items():
        lines.append(f'<text x="0" y="{y + 12}" font-size="13">{escape(group)}</text>')
        y += 20
        most = max(values[name] for name in names)
        for number, name in enumerate(names):
            width = (_WIDTH - _LEFT - 90) * values[name] / most
            lines.append(f'<text x="{_LEFT - 8}" y="{y + 12}" font-size="12" text-anchor="end">{escape(name)}</text>')
            colour = _COLOURS[number % len(_COLOURS)]
            lines.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>')
            label = f"{values[name]:.2f} {escape(unit)}"
            lines.append(f'<text x="{_LEFT + width + 6:.1f}" y="{y + 12}" font-size="12">{label}</text>')
            y += _BAR
        y += _GAP - _BAR
    body = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}" '
        f'font-family="sans-serif" fill="#222">\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )
