"""Panels of Grafana's classic schema, laid out line by line: what the five dashboards are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: What every selector carries: the variables of the dashboard.
SELECTOR = 'job=~"$job", instance=~"$instance"'
#: Runbooks lie beside these documents; the chart's rules carry the same address.
RUNBOOKS = "https://runbooks.invalid/"
COLUMNS = 24

#: Colours by what they mean, the same on every dashboard.
GOOD, WARN, BAD, CALM, GREY = "#3FA66A", "#E0A526", "#D5494F", "#4C86D9", "#8A8F98"


def where(*conditions: str) -> str:
    """A selector's inside: the variables, and more."""
    return ", ".join((*conditions, SELECTOR))


def rate(metric: str, by: str = "", *conditions: str) -> str:
    """A counter a second, summed."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{where(*conditions)}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", *conditions: str) -> str:
    """A quantile of a histogram over all that is chosen."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', f'le, {by}' if by else 'le', *conditions)})"


def most(metric: str, by: str = "", *conditions: str) -> str:
    """A gauge that several processes sample of the same thing."""
    return f"max{f' by ({by})' if by else ''} ({metric}{{{where(*conditions)}}})"


def total(metric: str, by: str = "", *conditions: str) -> str:
    """A gauge that each process has its part of."""
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{where(*conditions)}}})"


@dataclass(frozen=True)
class Query:
    """An expression, and how its series are called in the legend."""

    expr: str
    legend: str = ""
    instant: bool = False
    heatmap: bool = False


@dataclass
class Panel:
    """One panel before it has an id and a place. `steps`: (from this value on, colour), the first without a value."""

    kind: str
    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    width: int = 8
    steps: Sequence[tuple[float | None, str]] = ()
    runbook: str = ""
    stacked: bool = False
    colours: dict[str, str] = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    minimum: float | None = 0
    maximum: float | None = None
    decimals: int | None = None
    mappings: Sequence[Json] = ()
    transformations: Sequence[Json] = ()

    def document(self, number: int, place: Json) -> Json:
        """The panel as Grafana reads it."""
        made: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": place,
            "targets": [self._target(chr(65 + at), query) for at, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": self._overrides()},
            "options": self.options,
        }
        if self.runbook:
            link = {"title": f"Runbook: {self.runbook}", "url": f"{RUNBOOKS}{self.runbook}.md", "targetBlank": True}
            made["links"] = [link]
        if self.transformations:
            made["transformations"] = list(self.transformations)
        return made

    def _target(self, letter: str, query: Query) -> Json:
        return {
            "refId": letter,
            "datasource": DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "range": not query.instant,
            "instant": query.instant,
            "format": "heatmap" if query.heatmap else "table" if self.kind == "table" else "time_series",
            "editorMode": "code",
        }

    def _defaults(self) -> Json:
        steps = self.steps or [(None, CALM if self.kind == "stat" else GOOD)]
        defaults: Json = {
            "unit": self.unit,
            "thresholds": {"mode": "absolute", "steps": [{"value": at, "color": colour} for at, colour in steps]},
            "color": {"mode": "thresholds" if self.kind == "stat" else "palette-classic"},
            "noValue": "–",
            "mappings": list(self.mappings),
        }
        for name, value in (("min", self.minimum), ("max", self.maximum), ("decimals", self.decimals)):
            if value is not None:
                defaults[name] = value
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "line",
                "lineWidth": 1 if self.stacked else 2,
                "fillOpacity": 55 if self.stacked else 6,
                "showPoints": "never",
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "dashed" if self.steps else "off"},
            }
        return defaults

    def _overrides(self) -> list[Json]:
        return [
            {
                "matcher": {"id": "byName", "options": name},
                "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
            }
            for name, colour in self.colours.items()
        ]


