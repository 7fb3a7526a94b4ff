"""The address guard: no delivery connects to an address that is not public, unless the operator says so.

    send(url) ── form (parse_target) ── lookup, once ── judge every answer ── engine pinned to a judged address
                      │ refused             │ none          │ refused
                      ▼                     ▼               ▼
                   BLOCKED                 DNS           BLOCKED

The check and the connection use the same address, so a name that changes its answer in between (rebinding) gains
nothing. It stands in the transport, under every way out, and judges the URLs of rows stored long ago like new ones.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import structlog
from msgspec.structs import replace
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.http import Url

from relay.engine import DEFAULT_DEADLINE, Answer, Failure, FastEngine, Pin
from relay.errors import InvalidInput, Problem
from relay.model.addresses import Refused, judge
from relay.model.targets import Allow, Target, parse_target
from relay.resolver import Resolver, SystemResolver
from relay.settings import Settings

#: Longest wait for a name server (seconds).
LOOKUP_TIMEOUT = 3.0
#: Pinned engines kept, about 110 kB each and 7 ms of CPU to build: one per (host, address) in use.
ENGINES = 256
#: How long an address that could not be connected to is passed over while its name has others (seconds).
AVOID = 60.0

# What a retailer is shown. None says which address, port or rule it was: the delivery log is no scanner of networks.
BLOCKED = "the target is not allowed"
UNRESOLVED = "the host name does not resolve"
UNCONNECTED = "no connection could be made"


def allowances(settings: Settings) -> Allow:
    """What the operator exempts and forbids: the upstream's host is forbidden, unless it is exempt."""
    own = [urlsplit(settings.upstream_url).hostname or "", *settings.target_refuse]
    return Allow.parse(settings.target_allow, http=settings.allow_http_targets, forbidden_hosts=own)


