"""One trace from the poll that found a change to every attempt to deliver it, through the real pumps."""

from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import StatusCode

from relay import tracking
from relay.model.orders import EventId, OrderId
from relay.model.retries import Schedule
from relay.store import keys
from relay.store.deliveries import LaneEntry, on_request
from relay.store.retention import Retention
from tests.pumps.test_delivering import change, history, run
from tests.support.endpoint import LIMITS, Endpoint, broken, circuit_is, works
from tests.support.rig import Answer, Answers, Rig, eventually, open_rig
from tests.support.traces import Traced, told, trace_of, traceparent

#: All that spans may tell. What is added here goes to a system where no purge reaches it.
ALLOWED = {
    *("relay.retailer_id", "relay.subscription_id", "relay.resource", "relay.event_types", "relay.result"),
    *("relay.event_id", "relay.event_type", "relay.attempt", "relay.outcome", "http.response.status_code"),
}


TYPE, BEAT = "relay.event_type", "webhook.heartbeat"


async def told_of(rig: Rig, count: int) -> None:
    await eventually(lambda: len(rig.receipts) >= count)


async def raw_log(rig: Rig) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The log's entries as Redis has them."""
    return [(position, fields) for position, fields in await rig.db.run("XRANGE", keys.log(rig.retailer_id), "-", "+")]


async def rewrite(rig: Rig, written: Callable[[dict[bytes, bytes]], Sequence[str | bytes]]) -> None:
    """Write the log anew, each entry at its place with the fields that `written` makes of its own."""
    rows = await raw_log(rig)
    await rig.db.run("DEL", keys.log(rig.retailer_id))
    for position, fields in rows:
        await rig.db.run("XADD", keys.log(rig.retailer_id), position, *written(fields))


def flat(fields: dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]


def test_a_change_is_one_trace_from_its_poll_to_its_delivery(redis_url: str) -> None:
    async def main() -> None:
        answers, traced = Answers(), Traced()
        async with open_rig(redis_url, answers) as rig:
            rig.tracing = traced.tracing
            subscription = await rig.subscribe()
            await rig.track("o-1")
            pump = rig.poll()
            rig.deliver()
            await told_of(rig, 1)
            await eventually(lambda: pump.tally["unchanged"] >= 3)
            answers.handling = Answer({"order_id": "o-1", "status": "staging", "notes": "ring twice"})
            await told_of(rig, 3)
            await rig.stop()

            polls, attempts = traced.named("poll"), traced.named("attempt")
            # What did not change left nothing: not one span for any of the unchanged polls.
            assert len(polls) == len(traced.named("fetch")) == pump.tally["changed"]
            results = [told(commit)["relay.result"] for commit in traced.named("commit")]
            assert results.count("ok") == len(polls)
            assert len(traced.named("detect")) == len(results)  # a commit that came too late was decided anew
            assert len(traced.spans) == 2 * len(polls) + 2 * len(results) + len(attempts)
            (poll,) = [p for p in polls if "order.status_changed" in told(p).get("relay.event_types", ())]
            assert told(poll) == {
                "relay.retailer_id": rig.retailer_id,
                "relay.resource": "handling",
                "relay.event_types": ("order.status_changed", "order.notes_changed"),
            }
            children = [s for s in traced.spans if s.parent is not None and s.parent.span_id == poll.context.span_id]
            assert [s.name for s in children] == ["fetch", "detect", "commit", "attempt", "attempt"]
            assert {trace_of(s) for s in [poll, *children]} == {trace_of(poll)}
            fetch, detect, commit, *_ = children
            assert poll.start_time == fetch.start_time
            times = [fetch.start_time, fetch.end_time, detect.start_time, detect.end_time, commit.end_time]
            assert times == sorted(times, key=lambda at: at or 0)
            assert told(commit) == {"relay.result": "ok"}
            events = {receipt.event["type"]: receipt.event["id"] for receipt in rig.receipts}
            assert [told(s) for s in children[3:]] == [
                {
                    "relay.retailer_id": rig.retailer_id,
                    "relay.subscription_id": subscription.id,
                    "relay.event_id": events[kind],
                    "relay.event_type": kind,
                    "relay.attempt": 1,
                    "relay.outcome": "answered",
                    "http.response.status_code": 200,
                }
                for kind in ("order.status_changed", "order.notes_changed")
            ]
            # Beside the body, never in it: the bytes that are signed and sent know of no trace.
            for _, fields in await raw_log(rig):
                assert fields[b"p"] in {traceparent(p).encode() for p in polls}
                assert b"traceparent" not in fields[b"b"]
                assert fields[b"p"] not in fields[b"b"]

    run(main())


