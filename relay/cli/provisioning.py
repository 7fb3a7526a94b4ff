"""`relay provision-demo`: a retailer, a subscription and a simulator's orders. The demo of the compose file runs it."""

import argparse
from contextlib import closing
from typing import Any
from urllib.parse import quote

import httpx

from relay.cli.options import Refused, add_settings, command, read_settings
from relay.cli.remote import Api, open_operator_api

#: Whose name tells that it may be deleted and made anew.
NAME = "Demo Grocers (relay provision-demo)"
#: What one bulk registration takes.
_AT_ONCE = 1000


def add_commands(commands: Any) -> None:
    example = "relay provision-demo --simulator http://simulator:9000 --receiver-url http://receiver:9100/"
    about = "a retailer, a subscription and a simulator's orders; needs the operator's key in RELAY_API_KEY"
    parser = command(commands, "provision-demo", about, example, _provision)
    parser.add_argument("--simulator", default="http://127.0.0.1:9000", metavar="URL", help="where its orders are")
    parser.add_argument("--receiver-url", default="http://127.0.0.1:9100/", metavar="URL", help="subscribed to")
    parser.add_argument("--secret", metavar="whsec_...", help="sign with this one (default: a new one, printed)")
    add_settings(parser)


def _provision(options: argparse.Namespace) -> int:
    """Anew each time: a simulator that was restarted tells the same orders from their beginning."""
    url = read_settings(options).api_url
    with closing(open_operator_api(options)) as operator:
        orders = _orders(options.simulator)
        for retailer in list(operator.pages("/v1/retailers")):
            if retailer["name"] == NAME:
                _forget(operator, url, retailer["id"])
        retailer_id = operator.ask("POST", "/v1/retailers", {"name": NAME})["id"]
        key = _key(operator, retailer_id)
    wanted = {"url": options.receiver_url} | ({} if options.secret is None else {"secret": options.secret})
    with closing(Api(url, key)) as shop:
        made = shop.ask("POST", "/v1/subscriptions", wanted)
        for start in range(0, len(orders), _AT_ONCE):
            shop.ask("POST", "/v1/orders/bulk", {"orders": orders[start : start + _AT_ONCE]})
    print(f"{retailer_id} tracks {len(orders)} orders; {made['id']} posts to {options.receiver_url}")
    if options.secret is None:
        print(f"its secret: {made['secret']}")
    print(f"its key: {key}", flush=True)
    return 0


def _key(operator: Api, retailer_id: str) -> str:
    return str(operator.ask("POST", f"/v1/retailers/{retailer_id}/keys", {"name": "demo"})["key"])


def _forget(operator: Api, url: str, retailer_id: str) -> None:
    """An earlier run's retailer, with all it has: nothing of it would be deleted unasked."""
    with closing(Api(url, _key(operator, retailer_id))) as shop:
        for subscription in list(shop.pages("/v1/subscriptions")):
            shop.ask("DELETE", f"/v1/subscriptions/{subscription['id']}")
        for order in list(shop.pages("/v1/orders")):
            shop.ask("DELETE", f"/v1/orders/{quote(order['order_id'], safe='')}", purge="true")
    operator.ask("DELETE", f"/v1/retailers/{retailer_id}")


def _orders(simulator: str) -> list[dict[str, Any]]:
    """What the simulator has. Raises Refused when there is none."""
    try:
        with httpx.Client(base_url=simulator, trust_env=False, timeout=10) as client:
            listed = client.get("/_sim/orders").raise_for_status().json()["orders"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise Refused(f"no simulator answers at {simulator} ({type(error).__name__})") from None
    return [{"order_id": order["order_id"], "user_id": order["user_id"]} for order in listed]
