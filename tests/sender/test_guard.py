"""The guard before a real engine. Loopback plays the internet: 127.0.0.2 and 127.0.0.3 are exempt, so they are "public"
here; 127.0.0.1 is not, and stands for everything inside."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from relay.engine import Answer, Failure, FastEngine
from relay.errors import InvalidInput
from relay.guard import AVOID, BLOCKED, UNCONNECTED, UNRESOLVED, Guard, GuardedEngine, allowances
from relay.model.targets import Allow, parse_target
from relay.resolver import Resolver, SystemResolver
from relay.settings import Settings
from tests.support.names import Names
from tests.support.peers import peer, silence
from tests.support.rig import eventually

ALLOW = Allow.parse(["127.0.0.2/31"], http=True, forbidden_hosts=["upstream.example.com"])
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Site:
    """The same port on 127.0.0.1 (inside) and on 127.0.0.2 ("public"): counts connections and keeps heads."""

    def __init__(self) -> None:
        self.port = 0
        self.inside = 0
        self.public = 0
        self.heads: list[bytes] = []

    async def open(self, stack: AsyncExitStack) -> None:
        for attempt in range(5):  # what is free on one address may be taken on the other
            self.port = await stack.enter_async_context(peer(self._public, host="127.0.0.2"))
            try:
                await stack.enter_async_context(peer(self._inside, host="127.0.0.1", port=self.port))
                return
            except OSError:
                if attempt == 4:
                    raise

    async def _inside(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.inside += 1

    async def _public(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.public += 1
        while True:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(2)
            writer.write(OK)
            await writer.drain()

    def url(self, host: str = "shop.example.com", path: str = "/h") -> str:
        return f"http://{host}:{self.port}{path}"


def guarded(
    resolver: Resolver,
    test: Callable[[GuardedEngine, Site], Awaitable[Any]],
    *,
    timeout: float = 3.0,
    allow: Allow = ALLOW,
    **options: Any,
) -> Any:
    """Run a test's coroutine with an engine that asks this resolver, and a site."""

    async def main() -> Any:
        async with AsyncExitStack() as stack:
            site = Site()
            await site.open(stack)
            engine = GuardedEngine(Guard(allow, resolver, timeout=timeout), **{"deadline": 2.0, **options})
            stack.push_async_callback(engine.aclose)
            return await test(engine, site)

    return asyncio.run(main())


async def post(engine: GuardedEngine, url: str) -> Answer:
    return await engine.send("POST", url, {"a": "b"}, b"{}", limit=100)


def test_a_name_that_flips_to_loopback_between_check_and_connect_gains_nothing() -> None:
    names = Names({"shop.example.com": [["127.0.0.2"], ["127.0.0.1"]]})

    async def test(engine: GuardedEngine, site: Site) -> tuple[Answer, Answer, Site]:
        return await post(engine, site.url()), await post(engine, site.url()), site

    first, second, site = guarded(names, test)
    assert (first.status, first.body) == (200, b"ok"), first
    assert f"host: shop.example.com:{site.port}".encode() in site.heads[0].lower()
    # Judged anew for the second attempt, although there was an open connection to the good address.
    assert (second.failure, second.detail) == (Failure.BLOCKED, BLOCKED)
    assert (site.public, site.inside, len(site.heads)) == (1, 0, 1)
    assert names.asked == ["shop.example.com."] * 2


def test_one_lookup_an_attempt_and_no_other_resolver() -> None:
    names = Names({"shop.example.com": [["127.0.0.2"]]})

    async def test(engine: GuardedEngine, site: Site) -> list[Answer]:
        return [await post(engine, site.url(path=f"/{n}")) for n in range(5)]

    assert [answer.status for answer in guarded(names, test)] == [200] * 5
    # `example.com` names resolve nowhere in this test but by the stub: a second resolver would have failed.
    assert len(names.asked) == 5


def test_attempts_at_the_same_time_share_a_lookup() -> None:
    names = Names({"shop.example.com": [["127.0.0.2"]]}, delay_s=0.05)

    async def test(engine: GuardedEngine, site: Site) -> list[Answer]:
        return await asyncio.gather(*(post(engine, site.url(path=f"/{n}")) for n in range(20)))

    assert [answer.status for answer in guarded(names, test)] == [200] * 20
    assert names.asked == ["shop.example.com."]