def test_retries_are_further_spans_of_the_trace_also_by_another_worker(redis_url: str) -> None:
    async def main() -> None:
        endpoint, traced = Endpoint(broken), Traced()
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            rig.tracing = traced.tracing
            await rig.subscribe(url=f"{rig.upstream_url}/hook")
            with traced.tracing.poll(rig.retailer_id, "handling", None) as poll, poll.commit([]):
                await change(rig, "o-1", "picking")
            rig.deliver(Schedule((0.02,)), LIMITS)
            await eventually(lambda: len(traced.named("attempt")) >= 2)
            await rig.stop()
            endpoint.mood = works
            rig.deliver(Schedule((0.02,)), LIMITS)
            await told_of(rig, 1)
            await rig.stop()

            (root,), attempts = traced.named("poll"), traced.named("attempt")
            assert {trace_of(span) for span in attempts} == {trace_of(root)}
            assert [told(span)["relay.attempt"] for span in attempts] == list(range(1, len(attempts) + 1))
            statuses = [told(span)["http.response.status_code"] for span in attempts]
            assert statuses == [500] * (len(attempts) - 1) + [200]
            codes = [span.status.status_code for span in attempts]
            assert codes == [StatusCode.ERROR] * (len(attempts) - 1) + [StatusCode.UNSET]

    run(main())


def test_an_endpoint_that_is_not_there_is_an_attempt_without_a_status(redis_url: str, unused_port: int) -> None:
    async def main() -> None:
        traced = Traced()
        async with open_rig(redis_url) as rig:
            rig.tracing = traced.tracing
            await rig.subscribe(url=f"http://127.0.0.1:{unused_port}/hook")
            await change(rig, "o-1", "picking")
            rig.deliver()
            await eventually(lambda: traced.named("attempt"))
            await rig.stop()

            first = traced.named("attempt")[0]
            assert told(first)["relay.outcome"] == "connect"
            assert "http.response.status_code" not in told(first)
            assert first.status.status_code is StatusCode.ERROR

    run(main())


def test_spans_tell_ids_and_outcomes_and_nothing_of_anybody(redis_url: str) -> None:
    async def main() -> None:
        answers, traced = Answers(), Traced()
        answers.handling = Answer({"order_id": "planted-order", "status": "picking", "notes": "planted"})
        answers.messages = Answer({"messages": [{"id": "m", "sender": "customer", "body": "planted words"}]})
        async with open_rig(redis_url, answers, fail_rate=0.5) as rig:
            rig.tracing = traced.tracing
            await rig.subscribe(url=f"{rig.receiver_url}/planted?key=planted", headers={"x-key": "planted"})
            await rig.track("planted-order", user_id="planted-user")
            rig.poll()
            rig.deliver()
            await told_of(rig, 1)
            answers.misbehaviour["handling"] = Answer({"error": "planted"}, status=404)
            await told_of(rig, 2)
            await rig.stop()

            assert rig.receipts[1].event["type"] == "order.tracking_suspended"
            assert {name for span in traced.spans for name in told(span)} <= ALLOWED
            for span in traced.spans:
                text = span.to_json()
                assert "planted" not in text
                assert rig.receiver_url not in text
                assert rig.upstream_url not in text
                assert not span.events
                assert span.status.description is None
            # A refusal that lasts is committed as well: its event has one trace too.
            suspended = [s for s in traced.named("attempt") if told(s)["relay.event_type"].endswith("suspended")]
            assert len({trace_of(s) for s in suspended}) == 1
            assert all(s.parent is not None for s in suspended)

    run(main())


