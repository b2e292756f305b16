from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events.integration.brokering.urls import masked

# Nothing of a secret may be shown, whatever it is made of. Its letters stand nowhere else here.
secrets = st.text(alphabet="ABC@/:?#&=%[]\\ ä", min_size=1, max_size=12).map(
    lambda text: f"Z{text}Z"
)
schemes = st.sampled_from(["", "amqp://", "amqps://", "redis://", "nats://", "tls://", "unix://"])
hosts = st.sampled_from(["host", "host:5672", "[::1]:6379", "host/vhost", "/var/run/redis.sock"])


@given(scheme=schemes, secret=secrets, host=hosts)
@example(scheme="redis://", secret="Z@/Z", host="host")
def test_a_password_is_hidden(scheme: str, secret: str, host: str) -> None:
    shown = masked(f"{scheme}guest:{secret}@{host}")

    assert shown in (f"{scheme}guest:***@{host}", f"{scheme}***")


@given(scheme=schemes, secret=secrets, host=hosts)
def test_a_token_is_hidden(scheme: str, secret: str, host: str) -> None:
    token = secret.replace(":", "")  # or it would be a user with a password

    assert not set("ABCZ") & set(masked(f"{scheme}{token}@{host}"))


@given(
    scheme=schemes,
    host=hosts,
    name=st.sampled_from(["password", "ssl_options", "db"]),
    secret=secrets,
)
def test_no_value_of_the_query_is_shown(scheme: str, host: str, name: str, secret: str) -> None:
    assert "Z" not in masked(f"{scheme}{host}?{name}={secret}")


@given(url=st.text())
def test_any_text_may_be_given(url: str) -> None:
    masked(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://guest:guest@localhost:5672/shop", "amqp://guest:***@localhost:5672/shop"),
        ("amqp://localhost", "amqp://localhost"),
        ("amqp://h/?heartbeat=10&password=x", "amqp://h/?heartbeat=***&password=***"),
        ("redis://:secret@localhost/0", "redis://:***@localhost/0"),
        ("nats://token@localhost", "nats://***@localhost"),
        ("localhost:4222", "localhost:4222"),
        ("user:secret@localhost:4222", "user:***@localhost:4222"),
        ("redis://localhost#secret", "redis://localhost"),
        ("redis://localhost?secret", "redis://localhost?***"),
        ("not a url", "not a url"),
        ("http://[broken", "http://[broken"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert masked(url) == shown
