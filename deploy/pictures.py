"""Run the stack for a while and draw each dashboard into docs/images: `make dashboards-pictures`."""

import argparse
import asyncio
import sys
import time

import httpx

from deploy.dashboards import boards
from deploy.dashboards.pictures import ask, draw
from deploy.dashboards.results import Window
from deploy.stack import ROOT, Options, running
from tests.support.tools import find

FOLDER = ROOT / "docs" / "images"


async def _pictures(seconds: float, prometheus: str) -> None:
    async with (
        running(Options(orders=100, scrape=2, prometheus=prometheus)) as stack,
        httpx.AsyncClient(base_url=str(stack.prometheus), trust_env=False, timeout=30) as client,
    ):
        await asyncio.sleep(seconds)
        end = time.time()
        window = Window(end - seconds + 15, end, 2.0, "10s")
        FOLDER.mkdir(parents=True, exist_ok=True)
        for board in boards():
            document = board.document()
            draw(document, await ask(client, document, window), window, FOLDER / f"{board.uid}.png")


def main() -> int:
    """Three minutes of the stack, and their pictures."""
    parser = argparse.ArgumentParser(prog="make dashboards-pictures", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="how long to run (default 180)")
    prometheus = find("prometheus")
    if prometheus is None:
        print("no Prometheus on this machine: make tools", file=sys.stderr)
        return 1
    asyncio.run(_pictures(max(30.0, parser.parse_args().seconds), prometheus))
    return 0


if __name__ == "__main__":
    sys.exit(main())
