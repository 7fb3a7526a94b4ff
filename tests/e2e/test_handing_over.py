"""A slice that ends while an endpoint hangs: the slot works on, beside what is still in flight, and so do the other
orders of the endpoint."""

import asyncio
import json
from pathlib import Path
from typing import Any

from relay.embedded import EmbeddedStore
from relay.vault import generate_master_key
from tests.support.rig import Answer, Answers, eventually, open_rig, serving
from tests.support.workers import Workers, metric, unused_ports

ENDED = 'relay_pump_slices_total{outcome="handed over",pump="deliver"}'


class Hanging:
    """Takes posts and answers none of one order."""

    def __init__(self, order_id: str) -> None:
        self.taken = self.cut = self.answered = 0
        self._order_id = order_id

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if json.loads((await receive())["body"])["data"]["order_id"] == self._order_id:
            self.taken += 1
            assert (await receive())["type"] == "http.disconnect"
            self.cut += 1
        else:
            self.answered += 1
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})


def test_nobody_waits_for_an_endpoint_that_hangs_when_a_slice_ends(tmp_path: Path) -> None:
    master, hanging, upstream = generate_master_key("k"), Hanging("o-1"), Answers()

    async def main() -> None:
        with EmbeddedStore(tmp_path / "store") as store:
            async with open_rig(store.url, upstream, master_keys=master) as rig, serving(hanging) as url:
                settings = {"deliver_pumps": "1", "slice": "500ms", "lease": "1s", "delivery_timeout": "60s"}
                workers = Workers(store.url, master, rig.upstream_url, tmp_path / "workers.log", **settings)
                try:
                    await rig.subscribe()
                    await rig.subscribe(url=url)
                    rig.poll()
                    await rig.track("o-1")
                    port = unused_ports(1)[0]
                    worker = workers.start("deliver", metrics_port=str(port))
                    await eventually(lambda: hanging.taken == 1 and len(rig.receipts) == 1, within=60)

                    async def handed_over() -> bool:  # again and again: who waits for its post does not take it back
                        return await metric(port, ENDED) >= 5

                    await eventually(handed_over, within=50)
                    upstream.handling = Answer({"order_id": "o-1", "status": "staging"})
                    await eventually(lambda: len(rig.receipts) == 2, within=60)
                    upstream.handling = Answer({"order_id": "o-2", "status": "picking"})
                    await rig.track("o-2")
                    await eventually(lambda: hanging.answered > 0, within=60)
                    assert (hanging.taken, hanging.cut) == (1, 0)  # all the while
                    workers.kill(worker)  # it would finish what is in flight
                finally:
                    await asyncio.to_thread(workers.close)

    asyncio.run(main())