def test_receivers_are_told_only_when_that_is_asked_for(redis_url: str) -> None:
    async def main() -> None:
        for receivers in (False, True):
            endpoint, traced = Endpoint(works), Traced(receivers=receivers)
            async with open_rig(redis_url, endpoint) as rig:
                endpoint.inner = rig.receiver
                rig.tracing = traced.tracing
                await rig.subscribe(url=f"{rig.upstream_url}/hook", headers={"Traceparent": "mine"})
                await change(rig, "o-1", "picking")
                rig.deliver()
                await told_of(rig, 1)
                await rig.stop()

                (attempt,) = traced.named("attempt")
                (headers,) = endpoint.headers
                assert headers["traceparent"] == (traceparent(attempt) if receivers else "mine")

    run(main())


def test_what_was_not_sampled_when_polled_is_not_sampled_when_delivered(redis_url: str) -> None:
    async def main() -> None:
        unsampled, traced = Traced(sampler=ALWAYS_OFF), Traced(sampler=ParentBased(ALWAYS_ON))
        async with open_rig(redis_url) as rig:
            rig.tracing = traced.tracing
            await rig.subscribe()
            with unsampled.tracing.poll(rig.retailer_id, "handling", None) as poll, poll.commit([]):
                await change(rig, "o-1", "picking")
            await change(rig, "o-1", "staging")
            rig.deliver()
            await told_of(rig, 2)
            await rig.stop()

            # The second event was committed by who does not trace: its attempt begins a trace.
            (attempt,) = traced.named("attempt")
            assert told(attempt)["relay.event_id"] == rig.receipts[1].event["id"]
            assert not unsampled.spans

    run(main())


def test_a_folded_snapshot_goes_on_with_the_trace_of_the_last_event_it_stands_for(redis_url: str) -> None:
    async def main() -> None:
        endpoint, traced = Endpoint(broken), Traced()
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            rig.tracing = traced.tracing
            subscription = await rig.subscribe(url=f"{rig.upstream_url}/hook", backlog="latest")
            rig.deliver(Schedule((0.1,)), LIMITS)
            for number in range(6):
                await history(rig, f"o-{number}", 2)
            await eventually(lambda: circuit_is(rig, subscription.id, "open"))
            for number in range(6):
                with traced.tracing.poll(rig.retailer_id, "handling", None) as poll, poll.commit([f"{number}"]):
                    await change(rig, f"o-{number}", "later")
            endpoint.mood = works
            await eventually(rig.idle)
            await rig.stop()

            snapshots = {r.event["id"]: r.event["data"]["order_id"] for r in rig.receipts if "snapshot" in str(r.event)}
            roots = {f"o-{told(span)['relay.event_types'][0]}": trace_of(span) for span in traced.named("poll")}
            sent = [s for s in traced.named("attempt") if told(s)["relay.event_type"] == "order.snapshot"]
            assert sent
            for span in sent:
                assert trace_of(span) == roots[snapshots[told(span)["relay.event_id"]]]

    run(main())


# ── a rolling upgrade ───────────────────────────────────────────────────────────────────────────────────────────────


