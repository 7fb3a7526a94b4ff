"""What any sender of webhooks owes its receivers, seen from outside: Standard Webhooks 1.0.0, and what is claimed on
top of it."""

import base64
import time

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook

from tests.conformance.conftest import Bench
from tests.conformance.receiver import OK, Answer, Request

pytestmark = pytest.mark.timeout(120)


class Failing:
    """Answers so many times otherwise, then well."""

    def __init__(self, *answers: Answer) -> None:
        self._left = list(answers)

    def __call__(self, request: Request) -> Answer:
        return self._left.pop(0) if self._left else OK


def test_a_delivery_is_a_signed_post_of_json(bench: Bench) -> None:
    path, made = bench.endpoint()
    bench.sender.begin()

    (request,) = bench.requests(path)

    assert request.method == "POST"
    assert request.headers["content-type"].partition(";")[0] == "application/json"
    assert request.headers["user-agent"]
    assert Webhook(made["secret"]).verify(request.body, request.headers)
    assert "." not in request.headers["webhook-id"]
    assert request.headers["webhook-timestamp"].isdigit()
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    for entry in request.headers["webhook-signature"].split(" "):
        assert entry.count(",") == 1


def test_the_body_is_one_compact_json_object_with_type_timestamp_and_data(bench: Bench) -> None:
    path, _ = bench.endpoint()
    order = bench.sender.begin()
    bench.sender.cause(order, "grün 🥦 \\u0000 12345678901234567890")

    request = bench.requests(path, 2)[-1]

    event = request.event
    assert {"id", "type", "timestamp", "data"} <= event.keys()
    assert event["id"] == request.headers["webhook-id"]
    assert msgspec.json.format(request.body, indent=-1) == request.body  # no blanks that nobody needs
    assert "grün 🥦" in request.body.decode()
    assert len(request.body) < 64 * 1024


def test_a_secret_that_is_given_signs(bench: Bench) -> None:
    secret = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    path, _ = bench.endpoint(secret=secret)
    bench.sender.begin()

    (request,) = bench.requests(path)

    assert Webhook(secret).verify(request.body, request.headers)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500, 503, 301, 307])
def test_what_is_no_success_is_tried_again_under_the_same_id(bench: Bench, status: int) -> None:
    path, made = bench.endpoint(Failing((status, {"location": "/elsewhere"})))
    bench.sender.begin()

    first, second = bench.requests(path, 2)[:2]

    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert int(second.headers["webhook-timestamp"]) >= int(first.headers["webhook-timestamp"])
    assert Webhook(made["secret"]).verify(second.body, second.headers)
    assert bench.receiver.came["/elsewhere"] == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(bench: Bench, status: int) -> None:
    path, _ = bench.endpoint(lambda _: (status, {}))
    order = bench.sender.begin()
    bench.sender.cause(order, "second")

    requests = bench.requests(path, 2)

    assert len({request.headers["webhook-id"] for request in requests}) == 2


def test_an_endpoint_that_never_answers_is_tried_again(bench: Bench) -> None:
    answers: list[Answer | None] = [None]
    path, _ = bench.endpoint(lambda _: answers.pop() if answers else OK)
    bench.sender.begin()

    first, second = bench.requests(path, 2)[:2]

    assert first.headers["webhook-id"] == second.headers["webhook-id"]


@pytest.mark.parametrize("status", [500, 429])
def test_retry_after_is_honoured_on_any_failure(bench: Bench, status: int) -> None:
    path, _ = bench.endpoint(Failing((status, {"retry-after": "3"})))
    bench.sender.begin()

    first, second = bench.requests(path, 2)[:2]

    assert second.at - first.at >= 2.9


@pytest.mark.claims("gone")
def test_410_ends_it(bench: Bench) -> None:
    path, made = bench.endpoint(lambda _: (410, {}))
    witness, _ = bench.endpoint()
    order = bench.sender.begin()
    bench.requests(path)
    bench.sender.cause(order, "after the end")
    bench.requests(witness, 2)

    assert len(bench.receiver.came[path]) == 1
    assert bench.sender.ask("GET", f"/v1/subscriptions/{made['id']}").json()["disabled_reason"] == "gone"


@pytest.mark.claims("order")
def test_a_subjects_events_come_in_order_however_often_the_first_fails(bench: Bench) -> None:
    path, _ = bench.endpoint(Failing((500, {}), (500, {})))
    order = bench.sender.begin()
    for number in range(3):
        bench.sender.cause(order, f"word {number}")

    requests = bench.requests(path, 6)

    accepted = [request.event["data"]["sequence"] for request in requests[2:]]
    assert accepted == [1, 2, 3, 4]


