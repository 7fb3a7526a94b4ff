"""Dashboards as pictures, drawn from what a Prometheus answers: for the documentation, where no Grafana is.

The grid, titles, units, colours, thresholds and legends are those of the JSON that Grafana reads.
"""

import math
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from deploy.dashboards.results import Course, Window, coloured, courses, mapped, written

Json = dict[str, Any]
Answers = dict[int, list[list[Course]]]

#: Pixels: a column and a line of the grid, the gap between panels, the space of a title and of a line of legend.
COLUMN, LINE, GAP, TITLE, ENTRY = 62, 34, 8, 30, 16
MARGIN, HEAD = 14, 46
DPI = 100
BACK, PANEL, EDGE, TEXT, FAINT = "#111217", "#181b1f", "#2c3036", "#d8d9e0", "#8e929c"
PALETTE = ("#73BF69", "#F2CC0C", "#5794F2", "#FF9830", "#F2495C", "#B877D9", "#8AB8FF", "#96D98D", "#FFCB7D", "#CA95E5")
#: Entries of a legend at most, in two columns when they are more than three.
SHOWN = 8


async def ask(client: httpx.AsyncClient, board: Json, window: Window) -> Answers:
    """Panel id: what each of its queries gives."""
    found: Answers = {}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            given = await courses(client, target["expr"], target["legendFormat"], window)
            found.setdefault(panel["id"], []).append(given)
    return found


def draw(board: Json, answers: Answers, window: Window, path: Path) -> None:
    """One dashboard as a PNG."""
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 7.5, "text.color": TEXT, "axes.edgecolor": EDGE}):
        _Page(board, answers, window).save(path)


