"""What is written from the chart's values.yaml: its README, and the schema that Helm refuses wrong values by."""

from pathlib import Path

CHART = Path(__file__).resolve().parent.parent.parent / "helm" / "relay"


def files() -> dict[str, str]:
    """Name in the chart's folder: text."""
    from deploy.chart.readme import readme
    from deploy.chart.schema import schema
    from deploy.chart.values import read

    values = read((CHART / "values.yaml").read_text())
    return {"README.md": readme(values), "values.schema.json": schema(values)}