class Guard:
    """Judges targets by form and by address."""

    def __init__(self, allow: Allow, resolver: Resolver | None = None, *, timeout: float = LOOKUP_TIMEOUT) -> None:
        """`timeout` bounds one lookup (seconds)."""
        self.allow = allow
        self._resolver = resolver or SystemResolver()
        self._timeout = timeout
        self._lookups: dict[str, asyncio.Task[Sequence[str]]] = {}

    async def addresses(self, host: str, *, within: float = LOOKUP_TIMEOUT) -> tuple[str, ...] | Refused | None:
        """The addresses of a normalised host that may be connected to; None when it has none at present.

        One lookup a call; calls at the same time share one. An address literal is judged without a lookup.
        """
        if _is_literal(host):
            return judge(host, [host], self.allow)
        try:
            async with asyncio.timeout(min(self._timeout, within)):
                # Shielded: others may wait for it, and it ends by itself.
                answers = await asyncio.shield(self._lookup(host))
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            return None
        return judge(host, answers, self.allow) or None

    def _lookup(self, host: str) -> asyncio.Task[Sequence[str]]:
        running = self._lookups.get(host)
        if running is None:
            # Absolute, so that no search domain (a cluster's own, say) answers for a public name. Names that the
            # operator exempts may be short ones, which only a search domain completes.
            name = host if self.allow.permits(host) else f"{host}."
            running = self._lookups[host] = asyncio.create_task(self._ask(name))
            running.add_done_callback(lambda task: self._landed(host, task))
        return running

    async def _ask(self, name: str) -> Sequence[str]:
        return await self._resolver.resolve(name)

    def _landed(self, host: str, task: asyncio.Task[Sequence[str]]) -> None:
        del self._lookups[host]
        if not task.cancelled():
            task.exception()  # nobody may be waiting any more

    async def check_resolves(self, target: Target, pointer: str = "/url") -> None:
        """Raise InvalidInput (`url_not_public`) when a present answer for the host is refused.

        For registration. A name that does not resolve now is accepted: it may tomorrow, and is judged at every send.
        """
        verdict = await self.addresses(target.host)
        if isinstance(verdict, Refused):
            detail = "the host's address is not public"
            raise InvalidInput(detail, code="url_not_public", problems=[Problem(pointer, "url_not_public", detail)])

    async def aclose(self) -> None:
        """Give up lookups that are under way."""
        running = list(self._lookups.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _canonical(host: str) -> str:
    """An address in its one spelling; a name as it is."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Pinned:
    """An engine for one (host, address), built off the loop; closed when dropped and idle."""

    def __init__(self, building: asyncio.Task[FastEngine]) -> None:
        self.building = building
        self.users = 0
        self.dropped = False


class _Engines:
    """The most recently used pinned engines."""

    def __init__(self, most: int, deadline: float, roots: Sequence[bytes]) -> None:
        self._most = most
        self._deadline = deadline
        self._roots = roots
        self._kept: OrderedDict[Pin, _Pinned] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def __contains__(self, pin: Pin) -> bool:
        return pin in self._kept

    def take(self, pin: Pin) -> _Pinned:
        """The engine of this pin, in use until `give_back`."""
        one = self._kept.get(pin)
        if one is None or (one.building.done() and one.building.exception() is not None):
            one = self._kept[pin] = _Pinned(asyncio.create_task(self._build(pin)))
        self._kept.move_to_end(pin)
        one.users += 1
        while len(self._kept) > self._most:
            self._drop(self._kept.popitem(last=False)[1])
        return one

    async def _build(self, pin: Pin) -> FastEngine:
        return await asyncio.to_thread(FastEngine, deadline=self._deadline, pin=pin, roots=self._roots)

    def give_back(self, one: _Pinned) -> None:
        one.users -= 1
        if one.dropped and one.users == 0:
            self._close(one)

    def _drop(self, one: _Pinned) -> None:
        one.dropped = True
        if one.users == 0:
            self._close(one)

    def _close(self, one: _Pinned) -> None:
        async def close() -> None:
            with suppress(PyreqwestError):  # it was never built
                await (await one.building).aclose()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        for one in self._kept.values():
            self._close(one)
        self._kept.clear()
        await asyncio.gather(*self._closing)


@dataclass(frozen=True, slots=True)
class _Aim:
    """A URL that has passed the check of its form. `ready`: its host is an address that has been judged too."""

    url: str
    host: str
    ready: bool


class GuardedEngine:
    """An Engine that sends to judged addresses only. One per process: it keeps connections, engines and lookups.

    With `proxy`, the target is resolved and judged all the same; the proxy is then given the name, resolves it again
    and so must enforce the same table itself (docs/design.md, section 6).
    """

    def __init__(
        self,
        guard: Guard,
        *,
        deadline: float = DEFAULT_DEADLINE,
        proxy: str | None = None,
        roots: Sequence[bytes] = (),
        engines: int = ENGINES,
    ) -> None:
        """`deadline` (seconds) covers the lookup too. `roots`: certificates (PEM) trusted beside the system's."""
        self._guard = guard
        self._deadline = deadline
        self._proxied = proxy is not None
        self._shared = FastEngine(deadline=deadline, proxy=proxy, roots=roots)
        self._engines = _Engines(engines, deadline, roots)
        self._avoided: OrderedDict[Pin, float] = OrderedDict()
        self._aim = lru_cache(maxsize=1024)(self._take_aim)

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, limit: int
    ) -> Answer:
        """As `Engine.send`. BLOCKED: refused by form or address, nothing was sent. DNS: no address at present."""
        aim = self._aim(url)
        if isinstance(aim, Refused):
            return _blocked("", aim, 0.0)
        if aim.ready:
            return _neutral(await self._shared.send(method, aim.url, headers, body, limit=limit))
        began = time.perf_counter()
        verdict = await self._guard.addresses(aim.host, within=self._deadline)
        took_ms = (time.perf_counter() - began) * 1000
        if verdict is None:
            return Answer(None, failure=Failure.DNS, detail=UNRESOLVED, duration_ms=took_ms)
        if isinstance(verdict, Refused):
            return _blocked(aim.host, verdict, took_ms)
        pin = self._choose(aim.host, verdict)
        one = None if self._proxied else self._engines.take(pin)
        try:
            ends_at = began + self._deadline
            engine = self._shared if one is None else await _built(one, ends_at)
            # At least a moment: the engine then says by itself that the time is over.
            left = max(0.001, ends_at - time.perf_counter())
            answer = await engine.send(method, aim.url, headers, body, limit=limit, within=left)
        except TimeoutError:
            answer = Answer(None, failure=Failure.TIMEOUT, detail="operation timed out")
        finally:
            if one is not None:
                self._engines.give_back(one)
        if answer.failure is Failure.CONNECT:
            self._avoid(pin)
        return replace(_neutral(answer), duration_ms=(time.perf_counter() - began) * 1000)

    def _choose(self, host: str, addresses: tuple[str, ...]) -> Pin:
        """One with open connections before the resolver's first; none that just failed while there are others."""
        pins = [Pin(host, address) for address in addresses]
        now = time.monotonic()
        usable = [pin for pin in pins if self._avoided.get(pin, 0.0) <= now] or pins
        return next((pin for pin in usable if pin in self._engines), usable[0])

    def _avoid(self, pin: Pin) -> None:
        self._avoided[pin] = time.monotonic() + AVOID
        self._avoided.move_to_end(pin)
        while len(self._avoided) > ENGINES:
            self._avoided.popitem(last=False)

    def _take_aim(self, url: str) -> _Aim | Refused:
        """The check of the form. Pure, so it is remembered per URL."""
        try:
            target = parse_target(url, self._guard.allow)
            seen = (Url(target.url).host_str or "").strip("[]")
        except InvalidInput as error:
            return Refused(error.code)
        except ValueError:
            return Refused("url_malformed")
        # The engine connects to what its own parser makes of the URL, so that has to be what was checked.
        if _canonical(seen) != _canonical(target.host):
            return Refused("read differently by the engine")
        if not _is_literal(seen):
            return _Aim(target.url, seen, ready=False)
        verdict = judge(seen, [seen], self._guard.allow)
        return verdict if isinstance(verdict, Refused) else _Aim(target.url, seen, ready=True)

    async def aclose(self) -> None:
        await self._guard.aclose()
        await self._engines.aclose()
        await self._shared.aclose()


async def _built(one: _Pinned, ends_at: float) -> FastEngine:
    """Raises TimeoutError at `ends_at`; the engine is built on for those who come next."""
    async with asyncio.timeout(ends_at - time.perf_counter()):
        return await asyncio.shield(one.building)


def _blocked(host: str, refused: Refused, took_ms: float) -> Answer:
    # The rule is for the operator. Address and URL stay out of the log too: a path may be a secret.
    structlog.get_logger("relay.guard").warning("guard.blocked", host=host, reason=refused.reason)
    return Answer(None, failure=Failure.BLOCKED, detail=BLOCKED, duration_ms=took_ms)


def _neutral(answer: Answer) -> Answer:
    """Closed and filtered ports read alike."""
    return replace(answer, detail=UNCONNECTED) if answer.failure is Failure.CONNECT else answer