class _Page:
    def __init__(self, board: Json, answers: Answers, window: Window) -> None:
        lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
        self.width, self.height = 2 * MARGIN + 24 * COLUMN, HEAD + MARGIN + lines * LINE
        self.figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor=BACK)
        self.window = window
        begin, end = (datetime.fromtimestamp(at, UTC).strftime("%H:%M") for at in (window.start, window.end))
        self.text(MARGIN, 26, board["title"], size=13, weight="bold")
        self.text(self.width - MARGIN, 26, f"{begin} to {end} UTC", ha="right", color=FAINT, size=8.5)
        for panel in board["panels"]:
            self.panel(panel, answers.get(panel["id"], []))

    def save(self, path: Path) -> None:
        drawn = BytesIO()
        self.figure.savefig(drawn, format="png")
        image = Image.open(drawn).convert("RGB")
        image.quantize(200, dither=Image.Dither.NONE).save(path, optimize=True)

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """Words at pixels from the upper left corner."""
        self.figure.text(x / self.width, 1 - y / self.height, words, va="center", **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        place = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        made = self.figure.add_axes(place)
        made.set_facecolor("none")
        made.tick_params(colors=FAINT, labelsize=7, length=0, pad=3)
        for spine in made.spines.values():
            spine.set_visible(False)
        return made

    def panel(self, panel: Json, answers: list[list[Course]]) -> None:
        place = panel["gridPos"]
        x, y = MARGIN + place["x"] * COLUMN, HEAD + place["y"] * LINE
        width, height = place["w"] * COLUMN, place["h"] * LINE
        if panel["type"] == "row":
            self.text(x + 4, y + height / 2, panel["title"], size=9.5, weight="bold")
            return
        x, y, width, height = x + GAP / 2, y + GAP / 2, width - GAP, height - GAP
        self.figure.add_artist(
            FancyBboxPatch(
                (x / self.width, 1 - (y + height) / self.height),
                width / self.width,
                height / self.height,
                boxstyle="square,pad=0",
                facecolor=PANEL,
                edgecolor=EDGE,
                linewidth=0.8,
                zorder=-1,
            )
        )
        self.text(x + 10, y + 15, _short(panel["title"], width), size=8.5, weight="bold")
        inside = (x + 10, y + TITLE, width - 20, height - TITLE - 8)
        found = [course for given in answers for course in given if course.numbers]
        if not found:
            self.text(x + width / 2, y + height / 2 + 8, "No data", ha="center", color=FAINT, size=9)
        elif panel["type"] == "stat":
            self.stat(panel, found[0], inside)
        elif panel["type"] == "table":
            self.table(found, inside)
        elif panel["type"] == "heatmap":
            self.heatmap(found, inside)
        else:
            self.series(panel, found, inside)

    def stat(self, panel: Json, course: Course, inside: tuple[float, float, float, float]) -> None:
        x, y, width, height = inside
        defaults = panel["fieldConfig"]["defaults"]
        last = course.numbers[-1]
        colour = coloured(last, defaults)
        ground = self.axes(x - 9, y + height * 0.55, width + 18, height * 0.45 + 7)
        low, high = min(course.numbers), max(course.numbers)
        ground.set_ylim(low - 0.1 * (high - low) - 1e-9, high + 0.2 * (high - low) + 1e-9)
        ground.set_xlim(self.window.start, self.window.end)
        ground.fill_between(course.times, course.values, low - 1, color=colour, alpha=0.16, linewidth=0)
        ground.plot(course.times, course.values, color=colour, alpha=0.6, linewidth=1)
        ground.set_axis_off()
        words = mapped(last, defaults)
        self.text(x + width / 2, y + height * 0.38, words, ha="center", size=20, weight="bold", color=colour)

    def series(self, panel: Json, found: list[Course], inside: tuple[float, float, float, float]) -> None:
        x, y, width, height = inside
        defaults = panel["fieldConfig"]["defaults"]
        fixed = {
            one["matcher"]["options"]: one["properties"][0]["value"]["fixedColor"]
            for one in panel["fieldConfig"]["overrides"]
        }
        free = iter(PALETTE * len(found))
        colours = [fixed.get(course.name) or next(free) for course in found]
        columns = 1 if len(found) <= 3 else 2
        lines = math.ceil(min(len(found), SHOWN) / columns)
        below = ENTRY * (lines + 1) + 18
        axes = self.axes(x + 48, y, width - 52, height - below)
        stacked = defaults["custom"]["stacking"]["mode"] == "normal"
        if stacked:
            values = [[v if math.isfinite(v) else 0.0 for v in course.values] for course in found]
            axes.stackplot(found[0].times, values, colors=colours, alpha=0.6, linewidth=0)
            top = max(sum(together) for together in zip(*values, strict=True))
        else:
            for course, colour in zip(found, colours, strict=True):
                axes.plot(course.times, course.values, color=colour, linewidth=1.5)
            top = max(max(course.numbers) for course in found)
        self.scale(axes, defaults, top)
        listed = sorted(zip(found, colours, strict=True), key=lambda one: -max(one[0].numbers))
        self.legend(listed, defaults["unit"], (x, y + height - below + 24, width), columns)

    def scale(self, axes: Axes, defaults: Json, top: float) -> None:
        """The vertical axis in the panel's unit, the time below, thresholds dashed."""
        bottom = defaults.get("min")
        dashed = defaults["custom"]["thresholdsStyle"]["mode"] == "dashed"
        limits = [step for step in defaults["thresholds"]["steps"] if step["value"] is not None] if dashed else []
        for step in limits:
            if step["value"] <= max(3 * top, 1e-9):
                top = max(top, step["value"])
                axes.axhline(step["value"], color=step["color"], linewidth=1, linestyle=(0, (6, 4)))
        top = min(top * 1.08 or 1.0, defaults.get("max", math.inf) * 1.02)
        if bottom is not None:
            axes.set_ylim(bottom, top)
        axes.set_xlim(self.window.start, self.window.end)
        axes.grid(color=EDGE, linewidth=0.6)
        step = _step(top - (bottom or 0), defaults["unit"])
        ticks = [step * at for at in range(math.ceil((bottom or 0) / step), math.floor(top / step) + 1)]
        axes.set_yticks(ticks, [written(tick, defaults["unit"]) for tick in ticks])
        self.times(axes)

    def times(self, axes: Axes) -> None:
        ticks = [self.window.start + share * (self.window.end - self.window.start) for share in (0.1, 0.37, 0.63, 0.9)]
        axes.set_xticks(ticks, [datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S") for at in ticks])

    def legend(
        self, found: list[tuple[Course, str]], unit: str, place: tuple[float, float, float], columns: int
    ) -> None:
        """Name, last and highest value, as the panel's table of a legend."""
        x, y, width = place
        each = width / columns
        both = columns == 1
        for column in range(columns):
            right = x + (column + 1) * each - 6
            if both:
                self.text(right - 68, y, "Last", ha="right", color=FAINT, size=6.5)
            self.text(right, y, "Max" if both else "Last", ha="right", color=FAINT, size=6.5)
        lines = math.ceil(min(len(found), SHOWN) / columns)
        for at, (course, colour) in enumerate(found[:SHOWN]):
            left, line = x + at // lines * each, y + ENTRY * (at % lines + 1)
            name = course.name
            if at == SHOWN - 1 and len(found) > SHOWN:
                name = f"{name} (+{len(found) - SHOWN} more)"
            bar = (left / self.width, 1 - (line + 1.5) / self.height)
            self.figure.add_artist(Rectangle(bar, 12 / self.width, 3 / self.height, color=colour))
            self.text(left + 17, line, _short(name, each - (150 if both else 85)), size=7)
            figures = [written(course.numbers[-1], unit), *([written(max(course.numbers), unit)] if both else [])]
            for back, figure in zip((6, 74), reversed(figures), strict=False):
                self.text(left + each - back, line, figure, ha="right", size=7)

    def heatmap(self, found: list[Course], inside: tuple[float, float, float, float]) -> None:
        x, y, width, height = inside
        found = sorted(found, key=lambda course: float(course.labels["le"]))
        axes = self.axes(x + 48, y, width - 110, height - 22)
        rows: list[list[float]] = []
        before = [0.0] * len(found[0].values)
        for course in found:
            cumulative = [v if math.isfinite(v) else 0.0 for v in course.values]
            rows.append([max(0.0, now - less) for now, less in zip(cumulative, before, strict=True)])
            before = cumulative
        shown = [[v if v > 1e-9 else math.nan for v in row] for row in rows]
        positive = [v for row in rows for v in row if v > 1e-9] or [1.0]
        drawn = axes.imshow(
            shown,
            aspect="auto",
            origin="lower",
            cmap="viridis",
            norm=LogNorm(max(min(positive), max(positive) / 1000), max(positive)),
            extent=(self.window.start, self.window.end, 0, len(found)),
            interpolation="nearest",
        )
        axes.set_yticks(
            [at + 1 for at in range(len(found))],
            ["∞" if course.labels["le"] == "+Inf" else written(float(course.labels["le"]), "s") for course in found],
        )
        self.times(axes)
        bar = self.axes(x + width - 48, y + 6, 8, height - 40)
        made = self.figure.colorbar(drawn, cax=bar, format=lambda value, _: written(value, "ops"))
        made.outline.set_visible(False)
        bar.minorticks_off()

    def table(self, found: list[Course], inside: tuple[float, float, float, float]) -> None:
        x, y, width, height = inside
        columns = sorted({label for course in found for label in course.labels})
        rows = [course for course in found if math.isfinite(course.values[-1])]
        each = width / len(columns)
        for at, label in enumerate(columns):
            self.text(x + at * each, y + 8, label, color=PALETTE[2], size=8, weight="bold")
            for line, course in enumerate(rows[: int(height / 24) - 1]):
                self.text(x + at * each, y + 32 + 24 * line, course.labels.get(label, ""), size=8)


def _step(span: float, unit: str) -> float:
    """A round distance between four or five lines over this span."""
    least = span / 5
    if unit == "s" and least > 10:
        return next((each for each in (15, 30, 60, 120, 300, 600, 1800, 3600) if each >= least), 86400)
    if unit == "bytes":
        return 2.0 ** math.ceil(math.log2(max(least, 1)))
    power = 10.0 ** math.floor(math.log10(least))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least * 0.999)


def _short(words: str, width: float) -> str:
    """As much as fits into so many pixels."""
    room = max(6, int(width / 6.2))
    return words if len(words) <= room else f"{words[: room - 1]}…"