@pytest.mark.claims("order")
def test_a_failing_subject_delays_no_other(bench: Bench) -> None:
    bad: list[str] = []
    path, _ = bench.endpoint(lambda request: (500, {}) if request.order_id in bad else OK)
    bad.append(bench.sender.begin())
    bench.requests(path)
    good = bench.sender.begin()
    bench.sender.cause(good, "flows")

    deadline = time.monotonic() + 15
    while sum(request.order_id == good for request in bench.receiver.came[path]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert {r.event["data"]["sequence"] for r in bench.receiver.came[path] if r.order_id in bad} == {1}


def test_a_failing_endpoint_delays_no_other(bench: Bench) -> None:
    failing, _ = bench.endpoint(lambda _: None)
    path, _ = bench.endpoint()
    order = bench.sender.begin()
    bench.requests(failing)
    for number in range(3):
        bench.sender.cause(order, f"word {number}")

    requests = bench.requests(path, 4, within=5)

    assert [request.event["data"]["sequence"] for request in requests] == [1, 2, 3, 4]


@pytest.mark.claims("sequence")
def test_a_missing_event_would_show(bench: Bench) -> None:
    path, _ = bench.endpoint(Failing((500, {})))
    for _ in range(2):
        bench.sender.cause(bench.sender.begin(), "word")

    requests = bench.requests(path, 5)

    numbers = {request.headers["webhook-id"]: int(request.headers["relay-sequence"]) for request in requests}
    assert sorted(numbers.values()) == [1, 2, 3, 4]
    attempts = [int(request.headers["relay-attempt"]) for request in requests]
    assert sorted(attempts) == [1, 1, 1, 1, 2]


@pytest.mark.claims("rotation")
def test_both_secrets_sign_during_a_rotation_and_one_after_a_leak(bench: Bench) -> None:
    path, made = bench.endpoint()
    order = bench.sender.begin()
    bench.requests(path)
    rotate = f"/v1/subscriptions/{made['id']}/secret/rotate"

    new = bench.sender.ask("POST", rotate, {}).json()["secret"]
    bench.sender.cause(order, "during")
    during = bench.requests(path, 2)[-1]
    newest = bench.sender.ask("POST", rotate, {"overlap_seconds": 0}).json()["secret"]
    bench.sender.cause(order, "after")
    after = bench.requests(path, 3)[-1]

    for secret in (made["secret"], new):
        assert Webhook(secret).verify(during.body, during.headers)
    assert Webhook(newest).verify(after.body, after.headers)
    assert len(after.headers["webhook-signature"].split(" ")) == 1


@pytest.mark.claims("ed25519")
def test_an_ed25519_signature_stands_beside_the_symmetric_one(bench: Bench) -> None:
    path, made = bench.endpoint(ed25519=True)
    bench.sender.begin()

    (request,) = bench.requests(path)

    assert Webhook(made["secret"]).verify(request.body, request.headers)
    (entry,) = [e for e in request.headers["webhook-signature"].split(" ") if e.startswith("v1a,")]
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(made["public_key"].removeprefix("whpk_")))
    head = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode()
    public.verify(base64.b64decode(entry.removeprefix("v1a,")), head + request.body)


@pytest.mark.claims("replay")
def test_an_event_is_sent_again_on_request_and_marked(bench: Bench) -> None:
    path, made = bench.endpoint()
    bench.sender.begin()
    (first,) = bench.requests(path)

    asked = bench.sender.ask(
        "POST", f"/v1/events/{first.headers['webhook-id']}/redeliver", {"subscription_id": made["id"]}
    )

    assert asked.status_code == 202
    again = bench.requests(path, 2)[-1]
    assert again.headers["webhook-id"] == first.headers["webhook-id"]
    assert (again.body, again.headers["relay-replay"]) == (first.body, "true")
    assert "relay-replay" not in first.headers


@pytest.mark.claims("thin")
def test_a_thin_payload_carries_no_values(bench: Bench) -> None:
    path, _ = bench.endpoint(payload="thin")
    order = bench.sender.begin()
    bench.sender.cause(order, "confidential")

    requests = bench.requests(path, 2)

    assert "confidential" not in str([request.body for request in requests])
    assert not {"order", "item", "message", "items", "messages"} & requests[-1].event["data"].keys()


@pytest.mark.claims("headers")
def test_own_headers_come_along_and_none_that_would_change_the_message(bench: Bench) -> None:
    path, _ = bench.endpoint(headers={"X-Shop": "north"})
    bench.sender.begin()
    (request,) = bench.requests(path)

    refused = bench.sender.ask(
        "POST", "/v1/subscriptions", {"url": "https://shop.example.com/h", "headers": {"Webhook-Id": "x"}}
    )

    assert request.headers["x-shop"] == "north"
    assert (refused.status_code, refused.json()["code"]) == (422, "header_not_allowed")


@pytest.mark.claims("guard")
@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/h",
        "https://169.254.169.254/h",
        "https://[::1]/h",
        "https://localhost.localdomain:22/h",
        "ftp://a/b",
    ],
)
def test_inside_addresses_are_refused(bench: Bench, url: str) -> None:
    answer = bench.sender.ask("POST", "/v1/subscriptions", {"url": url})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/url"


@pytest.mark.claims("test")
def test_a_test_send_answers_with_its_attempt(bench: Bench) -> None:
    path, made = bench.endpoint()

    told = bench.sender.ask("POST", f"/v1/subscriptions/{made['id']}/test", {}).json()

    (request,) = bench.requests(path)
    assert request.event["type"] == "webhook.test"
    assert told["attempt"]["status_code"] == 200
    assert Webhook(made["secret"]).verify(request.body, request.headers)
