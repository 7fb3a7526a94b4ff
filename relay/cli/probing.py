"""`relay probe`: whether a deployment is ready, and whether it delivers. What `helm test` runs."""

import argparse
import asyncio
import json
import time
from typing import Any

import httpx

from relay.cli.options import Refused, add_settings, command, read_settings
from relay.cli.remote import Api, open_operator_api
from relay.errors import InvalidSettings
from relay.model.signing import Secret
from relay.receiver import Receiver
from relay.serving import serve

#: How long a deployment may take to become ready (seconds).
READY_WITHIN = 60.0


def add_commands(commands: Any) -> None:
    example = "relay probe delivery --api-url http://relay --receiver-url http://probe:9100/"
    parser = command(commands, "probe", "try a deployment: is it ready, does it deliver", example, _probe)
    parser.add_argument("what", choices=["ready", "delivery"])
    parser.add_argument("--receiver-url", default="http://127.0.0.1:9100/", help="how the API reaches this receiver")
    parser.add_argument("--bind", default="127.0.0.1", help="address that the receiver listens on")
    parser.add_argument("--receiver-port", type=int, default=9100)
    add_settings(parser)


def _probe(options: argparse.Namespace) -> int:
    return _ready(read_settings(options).api_url) if options.what == "ready" else asyncio.run(_delivery(options))


def _ready(url: str) -> int:
    until = time.monotonic() + READY_WITHIN
    with httpx.Client(trust_env=False, timeout=5) as client:
        while True:
            try:
                status = client.get(f"{url}/readyz").status_code
                if status == 200:
                    print(f"{url} is ready")
                    return 0
                said = str(status)
            except httpx.HTTPError as error:
                said = type(error).__name__
            if time.monotonic() + 1 >= until:
                break
            time.sleep(1)
    raise Refused(f"{url} is not ready: {said}")


async def _delivery(options: argparse.Namespace) -> int:
    """A receiver here, a subscription to it, its test call. The retailer made for it goes again."""
    receiver, listening = Receiver([]), asyncio.Event()
    serving = asyncio.create_task(serve(receiver, options.bind, options.receiver_port, lambda port: listening.set()))
    try:
        waiting = asyncio.create_task(listening.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            waiting.cancel()
            try:
                serving.result()
            except OSError as error:
                where = f"{options.bind}:{options.receiver_port}"
                raise InvalidSettings(f"cannot listen on {where}: {error.strerror}") from None
        return await asyncio.to_thread(_try, options, receiver)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def _try(options: argparse.Namespace, receiver: Receiver) -> int:
    operator = open_operator_api(options)
    retailer = operator.ask("POST", "/v1/retailers", {"name": "relay probe"})["id"]
    try:
        key = operator.ask("POST", f"/v1/retailers/{retailer}/keys", {"name": "probe"})["key"]
        shop = Api(read_settings(options).api_url, key)
        made = shop.ask("POST", "/v1/subscriptions", {"url": options.receiver_url})
        receiver.secrets.append(Secret.parse(made["secret"]))
        try:
            answer = shop.ask("POST", f"/v1/subscriptions/{made['id']}/test", {})
        finally:
            shop.ask("DELETE", f"/v1/subscriptions/{made['id']}")
    finally:
        operator.ask("DELETE", f"/v1/retailers/{retailer}")
    if receiver.counters.verified < 1:
        raise Refused(f"nothing verified arrived: {json.dumps(answer)}")
    print("delivered and verified")
    return 0
