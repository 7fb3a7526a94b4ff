"""A bare loop of the relay's HTTP engine against the same server: what a worker could do if it did nothing else."""

import asyncio
import sys
import time

import uvloop

from relay.engine import FastEngine

CONCURRENCY = {"get": 256, "post": 64}
BODY = b'{"id":"evt_4kq2c5zv7m3nqhxw6ey5tzl7pa","type":"order.status_changed","data":"' + b"x" * 820 + b'"}'


async def main(method: str, server: str, seconds: float) -> None:
    """Print requests a second."""
    engine = FastEngine()
    headers = {"authorization": "Bearer t", "accept": "application/json"}
    done = 0
    ends = time.perf_counter() + seconds

    async def loop(lane: int) -> None:
        nonlocal done
        while time.perf_counter() < ends:
            if method == "get":
                url = f"{server}/v2/post_checkout/orders/o-{lane}-{done}/items"
                answer = await engine.send("GET", url, headers, None, limit=1 << 20)
            else:
                answer = await engine.send("POST", f"{server}/hook", headers, BODY, limit=4096)
            assert answer.status == 200
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(loop(lane) for lane in range(CONCURRENCY[method])))
    print(done / (time.perf_counter() - began), flush=True)
    await engine.aclose()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