def stat(title: str, description: str, unit: str, expr: str, **fields: Any) -> Panel:
    """One figure, coloured by its thresholds, with its course behind it."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "textMode": "auto",
        "orientation": "auto",
    }
    fields.setdefault("width", 4)
    return Panel("stat", title, description, unit, [Query(expr)], options=options, **fields)


def series(title: str, description: str, unit: str, *queries: Query, **fields: Any) -> Panel:
    """Courses over time, with a legend that says the last and the highest value."""
    options = {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
            "sortBy": "Max",  # what is 0 comes last
            "sortDesc": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, description, unit, queries, options=options, **fields)


def heatmap(title: str, description: str, metric: str, **fields: Any) -> Panel:
    """A histogram's buckets over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Viridis", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
        "yAxis": {"unit": "s", "axisPlacement": "left"},
        "tooltip": {"mode": "single", "yHistogram": True},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "filterValues": {"le": 1e-9},
    }
    query = Query(rate(f"{metric}_bucket", "le"), "{{le}}", heatmap=True)
    return Panel("heatmap", title, description, "short", [query], options=options, minimum=None, **fields)


@dataclass
class Board:
    """A dashboard that is filled line by line; panels flow from left to right."""

    uid: str
    title: str
    description: str
    panels: list[Json] = field(default_factory=list)
    _x: int = 0
    _y: int = 0
    _height: int = 0

    def row(self, title: str) -> None:
        """A heading over what follows."""
        self._break()
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": self._y}
        self.panels.append(
            {
                "id": len(self.panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        )
        self._y += 1

    def line(self, height: int, *panels: Panel) -> None:
        """Panels side by side, of one height, that fill the width."""
        if sum(panel.width for panel in panels) != COLUMNS:
            raise ValueError(f"{self.uid}: {[panel.title for panel in panels]} do not fill a line")
        for panel in panels:
            place = {"h": height, "w": panel.width, "x": self._x, "y": self._y}
            self.panels.append(panel.document(len(self.panels) + 1, place))
            self._x += panel.width
        self._height = height
        self._break()

    def _break(self) -> None:
        self._x, self._y, self._height = 0, self._y + self._height, 0

    def document(self) -> Json:
        """The whole as a file that Grafana provisions."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["relay"],
            "schemaVersion": 39,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timepicker": {},
            "templating": {"list": _variables()},
            "annotations": {"list": _annotations()},
            "links": _links(),
            "panels": self.panels,
        }


def _variables() -> list[Json]:
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "regex": "",
            "hide": 0,
            "refresh": 1,
            "current": {"text": "prometheus", "value": "prometheus"},
        },
        _labels("job", "Job", "label_values(relay_build_info, job)"),
        _labels("instance", "Instance", 'label_values(relay_build_info{job=~"$job"}, instance)'),
    ]


def _labels(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"Variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _annotations() -> list[Json]:
    return [
        _annotation(
            "Versions",
            CALM,
            "count by (version) (relay_build_info{" + SELECTOR + "})"
            " unless count by (version) (relay_build_info{" + SELECTOR + "} offset 5m)",
            "Version {{version}} appeared",
        ),
        _annotation(
            "Alerts",
            BAD,
            "max by (alertname, severity)"
            ' (ALERTS{alertstate="firing", alertname=~"Relay.+", severity=~"critical|warning"})',
            "{{alertname}} ({{severity}})",
        ),
    ]


def _annotation(name: str, colour: str, expr: str, title: str) -> Json:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "expr": expr,
        "step": "60s",
        "titleFormat": title,
    }


def _links() -> list[Json]:
    shared: Json = {"asDropdown": False, "includeVars": True, "keepTime": True}
    return [
        {"title": "Relay", "type": "dashboards", "tags": ["relay"], "targetBlank": False, **shared},
        {
            "title": "Runbooks",
            "type": "link",
            "url": f"{RUNBOOKS}README.md",
            "targetBlank": True,
            "icon": "doc",
            "tags": [],
        },
    ]
