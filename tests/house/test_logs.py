"""Log lines: JSON, static event names, ids as fields, secrets never."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from relay import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    with structlog.contextvars.bound_contextvars(pump="poll/0"):
        structlog.get_logger("x").info("order.changed", order_id="o-1\nfaked", events=["a"])
        structlog.get_logger("x").debug("not.written")

    (line,) = lines(capsys)
    assert {
        "event": "order.changed",
        "order_id": "o-1\nfaked",
        "pump": "poll/0",
        "level": "info",
    }.items() <= line.items()
    assert "timestamp" in line


def test_fields_named_like_secrets_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    structlog.get_logger("x").warning(
        "w", access_token="t0p", client_secret="s3c", authorization="Bearer x", detail="ok"
    )

    (line,) = lines(capsys)
    assert (line["access_token"], line["client_secret"], line["authorization"]) == ("[hidden]",) * 3
    assert line["detail"] == "ok"


def test_other_peoples_loggers_come_out_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    logging.getLogger("arq.worker").info("a job with its arguments")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").error("something is off")
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("x").exception("poll.failed")

    warned, failed = lines(capsys)
    assert warned["event"] == "something is off"
    assert "ValueError: broken" in str(failed["exception"])


def test_the_console_form_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console", "debug")
    structlog.get_logger("x").debug("order.changed", order_id="o-1")

    assert "order_id=o-1" in capsys.readouterr().err
