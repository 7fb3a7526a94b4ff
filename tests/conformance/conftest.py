"""One sender and one receiver for all cases of the suite; each case has paths and orders of its own."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from relay.serving import serve
from tests.conformance.receiver import Answer, Receiver, Request
from tests.conformance.sender import Relay, started


class Bench:
    """What a case works with."""

    def __init__(self, sender: Relay, receiver: Receiver, url: str) -> None:
        self.sender = sender
        self.receiver = receiver
        self._url = url
        self._paths = itertools.count()
        self._made: list[str] = []

    def endpoint(
        self, mood: Callable[[Request], Answer | None] | None = None, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        """A fresh endpoint with a subscription; gives its path and the subscription."""
        path = f"/hook-{time.monotonic_ns()}-{next(self._paths)}"
        if mood is not None:
            self.receiver.moods[path] = mood
        made = self.sender.subscribe(self._url + path, **options)
        self._made.append(made["id"])
        return path, made

    def requests(self, path: str, count: int = 1, within: float = 20.0) -> list[Request]:
        """What came to a path, once there is so much of it."""
        deadline = time.monotonic() + within
        while len(self.receiver.came[path]) < count:
            assert time.monotonic() < deadline, f"{len(self.receiver.came[path])} of {count} requests came to {path}"
            time.sleep(0.01)
        return list(self.receiver.came[path])

    def clear(self) -> None:
        for subscription_id in self._made:
            self.sender.unsubscribe(subscription_id)
        self._made.clear()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    receiver = Receiver()
    listening: list[int] = []
    loop = asyncio.new_event_loop()
    serving = loop.create_task(serve(receiver, "127.0.0.1", 0, listening.append, grace=1))
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(serving, return_exceptions=True)))
    thread.start()
    try:
        while not listening:
            time.sleep(0.01)
        with started(tmp_path_factory.mktemp("conformance")) as sender:
            yield Bench(sender, receiver, f"http://127.0.0.1:{listening[0]}")
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(timeout=20)
        loop.close()


@pytest.fixture
def bench(stage: Bench, request: pytest.FixtureRequest) -> Iterator[Bench]:
    claim = request.node.get_closest_marker("claims")
    if claim is not None and claim.args[0] not in stage.sender.claims:
        pytest.skip(f"the sender does not claim: {claim.args[0]}")
    yield stage
    stage.clear()
