"""The five dashboards: one function each, written as JSON into the chart by `make dashboards`."""

import json
from pathlib import Path

from deploy.dashboards.deliveries import deliveries
from deploy.dashboards.overview import overview
from deploy.dashboards.panels import Board
from deploy.dashboards.polling import polling
from deploy.dashboards.redis import redis
from deploy.dashboards.workers import workers

FOLDER = Path(__file__).resolve().parent.parent.parent / "helm" / "relay" / "files" / "dashboards"


def boards() -> list[Board]:
    """All five, the first look first."""
    return [overview(), deliveries(), polling(), workers(), redis()]


def files() -> dict[str, str]:
    """File name and text of each."""
    return {
        f"{board.uid}.json": json.dumps(board.document(), indent=1, ensure_ascii=False) + "\n" for board in boards()
    }
