"""The upstream over HTTP: the hot reads through the engine, the rare writes through httpx."""

import zlib

import httpx
import xxhash

from relay.engine import Answer, Engine, EngineTransport, Failure
from relay.errors import InvalidInput, UpstreamRefused
from relay.model import json_values
from relay.model.orders import JsonObject, OrderId, Resource
from relay.model.retries import retry_after_s
from relay.upstream.interface import Access, Dialect, Fetched, Refusal, UnusableAnswer

#: Bytes of an answer that are accepted; more is malformed. An order of 500 items with replacements has 150 kB.
ANSWER_LIMIT = 8 * 1024 * 1024
#: Prepared headers that are kept, one set a token.
_CACHED_HEADERS = 20_000

_REFUSALS = {
    401: Refusal.UNAUTHORIZED,
    403: Refusal.FORBIDDEN,
    404: Refusal.NOT_FOUND,
    429: Refusal.THROTTLED,
}


class HttpUpstream:
    """`Upstream` over HTTP. Nothing is repeated here: a poll falls due again, a write is the retailer's."""

    def __init__(self, base_url: str, engine: Engine, dialect: Dialect, *, limit: int = ANSWER_LIMIT) -> None:
        self._base = base_url.rstrip("/")
        self._engine = engine
        self._dialect = dialect
        self._limit = limit
        self._http = httpx.AsyncClient(transport=EngineTransport(engine), base_url=self._base, trust_env=False)
        self._headers: dict[str, dict[str, str]] = {}

    async def fetch(
        self, access: Access, order_id: OrderId, resource: Resource, *, validator: str = "", known: str = ""
    ) -> Fetched:
        url = self._base + self._dialect.path(order_id, resource)
        headers = self._prepared(access)
        if validator:
            headers = {**headers, **_condition(validator)}
        answer = await self._engine.send("GET", url, headers, None, limit=self._limit)
        if answer.status == 200:
            return self._accepted(resource, answer, known)
        if answer.status == 304 and validator:
            return Fetched(resource, 304, b"", duration_ms=answer.duration_ms, validator=validator, unmodified=True)
        if answer.status is None:
            refusal = Refusal.TIMEOUT if answer.failure is Failure.TIMEOUT else Refusal.NETWORK
            failure = answer.failure.value if answer.failure is not None else "failed"
            return Fetched(resource, None, b"", refusal, f"{failure}: {answer.detail}", duration_ms=answer.duration_ms)
        fallback = Refusal.SERVER_ERROR if answer.status >= 500 else Refusal.REJECTED
        return Fetched(
            resource,
            answer.status,
            b"",
            _REFUSALS.get(answer.status, fallback),
            f"upstream answered {answer.status}",
            retry_after_s(answer.headers.get("retry-after"), 0) if "retry-after" in answer.headers else None,
            answer.duration_ms,
        )

    def _accepted(self, resource: Resource, answer: Answer, known: str) -> Fetched:
        body, problem = answer.body, ""
        fingerprint = xxhash.xxh3_128_hexdigest(body)
        if fingerprint == known and not answer.truncated:  # what was good then is good now
            return Fetched(
                resource, 200, b"", duration_ms=answer.duration_ms, validator=_validator(answer), unmodified=True
            )
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            problem = f"content type {kind[:60] or 'missing'}"
        elif answer.truncated:
            problem = f"more than {self._limit} bytes"
        elif (encoding := answer.headers.get("content-encoding", "identity")) != "identity":
            body, problem = decompress(body, encoding, self._limit)
            fingerprint = xxhash.xxh3_128_hexdigest(body)
        if not problem and not body:
            problem = "empty"
        if problem:
            return Fetched(resource, 200, b"", Refusal.MALFORMED, problem, duration_ms=answer.duration_ms)
        same, validator = fingerprint == known, _validator(answer)
        return Fetched(
            *(resource, 200, b"" if same else body),
            duration_ms=answer.duration_ms,
            validator=validator,
            unmodified=same,
            fingerprint="" if same else fingerprint,
        )

    def parse(self, resource: Resource, raw: bytes, *, order_id: OrderId) -> JsonObject:
        return self._dialect.parse(resource, raw, order_id=order_id)

    def check_decision(self, status: str, alternative: JsonObject | None) -> None:
        self._dialect.replacement_body(status, alternative)

    async def decide_replacement(
        self, access: Access, order_id: OrderId, item_id: str, status: str, alternative: JsonObject | None = None
    ) -> JsonObject:
        body = self._dialect.replacement_body(status, alternative)
        path = self._dialect.replacement_path(order_id, item_id)
        return await self._write(access, "PUT", path, body, Resource.ITEMS)

    async def send_message(self, access: Access, order_id: OrderId, body: str) -> JsonObject:
        path = self._dialect.path(order_id, Resource.MESSAGES)
        return await self._write(access, "POST", path, self._dialect.message_body(body), Resource.MESSAGES)

    async def _write(self, access: Access, method: str, path: str, body: JsonObject, writing: Resource) -> JsonObject:
        headers = {**self._prepared(access), "content-type": "application/json", "accept-encoding": "identity"}
        try:
            response = await self._http.request(method, path, content=json_values.encode(body), headers=headers)
        except httpx.ConnectError as error:
            raise UpstreamRefused(
                f"upstream cannot be reached: {error}", status=None, code="upstream_unreachable"
            ) from None
        except httpx.TransportError as error:
            detail = f"no answer from upstream ({type(error).__name__}); whether it was done will show in the order"
            raise UpstreamRefused(detail, status=None, code="outcome_unknown") from None
        if response.status_code not in (200, 201, 204):
            text, code = self._dialect.refusal(response.status_code, response.content, writing)
            wait = retry_after_s(response.headers.get("retry-after"), 0) if "retry-after" in response.headers else None
            raise UpstreamRefused(text, status=response.status_code, code=code, retry_after_s=wait)
        try:
            value = json_values.decode(response.content) if response.content else {}
        except InvalidInput:
            raise UnusableAnswer(Refusal.MALFORMED, "the answer to a write is not JSON") from None
        return self._dialect.written(value) if isinstance(value, dict) else {}

    def _prepared(self, access: Access) -> dict[str, str]:
        headers = self._headers.get(access.token)
        if headers is None:
            if len(self._headers) >= _CACHED_HEADERS:
                self._headers.clear()
            headers = {
                "authorization": f"Bearer {access.token}",
                "accept": "application/json",
                "accept-encoding": "gzip",
                **self._dialect.headers,
            }
            self._headers[access.token] = headers
        return headers

    async def aclose(self) -> None:
        await self._http.aclose()


def _validator(answer: Answer) -> str:
    """What a later request may be conditional on. Only short ones: each is kept with its arm."""
    tag = answer.headers.get("etag", "")
    found = tag or ("@" + date if (date := answer.headers.get("last-modified", "")) else "")
    return found if len(found) <= 200 and found.isascii() and found.isprintable() else ""


def _condition(validator: str) -> dict[str, str]:
    if validator.startswith("@"):
        return {"if-modified-since": validator[1:]}
    return {"if-none-match": validator}


def decompress(body: bytes, encoding: str, limit: int) -> tuple[bytes, str]:
    """A gzip body (RFC 1952) of at most `limit` bytes once decoded, or an empty one and what is wrong with it."""
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        return b"", f"content encoding {encoding[:60]}"
    decoder = zlib.decompressobj(wbits=31)
    try:
        decoded = decoder.decompress(body, limit + 1)
    except zlib.error:
        return b"", "damaged gzip"
    if len(decoded) > limit:
        return b"", f"more than {limit} bytes"
    return (decoded, "") if decoder.eof else (b"", "cut gzip")
