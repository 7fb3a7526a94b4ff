"""Requests to the API as spans: part of the caller's trace, and the beginning of what they cause."""

from opentelemetry.trace import SpanKind, StatusCode

from relay.model.orders import RetailerId
from relay.model.targets import Allow
from tests.api.support import ADMIN, Relay, driven
from tests.support.endpoint import Endpoint
from tests.support.rig import serving
from tests.support.traces import Traced, told, trace_of, traceparent

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_goes_on_with_the_callers_trace_into_what_it_commits(store_url: str) -> None:
    traced = Traced()

    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        await relay.ask("POST", "/v1/orders", {"order_id": "o-1"}, key=key)
        await relay.ask("DELETE", "/v1/orders/o-1", key=key, headers={"traceparent": CALLER})

        span = traced.spans[-1]
        assert span.name == "request /v1/orders/{order_id}"
        assert span.kind is SpanKind.SERVER
        assert told(span) == {
            "http.request.method": "DELETE",
            "http.route": "/v1/orders/{order_id}",
            "http.response.status_code": 202,
            "relay.retailer_id": retailer_id,
        }
        assert span.parent is not None
        assert (f"{trace_of(span):032x}", f"{span.parent.span_id:016x}") == tuple(CALLER.split("-")[1:3])
        (entry,) = await relay.deps.log.after(RetailerId(retailer_id), "0-0", 10)
        assert entry.type == "order.tracking_ended"
        assert entry.trace == traceparent(span)
        assert b"traceparent" not in entry.body

    driven(store_url, test, tracing=traced.tracing)


def test_refusals_and_unknown_paths_are_told_probes_are_not(store_url: str) -> None:
    traced = Traced()

    async def test(relay: Relay) -> None:
        await relay.ask("GET", "/v1/orders", key="planted")
        await relay.ask("GET", "/planted?planted=1", headers={"traceparent": "planted", "x-request-id": "planted"})
        await relay.ask("GET", "/livez")
        await relay.ask("GET", "/readyz")
        await relay.ask("GET", "/metrics")

        assert [(s.name, told(s)["http.response.status_code"]) for s in traced.spans] == [
            ("request /v1/orders", 401),
            ("request other", 404),
        ]
        assert all(span.parent is None for span in traced.spans)
        assert all(span.status.status_code is StatusCode.UNSET for span in traced.spans)
        assert "planted" not in "".join(span.to_json() for span in traced.spans)

    driven(store_url, test, tracing=traced.tracing)


def test_a_defect_is_an_error_without_its_words(store_url: str) -> None:
    traced = Traced()

    async def test(relay: Relay) -> None:
        await relay.db.run("SET", "relay:1:{0}:retailers", "no index")
        answer = await relay.ask("GET", "/v1/retailers", key=ADMIN)

        assert answer.status_code == 500
        (span,) = traced.spans
        assert told(span)["http.response.status_code"] == 500
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert not span.events

    driven(store_url, test, tracing=traced.tracing)


def test_a_test_event_is_an_attempt_below_its_request(store_url: str) -> None:
    traced, endpoint = Traced(receivers=True), Endpoint(lambda body: (204, {}))

    async def test(relay: Relay) -> None:
        async with serving(endpoint) as url:
            retailer_id, key = await relay.retailer()
            made = (await relay.ask("POST", "/v1/subscriptions", {"url": f"{url}/hook"}, key=key)).json()
            path = f"/v1/subscriptions/{made['id']}/test"
            sent = await relay.ask("POST", path, {"event_type": "order.status_changed"}, key=key)

            attempt, request = traced.spans[-2:]
            assert (attempt.name, request.name) == ("attempt", "request /v1/subscriptions/{subscription_id}/test")
            assert attempt.parent is not None
            assert (attempt.parent.span_id, trace_of(attempt)) == (request.context.span_id, trace_of(request))
            assert told(attempt) == {
                "relay.retailer_id": retailer_id,
                "relay.subscription_id": made["id"],
                "relay.event_id": sent.json()["event_id"],
                "relay.event_type": "order.status_changed",
                "relay.attempt": 1,
                "relay.outcome": "answered",
                "http.response.status_code": 204,
            }
            assert endpoint.headers[-1]["traceparent"] == traceparent(attempt)

    driven(store_url, test, allow=Allow.parse(["127.0.0.0/8"], http=True), tracing=traced.tracing)
