"""The rival: what a competent developer writes in an afternoon. One arq job an order or a delivery, plain httpx.

`python -m bench.naive poll SERVER REDIS N` and `... deliver SERVER REDIS N` work until they are stopped.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import sys
import time
from typing import Any

import httpx
from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.asyncio import ConnectionPool, UnixDomainSocketConnection

BODY = json.dumps({"id": "evt", "type": "order.status_changed", "data": "x" * 860}).encode()
SECRET = b"0123456789abcdef0123456789abcdef"


async def poll(ctx: dict[str, Any], order_id: str) -> None:
    """Fetch three resources, compare their hashes, come again in a moment."""
    base = f"{ctx['server']}/v2/post_checkout"
    for name, path in (
        ("handling", f"{base}/orders/{order_id}/handling"),
        ("items", f"{base}/orders/{order_id}/items"),
        ("messages", f"{base}/chat/{order_id}/messages"),
    ):
        response = await ctx["http"].get(path, headers={"authorization": "Bearer t"})
        response.raise_for_status()
        digest = hashlib.sha256(json.dumps(response.json(), sort_keys=True).encode()).hexdigest()
        if await ctx["redis"].hget(f"state:{order_id}", name) != digest.encode():
            await ctx["redis"].hset(f"state:{order_id}", name, digest)
    await ctx["redis"].enqueue_job("poll", order_id)


async def deliver(ctx: dict[str, Any], number: int) -> None:
    """Sign, post, mark as delivered."""
    at = int(time.time())
    signature = base64.b64encode(hmac.digest(SECRET, f"evt_{number}.{at}.".encode() + BODY, "sha256")).decode()
    headers = {
        "content-type": "application/json",
        "webhook-id": f"evt_{number}",
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{signature}",
    }
    response = await ctx["http"].post(f"{ctx['server']}/hook", content=BODY, headers=headers)
    response.raise_for_status()
    await ctx["redis"].sadd("delivered", number)


async def main(kind: str, server: str, redis_url: str, count: int) -> None:
    pool = ArqRedis(
        connection_pool=ConnectionPool(
            connection_class=UnixDomainSocketConnection, path=redis_url.removeprefix("unix://")
        )
    )
    for number in range(count):
        if kind == "poll":
            await pool.enqueue_job("poll", f"o-{number}")
        else:
            await pool.enqueue_job("deliver", number)
    print("ready", flush=True)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=100)) as http:
        worker = Worker(
            functions=[func(poll, name="poll"), func(deliver, name="deliver")],
            redis_pool=pool,
            max_jobs=100,
            queue_read_limit=1000,
            poll_delay=0.05,
            keep_result=0,
            log_results=False,
            ctx={"http": http, "server": server},
        )
        await worker.async_run()


if __name__ == "__main__":
    logging.disable(logging.INFO)
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