@pytest.mark.parametrize(
    "answers",
    [
        *(["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "::1"], ["fd00::1", "127.0.0.2"]),
        *(
            ["127.0.0.2", "10.0.0.1"],
            ["0.0.0.0"],
            ["::"],
            ["::ffff:127.0.0.1"],
            ["64:ff9b::7f00:1"],
            ["169.254.169.254"],
        ),
        [f"127.0.{n}.2" for n in range(33)],
    ],
    ids=lambda answers: " ".join(answers)[:40],
)
def test_a_name_with_one_bad_answer_is_not_connected_to(answers: list[str]) -> None:
    async def test(engine: GuardedEngine, site: Site) -> tuple[Answer, Site]:
        return await post(engine, site.url()), site

    answer, site = guarded(Names({"shop.example.com": [answers]}), test)
    assert (answer.status, answer.failure, answer.detail) == (None, Failure.BLOCKED, BLOCKED)
    assert (site.public, site.inside) == (0, 0)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/"),
        *("http://[::ffff:127.0.0.1]:{port}/", "http://[::1]:{port}/", "http://localhost:{port}/", "http://0:{port}/"),
        *("http://127。0。0。1:{port}/", "http://①②⑦.⓪.⓪.①:{port}/", "http://127.0.0.2@127.0.0.1:{port}/"),
        *("http://127.0.0.2:{port}\\@127.0.0.1/", "http://127.0.0.1%2f@127.0.0.2:{port}/", "http://redis:{port}/"),
        *("http://shop.example.com:{port}/#f", "ftp://127.0.0.2:{port}/", "http://[::1", "", "/h", "http://:{port}/"),
        *("http://xn--0.example.com:{port}/", "https://shop.example.com:{port}/", "http://a.internal:{port}/"),
        *("http://upstream.example.com/", "http://UPSTREAM.example.com.:{port}/", "\x00http://127.0.0.2:{port}/"),
    ],
)
def test_the_form_is_checked_at_every_send_also_of_rows_stored_earlier(url: str) -> None:
    names = Names({})

    async def test(engine: GuardedEngine, site: Site) -> tuple[list[Answer], Site]:
        text = url.format(port=site.port)
        return [await post(engine, text), await post(engine, text)], site

    answers, site = guarded(names, test)
    assert [(a.status, a.failure, a.detail) for a in answers] == [(None, Failure.BLOCKED, BLOCKED)] * 2
    assert (site.public, site.inside, names.asked) == (0, 0, [])


def test_addresses_that_the_operator_exempts_need_no_lookup() -> None:
    names = Names({})

    async def test(engine: GuardedEngine, site: Site) -> list[Answer]:
        return [await post(engine, site.url("127.0.0.2")), await post(engine, site.url("127.0.0.1"))]

    good, bad = guarded(names, test)
    assert good.status == 200
    assert bad.failure is Failure.BLOCKED
    assert names.asked == []


