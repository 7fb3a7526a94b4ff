"""Standard Webhooks, held against the published vector and against code that others wrote."""

import base64
import json
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import standardwebhooks
import svix

from relay.errors import InvalidInput
from relay.model.signing import Secret, SigningKey, VerificationFailed, sign, signed_headers, verify
from tests.support.node import install

ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = 1614265330
BODY = b'{"test": 2432232314}'
SECRET = Secret.parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
UNICODE = '{"id":"evt_x","text":"żółć 🍌 \\u0000","n":1201895966044343904123}'.encode()


def headers(signature: str = SIGNATURE, **changed: str) -> dict[str, str]:
    return {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": signature, **changed}


def test_the_published_vector() -> None:
    assert SECRET.key.hex() == "31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0"
    assert sign(ID, AT, BODY, SECRET) == SIGNATURE
    assert verify(headers(), BODY, [SECRET], now_s=AT) == ID


@pytest.mark.parametrize(
    "signature",
    [
        f"v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= {SIGNATURE}",
        f"{SIGNATURE} v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=",
        f"v2,abc {SIGNATURE}",
        f"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw {SIGNATURE}",
    ],
)
def test_any_matching_entry_will_do(signature: str) -> None:
    assert verify(headers(signature), BODY, [SECRET], now_s=AT) == ID


@pytest.mark.parametrize(
    ("given", "body", "now"),
    [
        (headers("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="), BODY, AT),
        (headers(SIGNATURE.replace("v1,", "v2,")), BODY, AT),
        (headers(SIGNATURE.removeprefix("v1,")), BODY, AT),
        (headers("v1,żółć"), BODY, AT),
        (headers(), BODY + b" ", AT),
        (headers(**{"webhook-id": "msg_other"}), BODY, AT),
        (headers(**{"webhook-timestamp": str(AT + 1)}), BODY, AT),
        (headers(**{"webhook-timestamp": "soon"}), BODY, AT),
        (headers(**{"webhook-timestamp": "١٢٣"}), BODY, AT),
        (headers(), BODY, AT + 301),
        (headers(), BODY, AT - 301),
        ({"webhook-id": ID, "webhook-timestamp": str(AT)}, BODY, AT),
        ({"webhook-id": ID, "webhook-signature": SIGNATURE}, BODY, AT),
        ({"webhook-timestamp": str(AT), "webhook-signature": SIGNATURE}, BODY, AT),
    ],
)
def test_what_must_not_verify(given: dict[str, str], body: bytes, now: int) -> None:
    with pytest.raises(VerificationFailed):
        verify(given, body, [SECRET], now_s=now)


def test_the_tolerance_is_five_minutes_both_ways() -> None:
    for now in (AT - 300, AT + 300):
        assert verify(headers(), BODY, [SECRET], now_s=now) == ID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        "whsec_!!!!",
        "whsec_" + "QUJD" * 7,
        "whsec_c2hvcnQ=",
        "whsec_" + "YWJj" * 30,
        "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ],
)
def test_bad_secrets_are_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Secret.parse(text)

    assert error.value.code == "invalid_secret"
    assert len(text) < 10 or text not in str(error.value)


def test_a_secret_may_lack_its_padding_and_hides_in_repr() -> None:
    padded = Secret(os.urandom(32))

    assert Secret.parse(padded.text.rstrip("=")) == padded
    assert padded.text not in repr(padded)


@pytest.mark.parametrize("body", [BODY, UNICODE, b"{}"], ids=["plain", "unicode", "empty"])
def test_other_peoples_libraries_verify_ours(body: bytes) -> None:
    new, old = Secret(os.urandom(32)), Secret(os.urandom(24))
    sent = signed_headers("evt_abc", int(time.time()), body, [new, old])

    for secret in (new, old):
        assert standardwebhooks.Webhook(secret.text).verify(body, sent) == json.loads(body)
        svix.Webhook(secret.text).verify(body, sent)  # raises when it does not verify
    stranger = Secret(os.urandom(32)).text
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(stranger).verify(body, sent)
    with pytest.raises(svix.WebhookVerificationError):
        svix.Webhook(stranger).verify(body, sent)


def test_we_verify_what_other_people_sign() -> None:
    secret = Secret(os.urandom(32))
    now = datetime.now(UTC)

    signature = standardwebhooks.Webhook(secret.text).sign("evt_x", now, UNICODE.decode())

    given = {
        "webhook-id": "evt_x",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
    assert verify(given, UNICODE, [secret], now_s=int(now.timestamp())) == "evt_x"


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node is not on this machine; the Python libraries verified")
@pytest.mark.timeout(180)
def test_the_javascript_library_verifies_ours() -> None:
    folder = install(Path(__file__).parent.parent / "node" / "svix")
    secret = Secret(os.urandom(32))
    sent = signed_headers("evt_abc", int(time.time()), UNICODE, [Secret(os.urandom(32)), secret])
    script = (
        "const { Webhook } = require('svix'); const [secret, headers, body] = process.argv.slice(1);"
        "const v = new Webhook(secret).verify(Buffer.from(body, 'base64').toString('utf8'), JSON.parse(headers));"
        "console.log(v.id)"
    )
    done = subprocess.run(
        ["node", "-e", script, secret.text, json.dumps(sent), base64.b64encode(UNICODE).decode()],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout.strip() == "evt_x"


ASYMMETRIC = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="


def test_the_published_asymmetric_vector() -> None:
    key = SigningKey.parse(ASYMMETRIC)

    assert key.seed.hex() == "e976ff742707a4f79adb53d2d4df5563f3595bbdb708473becde2b242b9b31b7"
    assert key.public_text == "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    assert key.sign(ID, AT, BODY) == (
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
    )
    assert key.seed.hex() not in repr(key)


@pytest.mark.parametrize(
    "text",
    ["", "whsk_", ASYMMETRIC[:-4], ASYMMETRIC.replace("whsk_", "whsec_"), "whsk_" + "A" * 86 + "==", "whsk_!"],
)
def test_bad_asymmetric_keys_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        SigningKey.parse(text)


def test_an_asymmetric_signature_beside_ours_disturbs_no_library() -> None:
    secret, key, now = Secret(os.urandom(32)), SigningKey.parse(ASYMMETRIC), int(time.time())
    sent = signed_headers("evt_abc", now, BODY, [secret])
    sent["webhook-signature"] = f"{key.sign('evt_abc', now, BODY)} {sent['webhook-signature']}"

    standardwebhooks.Webhook(secret.text).verify(BODY, sent)
    svix.Webhook(secret.text).verify(BODY, sent)
    assert verify(sent, BODY, [secret], now_s=now) == "evt_abc"
