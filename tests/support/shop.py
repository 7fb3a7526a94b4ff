"""A rig with the whole API on a real port in front of it, and a client with the retailer's key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from relay.cli.composition import open_api
from relay.settings import load
from relay.store.retailers import SCOPES, Retailers
from relay.vault import generate_master_key
from tests.api.support import conforms
from tests.support.rig import Rig, open_rig, serving


@dataclass
class Shop:
    rig: Rig
    url: str
    key: str
    client: httpx.AsyncClient

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request, whose answer has to be one that the OpenAPI document allows."""
        response = await self.client.request(method, path, json=body, headers=headers)
        conforms(response)
        return response

    async def got(self, path: str) -> Any:
        """The JSON of a GET that has to succeed."""
        response = await self.ask("GET", path)
        assert response.status_code == 200, response.text
        return response.json()


@asynccontextmanager
async def open_shop(redis_url: str, upstream: Any = None, **settings: str) -> AsyncIterator[Shop]:
    """`settings` come before those that let the API reach this machine and limit nobody."""
    master = generate_master_key("shop")
    async with open_rig(redis_url, upstream, master_keys=master) as rig:
        texts = {
            "RELAY_REDIS_URL": redis_url,
            "RELAY_MASTER_KEYS": master,
            "RELAY_TARGET_ALLOW": "127.0.0.0/8",
            "RELAY_ALLOW_HTTP_TARGETS": "1",
            **dict.fromkeys(("RELAY_API_RATE", "RELAY_API_RATE_RETAILER", "RELAY_API_RATE_IP"), "0"),
            **settings,
        }
        _, key = await Retailers(rig.db, rig.vault).issue(rig.retailer_id, name="", scopes=SCOPES, expires_ms=None)
        headers = {"authorization": f"Bearer {key}"}
        async with (
            open_api(load(texts)) as app,
            serving(app) as url,
            httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client,
        ):
            yield Shop(rig, url, key, client)
