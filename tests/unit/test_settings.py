from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import TWILIO_SIGNALLING_ADDRESSES, Settings, SettingsError, load_database_url, load_settings

Load = Callable[..., Settings]

GOOD = {
    "DATABASE_URL": "postgresql://app:secret-a@127.0.0.1:5432/trunkline",
    "REDIS_URL": "redis://:secret-b@127.0.0.1:6379/0",
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "secret-c",
    "LIVEKIT_URL": "wss://abc.livekit.cloud",
    "LIVEKIT_API_KEY": "key",
    "LIVEKIT_API_SECRET": "secret-d",
    "LIVEKIT_SIP_URI": "sip:abc.sip.livekit.cloud",
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Load the settings from good values and what a test changes; None leaves a variable out."""
    monkeypatch.chdir(tmp_path)

    def load(**changes: str | None) -> Settings:
        for name, value in {**GOOD, **changes}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        return load_settings()

    return load


def _problems(load: Load, **changes: str | None) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load(**changes)
    return refused.value.problems


def test_good_settings_are_read(load: Load) -> None:
    settings = load()

    assert settings.database_url == "postgresql+psycopg://app:secret-a@127.0.0.1:5432/trunkline"
    assert settings.livekit_sip_uri == "sip:abc.sip.livekit.cloud;transport=tcp"
    assert (settings.twilio_username, settings.twilio_password) == (GOOD["TWILIO_ACCOUNT_SID"], "secret-c")
    assert (settings.port, settings.instance_name, settings.log_format) == (8080, "trunkline", "json")


def test_every_missing_setting_is_named_at_once(load: Load) -> None:
    problems = _problems(load, **dict.fromkeys(GOOD))

    assert {problem.split(":")[0] for problem in problems} == set(GOOD)
    assert all("missing" in problem for problem in problems)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://x"),
        ("DATABASE_URL", ""),
        ("REDIS_URL", "http://x"),
        ("REDIS_URL", "redis://"),
        ("TWILIO_ACCOUNT_SID", "AC123"),
        ("TWILIO_API_KEY_SID", "AC" + "0" * 32),
        ("TWILIO_BASE_URL", "http://example.com"),
        ("TWILIO_BASE_URL", "ftp://127.0.0.1"),
        ("TWILIO_BASE_URL", "http://127.0.0.1/path"),
        ("LIVEKIT_URL", "abc.livekit.cloud"),
        ("LIVEKIT_API_KEY", ""),
        ("LIVEKIT_SIP_URI", "sips:abc.sip.livekit.cloud"),
        ("LIVEKIT_SIP_URI", "sip:user@abc.sip.livekit.cloud"),
        ("LIVEKIT_SIP_URI", "sip:abc.livekit.cloud"),
        ("LIVEKIT_SIP_URI", "sip:p_abc.sip.livekit.cloud"),
        ("LIVEKIT_SIP_URI", "sip:abc.pstn.sip.twilio.com"),
        ("LIVEKIT_SIP_URI", "sip:abc.sip.livekit.cloud;transport=ws"),
        ("LIVEKIT_SIP_URI", "sip:abc.sip.livekit.cloud:99999"),
        ("LIVEKIT_ALLOWED_ADDRESSES", "everyone"),
        ("WEBHOOK_ALLOWED_NETWORKS", "my network"),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "my proxy"),
        ("INSTANCE_NAME", "Über"),
        ("INSTANCE_NAME", "x" * 17),
        ("PORT", "0"),
        ("PORT", "http"),
        ("LOG_FORMAT", "xml"),
        ("FLOWER_BASIC_AUTH", "nocolon"),
        ("OPERATION_BUDGET_S", "-1"),
        ("PROVIDER_TIMEOUT_S", "600"),
    ],
)
def test_a_malformed_setting_is_named_and_its_value_is_not_shown(load: Load, name: str, value: str) -> None:
    problems = _problems(load, **{name: value})

    assert [problem.split(":")[0] for problem in problems] == [name]
    assert "secret" not in str(problems)


def test_an_api_key_needs_its_secret(load: Load) -> None:
    sid = "SK" + "1" * 32

    assert "TWILIO_API_KEY_SECRET" in str(_problems(load, TWILIO_API_KEY_SID=sid))
    settings = load(TWILIO_API_KEY_SID=sid, TWILIO_API_KEY_SECRET="s", TWILIO_AUTH_TOKEN=None)
    assert (settings.twilio_username, settings.twilio_password) == (sid, "s")


@pytest.mark.parametrize(
    ("given", "url", "expected"),
    [
        (None, "wss://abc.livekit.cloud", ()),
        (None, "http://127.0.0.1:7880", TWILIO_SIGNALLING_ADDRESSES),
        ("twilio", "wss://abc.livekit.cloud", TWILIO_SIGNALLING_ADDRESSES),
        ("", "http://127.0.0.1:7880", ()),
        ("10.0.0.0/8, 192.168.0.1", "wss://abc.livekit.cloud", ("10.0.0.0/8", "192.168.0.1")),
    ],
)
def test_who_may_call_depends_on_the_setting_and_on_livekit_cloud(
    load: Load, given: str | None, url: str, expected: tuple[str, ...]
) -> None:
    assert load(LIVEKIT_ALLOWED_ADDRESSES=given, LIVEKIT_URL=url).allowed_addresses == expected


def test_files_stand_behind_the_environment(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("INSTANCE_NAME=from-dotenv\nPORT=1111\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stack.env").write_text("INSTANCE_NAME=from-stack\nPORT=2222\nLOG_FORMAT=console\n")

    settings = load(DATA_DIR="data", PORT="3333")

    assert (settings.port, settings.instance_name, settings.log_format) == (3333, "from-dotenv", "console")


def test_secrets_do_not_show_in_a_repr(load: Load) -> None:
    settings = load()

    assert "secret-c" not in repr(settings)
    assert "secret-d" not in repr(settings)


def test_provider_rates_are_found_by_default_and_may_be_set(load: Load) -> None:
    assert (load().twilio_rate, load().livekit_rate, load().twilio_in_flight) == ("auto", "auto", None)
    settings = load(TWILIO_RATE="16.5", LIVEKIT_RATE="off", TWILIO_IN_FLIGHT="5")
    assert (settings.twilio_rate, settings.livekit_rate, settings.twilio_in_flight) == ("16.5", "off", 5)


@pytest.mark.parametrize("wrong", ["0", "-1", "fast", "1.2.3", "nan", "20/s", "."])
def test_a_provider_rate_that_makes_no_sense_is_named(load: Load, wrong: str) -> None:
    assert _problems(load, LIVEKIT_RATE=wrong) == ['LIVEKIT_RATE: must be requests per second, "auto" or "off"']


def test_migrations_need_the_address_of_the_database_and_nothing_else(load: Load) -> None:
    with pytest.raises(SettingsError):
        load(**{**dict.fromkeys(GOOD), "DATABASE_URL": GOOD["DATABASE_URL"], "OPERATION_BUDGET_S": "soon"})
    assert load_database_url().endswith("/trunkline")
    with pytest.raises(SettingsError):
        load(DATABASE_URL="")
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: missing$"):
        load_database_url()