def test_entries_written_without_a_trace_are_delivered(redis_url: str) -> None:
    async def main() -> None:
        traced = Traced()
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            await history(rig, "o-1", 3)
            assert all(fields.keys() == {b"i", b"t", b"o", b"q", b"b"} for _, fields in await raw_log(rig))
            rig.tracing = traced.tracing
            rig.deliver()
            await told_of(rig, 3)
            await rig.stop()

            attempts = traced.named("attempt")
            assert [told(s)["relay.event_id"] for s in attempts] == [r.event["id"] for r in rig.receipts]
            assert all(s.parent is None for s in attempts)

    run(main())


def strange(fields: dict[bytes, bytes]) -> list[str | bytes]:
    """An entry with fields that this code does not know, in places where a reader by number would find them."""
    return ["zz", "new", *flat(fields)[:4], "yy", "newer", *flat(fields)[4:], "xx", "newest"]


def test_entries_with_fields_of_a_later_release_are_read_by_everybody(redis_url: str) -> None:
    """This release's `p` is such a field to the one before: no reader, in Python or Lua, counts on a field's place."""

    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe()
            for order_id in ("o-1", "o-2", "o-3"):
                await history(rig, order_id, 3)
            bodies = [entry.body for entry in await rig.log.after(rig.retailer_id, "0-0", 100)]
            await rewrite(rig, strange)
            rig.deliver()
            await told_of(rig, 9)
            assert sorted(receipt.body for receipt in rig.receipts) == sorted(bodies)

            (third,) = [r.event["id"] for r in rig.receipts if r.event["data"]["order_id"] == "o-1"][2:]
            entry = await rig.log.find(rig.retailer_id, EventId(third))
            assert entry is not None
            waiting = LaneEntry(entry.position, 3, 0, 0, "r")
            lane = on_request("order", entry)
            await rig.stores.recoveries.redeliver(rig.retailer_id, subscription.id, lane, waiting)
            await eventually(lambda: rig.receiver.counters.duplicates == 1)

            now_ms = await rig.db.now_ms()
            await tracking.purge(rig.orders, rig.retailer_id, OrderId("o-1"), now_ms=now_ms)
            await told_of(rig, 10)
            await eventually(rig.idle)
            await rig.stop()
            assert await rig.balanced()
            entries = await rig.log.after(rig.retailer_id, "0-0", 100)
            assert [(e.sequence, e.gone) for e in entries if e.order_id == "o-1"] == [
                (1, True),
                (2, True),
                (3, True),
                (4, False),
            ]
            assert await Retention(rig.db, rig.log).trim(rig.retailer_id, f"{now_ms * 2}-0") == 10
            assert await rig.db.run("EXISTS", *(keys.trail(rig.retailer_id, f"o-{n}") for n in (1, 2, 3))) == 0

    run(main())


def test_a_trace_that_is_none_costs_nothing_but_itself(redis_url: str) -> None:
    async def main() -> None:
        traced = Traced()
        async with open_rig(redis_url) as rig:
            rig.tracing = traced.tracing
            await rig.subscribe()
            await history(rig, "o-1", 2)
            bad = iter(["nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
            await rewrite(rig, lambda fields: [*flat(fields), "p", next(bad)])
            rig.deliver()
            await told_of(rig, 2)
            await rig.stop()

            assert [span.parent for span in traced.named("attempt")] == [None, None]

    run(main())


def test_a_heartbeat_is_an_attempt_of_its_own(redis_url: str) -> None:
    async def main() -> None:
        traced = Traced(receivers=True)
        async with open_rig(redis_url) as rig:
            rig.tracing = traced.tracing
            subscription = await rig.subscribe(heartbeat_seconds=1)
            await history(rig, "o-1", 1)
            rig.deliver()
            beat, *_ = await eventually(lambda: [s for s in traced.named("attempt") if told(s)[TYPE] == BEAT])
            await rig.stop()
            assert beat.parent is None
            assert set(told(beat)) <= ALLOWED
            assert told(beat)["relay.subscription_id"] == subscription.id
            assert told(beat)["relay.outcome"] == "answered"
            assert told(beat)["http.response.status_code"] == 200

    run(main())