class Failing:
    """A resolver that fails in one way, and then knows the name."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def resolve(self, host: str) -> Sequence[str]:
        error, self.error = self.error, None
        if error is None:
            return ["127.0.0.2"]
        raise error


@pytest.mark.parametrize(
    "resolver",
    [
        Failing(socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
        Failing(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")),
        Failing(socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure")),
        Failing(OSError("network is down")),
        Names({"shop.example.com": [[], ["127.0.0.2"]]}),
    ],
    ids=["NXDOMAIN", "time-out", "SERVFAIL", "down", "no address"],
)
def test_no_address_now_is_a_dns_failure_and_not_for_ever(resolver: Resolver) -> None:
    async def test(engine: GuardedEngine, site: Site) -> list[Answer]:
        return [await post(engine, site.url()), await post(engine, site.url())]

    first, second = guarded(resolver, test)
    assert (first.failure, first.detail) == (Failure.DNS, UNRESOLVED)
    assert second.status == 200


def test_a_slow_resolver_costs_its_bound_and_one_lookup() -> None:
    names = Names({"shop.example.com": [["127.0.0.2"]]}, delay_s=0.6)

    async def test(engine: GuardedEngine, site: Site) -> list[Answer]:
        return [await post(engine, site.url()) for _ in range(3)]

    answers = guarded(names, test, timeout=0.25)
    assert [answer.failure for answer in answers] == [Failure.DNS, Failure.DNS, None], answers
    assert all(answer.duration_ms < 600 for answer in answers)
    assert len(names.asked) == 1  # the one that was abandoned twice, and came in the end


def test_the_deadline_covers_the_lookup() -> None:
    names = Names({"shop.example.com": [["127.0.0.2"]]}, delay_s=0.3)

    async def main() -> Answer:
        async with peer(silence, host="127.0.0.2") as port:
            engine = GuardedEngine(Guard(ALLOW, names), deadline=0.5)
            try:
                return await post(engine, f"http://shop.example.com:{port}/")
            finally:
                await engine.aclose()

    answer = asyncio.run(main())
    assert answer.failure is Failure.TIMEOUT, answer
    assert 450 < answer.duration_ms < 750


def test_names_are_looked_up_without_search_domains_but_those_the_operator_knows() -> None:
    names = Names({"receiver": [["127.0.0.2"]], "shop.example.com": [["127.0.0.2"]]})

    async def test(engine: GuardedEngine, site: Site) -> list[Answer]:
        return [await post(engine, site.url("receiver")), await post(engine, site.url("shop.example.com."))]

    answers = guarded(names, test, allow=Allow.parse(["127.0.0.2/31", "receiver"], http=True))
    assert [answer.status for answer in answers] == [200, 200]
    assert names.asked == ["receiver", "shop.example.com."]


def test_of_several_good_addresses_one_that_failed_is_passed_over() -> None:
    assert AVOID > 10
    names = Names({"shop.example.com": [["127.0.0.3", "127.0.0.2"]]})

    async def test(engine: GuardedEngine, site: Site) -> tuple[list[Answer], Site]:
        return [await post(engine, site.url()) for _ in range(3)], site

    answers, site = guarded(names, test)
    assert [answer.failure for answer in answers] == [Failure.CONNECT, None, None]
    assert site.public == 1  # and the connection is kept


def test_rotating_answers_keep_the_connection() -> None:
    names = Names({"shop.example.com": [["127.0.0.2", "127.0.0.3"], ["127.0.0.3", "127.0.0.2"]]})

    async def test(engine: GuardedEngine, site: Site) -> tuple[list[Answer], Site]:
        return [await post(engine, site.url()) for _ in range(2)], site

    answers, site = guarded(names, test)
    assert [answer.status for answer in answers] == [200, 200]
    assert site.public == 1


def test_a_closed_and_a_filtered_port_read_alike() -> None:
    async def main() -> list[Answer]:
        # A listener whose queue is full drops what comes.
        with socket.socket() as full, socket.socket() as first, socket.socket() as second:
            full.bind(("127.0.0.2", 0))
            full.listen(0)
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            engine = GuardedEngine(Guard(ALLOW, Names({})), deadline=8.0)
            try:
                return [
                    await post(engine, f"http://127.0.0.2:{full.getsockname()[1]}/"),
                    await post(engine, "http://127.0.0.2:1/"),
                ]
            finally:
                await engine.aclose()

    filtered, closed = asyncio.run(main())
    assert (filtered.failure, filtered.detail) == (closed.failure, closed.detail) == (Failure.CONNECT, UNCONNECTED)
    assert filtered.duration_ms > 3_000 > closed.duration_ms


def test_engines_are_kept_for_the_latest_addresses_and_never_closed_under_a_request() -> None:
    names = Names({f"{letter}.example.com": [["127.0.0.2"]] for letter in "abc"})
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"a.example.com" in head:
            await release.wait()
        writer.write(OK)
        await writer.drain()
        await reader.read()

    async def main() -> None:
        async with peer(slow, host="127.0.0.2") as port:
            engine = GuardedEngine(Guard(ALLOW, names), deadline=5, engines=1)
            first = asyncio.create_task(post(engine, f"http://a.example.com:{port}/"))
            await eventually(lambda: len(engine._engines._kept) == 1)
            [evicted] = engine._engines._kept.values()
            for host in ("b", "c", "b"):
                assert (await post(engine, f"http://{host}.example.com:{port}/")).status == 200
            assert [pin.host for pin in engine._engines._kept] == ["b.example.com"]
            assert not first.done()
            release.set()
            assert (await first).status == 200
            bare = await evicted.building
            await eventually(lambda: not engine._engines._closing)
            closed = await bare.send("POST", f"http://a.example.com:{port}/", {}, b"{}", limit=10)
            assert (closed.status, "closed" in closed.detail) == (None, True), closed
            await engine.aclose()

    asyncio.run(main())


def test_a_proxy_does_not_switch_the_guard_off() -> None:
    names = Names({"shop.example.com": [["93.184.216.34"]], "inside.example.com": [["10.0.0.1"]]})
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).splitlines()[0])
        writer.write(OK)
        await writer.drain()

    async def main() -> list[Answer]:
        async with peer(proxy) as port:
            engine = GuardedEngine(Guard(ALLOW, names), deadline=2, proxy=f"http://127.0.0.1:{port}")
            try:
                urls = (
                    "http://shop.example.com/h",
                    "http://inside.example.com/h",
                    "http://127.0.0.1/",
                    "http://10.0.0.1/",
                )
                return [await post(engine, url) for url in (*urls, "http://none.example.com/", "http://127.0.0.2/h")]
            finally:
                await engine.aclose()

    answers = asyncio.run(main())
    assert [answer.failure for answer in answers] == [
        *(None, Failure.BLOCKED, Failure.BLOCKED, Failure.BLOCKED, Failure.DNS, None)
    ]
    assert seen == [b"POST http://shop.example.com/h HTTP/1.1", b"POST http://127.0.0.2/h HTTP/1.1"]
    assert names.asked == ["shop.example.com.", "inside.example.com.", "none.example.com."]


def test_nothing_ambient_takes_effect(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine shop.example.com login me password secret\ndefault login me password x\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))

    async def test(engine: GuardedEngine, site: Site) -> tuple[Answer, Answer, Site]:
        return await post(engine, site.url()), await post(engine, site.url("127.0.0.2")), site

    named, literal, site = guarded(Names({"shop.example.com": [["127.0.0.2"]]}), test)
    assert (named.status, literal.status) == (200, 200)
    assert all(b"authorization" not in head.lower() for head in site.heads)


def test_registration_refuses_what_resolves_inside_now() -> None:
    names = Names({"inside.example.com": [["93.184.216.34", "10.0.0.1"]], "shop.example.com": [["93.184.216.34"]]})
    guard = Guard(Allow(), names)

    async def check(host: str) -> None:
        await guard.check_resolves(parse_target(f"https://{host}/", Allow()))

    asyncio.run(check("shop.example.com"))
    asyncio.run(check("not-yet.example.com"))
    with pytest.raises(InvalidInput) as refusal:
        asyncio.run(check("inside.example.com"))
    assert (refusal.value.code, [p.pointer for p in refusal.value.problems]) == ("url_not_public", ["/url"])
    assert "10.0.0.1" not in refusal.value.detail


def test_the_upstreams_host_is_forbidden_unless_exempt() -> None:
    public = Settings(upstream_url="https://Connect.example.com:443/x", target_refuse=("Relay.example.com.",))
    local = Settings(upstream_url="http://127.0.0.1:9000", target_allow=("127.0.0.0/8",))
    named = Settings(upstream_url="https://connect.example.com", target_allow=("connect.example.com",))

    assert allowances(public).forbidden_hosts == {"connect.example.com", "relay.example.com"}
    assert allowances(local).forbidden_hosts == frozenset()
    assert allowances(named).forbidden_hosts == frozenset()


def test_the_system_resolver_knows_this_machine_and_bounds_its_threads() -> None:
    running, most, entered = 0, 0, threading.Semaphore(0)
    lock, gate = threading.Lock(), threading.Event()

    def slow(host: str) -> Sequence[str]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        entered.release()
        gate.wait(10)
        with lock:
            running -= 1
        if host == "bad":
            raise OSError("no")
        return ["192.0.2.1"]

    async def main() -> list[Any]:
        assert "127.0.0.1" in await SystemResolver().resolve("localhost")
        with pytest.raises(OSError, match=r"not known|no address|failure"):
            await SystemResolver().resolve("nowhere.invalid.")
        resolver = SystemResolver(slow, threads=2)
        tasks = [asyncio.create_task(resolver.resolve(host)) for host in ("a", "bad", "b", "c")]
        await asyncio.to_thread(lambda: (entered.acquire(), entered.acquire()))
        tasks[3].cancel()  # one that never began
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, bad, third, cancelled = asyncio.run(main())
    assert (first, third, most) == (["192.0.2.1"], ["192.0.2.1"], 2)
    assert isinstance(bad, OSError)
    assert isinstance(cancelled, asyncio.CancelledError)


def test_the_bare_engine_would_have_connected() -> None:
    """The stage is set right: without the guard, what is refused above arrives inside."""

    async def test(_: GuardedEngine, site: Site) -> Site:
        engine = FastEngine(deadline=1)
        for host in ("127.0.0.1", "2130706433", "0x7f000001", "127。0。0。1", "127.1"):
            await engine.send("POST", site.url(host), {}, b"{}", limit=10)
        await engine.aclose()
        return site

    assert guarded(Names({}), test).inside == 5
