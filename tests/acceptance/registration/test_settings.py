"""What comes from the environment, and what is said of what cannot be used."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from examples import user_registration
from examples.user_registration.chassis.settings import SettingsError, load
from examples.user_registration.email_service.settings import EmailServiceSettings
from examples.user_registration.user_service.settings import UserServiceSettings

EXAMPLE = Path(user_registration.__file__).parent / ".env.example"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have neither `.env` nor variables of ours about."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("USER_SERVICE_", "EMAIL_SERVICE_", "RABBITMQ_")):
            monkeypatch.delenv(name)


def test_they_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER_SERVICE_HTTP_PORT", "9000")
    monkeypatch.setenv("USER_SERVICE_DATABASE_URL", "postgres://shop:secret@db/users")
    monkeypatch.setenv("RABBITMQ_URL", "amqp://broker/")
    monkeypatch.setenv("RABBITMQ_CONNECT_TIMEOUT", "7")

    settings = load(UserServiceSettings)

    assert settings.http_port == 9000
    assert settings.database_url == "postgresql+asyncpg://shop:secret@db/users"
    for each in (settings, load(EmailServiceSettings)):
        assert each.rabbitmq_url == "amqp://broker/"
        assert each.rabbitmq_connect_timeout == 7


def test_without_any_all_is_on_this_machine() -> None:
    assert load(UserServiceSettings).database_url == "sqlite+aiosqlite:///user_service.sqlite3"
    assert load(EmailServiceSettings).smtp_host == "localhost"


def test_the_example_file_has_every_setting_with_its_default(tmp_path: Path) -> None:
    by_default = load(UserServiceSettings), load(EmailServiceSettings)
    written = EXAMPLE.read_text()
    (tmp_path / ".env").write_text(re.sub(r"^# ?(?=[A-Z_]+=)", "", written, flags=re.MULTILINE))

    assert (load(UserServiceSettings), load(EmailServiceSettings)) == by_default
    for settings in by_default:
        for name, field in type(settings).model_fields.items():
            prefix = settings.model_config.get("env_prefix", "")
            variable = field.validation_alias or f"{prefix}{name}".upper()
            assert f"{variable}=" in written


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("USER_SERVICE_HTTP_PORT", "http", "USER_SERVICE_HTTP_PORT: Input should be a valid int"),
        ("USER_SERVICE_HTTP_PORT", "70000", "USER_SERVICE_HTTP_PORT: Input should be less than"),
        (
            "USER_SERVICE_DATABASE_URL",
            "mysql://root@db/users",
            "USER_SERVICE_DATABASE_URL: give a database as in sqlite:///users.sqlite3 or postgres",
        ),
        ("USER_SERVICE_DATABASE_URL", "users.db", "USER_SERVICE_DATABASE_URL: give a database as"),
        (
            "USER_SERVICE_DATABSE_URL",
            "sqlite:///x",
            "USER_SERVICE_DATABSE_URL: there is no such setting; did you mean USER_SERVICE_DATABASE",
        ),
        ("USER_SERVICE_RABBITMQ_URL", "amqp://", "USER_SERVICE_RABBITMQ_URL: there is no such"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as raised:
        load(UserServiceSettings)

    assert message in str(raised.value)


def test_a_misspelt_name_in_the_file_is_named_as_well(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EMAIL_SERVICE_SMTP_HSOT=mail\nOTHERS=1\n")

    with pytest.raises(SettingsError, match="SMTP_HSOT: .* did you mean EMAIL_SERVICE_SMTP_HOST"):
        load(EmailServiceSettings)


def test_a_lease_must_outlast_a_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_SERVICE_RELAY_LEASE", "5")

    with pytest.raises(SettingsError, match="^EMAIL_SERVICE_RELAY_LEASE must be longer"):
        load(EmailServiceSettings)


def test_a_password_in_them_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_SERVICE_SMTP_PASSWORD", "hunter22")
    monkeypatch.setenv("EMAIL_SERVICE_SENDER", "nobody")

    with pytest.raises(SettingsError) as raised:
        load(EmailServiceSettings)

    assert "EMAIL_SERVICE_SENDER: give a mail address" in str(raised.value)
    assert "hunter22" not in str(raised.value)
