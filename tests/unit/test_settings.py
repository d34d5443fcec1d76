import os
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import pytest

from app.domain.sip_uris import TWILIO_SIGNALLING, SipUri
from app.settings import (
    Settings,
    SettingsError,
    load_database_settings,
    load_settings,
    unset_parent_env_files,
)
from app.wiring import profile_of

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


def _types(annotation: object) -> tuple[object, ...]:
    """Return the types that a setting may have, those of `X | None` and of annotated ones taken apart."""
    parts = get_args(annotation)
    return tuple(each for part in parts for each in _types(part)) if parts else (annotation,)


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
    assert settings.livekit_sip_uri == SipUri("abc.sip.livekit.cloud", transport="tcp")
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
        ("DATABASE_URL", " "),
        ("DATABASE_URL", "postgresql://app:secret-a@127.0.0.1:secret/trunkline"),
        ("REDIS_URL", "http://x"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://:secret/b@127.0.0.1:6379/0"),
        ("REDIS_URL", "redis://:secret@[::1/0"),
        ("REDIS_URL", "redis://127.0.0.1:6379/first"),
        ("REDIS_URL", "redis://127.0.0.1:6379/0/1"),
        ("REDIS_URL", "redis://127.0.0.1:6379/0;redis://127.0.0.2:6379/0"),
        ("REDIS_URL", "redis://127.0.0.1,127.0.0.2/0"),
        ("REDIS_URL", "redis://127.0.0.1:6379/0?ssl_cert_reqs=required"),
        ("REDIS_URL", "rediss://127.0.0.1:6379/0?ssl_cert_reqs=secret"),
        ("REDIS_URL", "rediss://127.0.0.1:6379/0?ssl_ca_certs=/nowhere/secret.pem"),
        ("REDIS_URL", "rediss://127.0.0.1:6379/0?ssl_check_hostname=perhaps"),
        ("REDIS_URL", "rediss://127.0.0.1:6379/0?socket_timeout=secret"),
        ("TWILIO_ACCOUNT_SID", "AC123"),
        ("TWILIO_API_KEY_SID", "AC" + "0" * 32),
        ("TWILIO_BASE_URL", "http://example.com"),
        ("TWILIO_BASE_URL", "ftp://127.0.0.1"),
        ("TWILIO_BASE_URL", "http://127.0.0.1/path"),
        ("TWILIO_BASE_URL", "https://secret@api.twilio.com"),
        ("TWILIO_BASE_URL", "http://127.0.0.1:secret"),
        ("LIVEKIT_URL", "abc.livekit.cloud"),
        ("LIVEKIT_URL", "http://livekit.example.com"),
        ("LIVEKIT_URL", "ws://livekit.example.com:7880"),
        ("LIVEKIT_URL", "ws://10.0.0.7:7880"),
        ("LIVEKIT_URL", "http://127.0.0.1.example.com"),
        ("LIVEKIT_URL", "http://localhost@livekit.example.com"),
        ("LIVEKIT_URL", "wss://secret:secret@livekit.example.com"),
        ("LIVEKIT_URL", "wss://livekit.example.com?access_token=secret"),
        ("LIVEKIT_URL", "javascript:alert(1)"),
        ("LIVEKIT_API_KEY", ""),
        ("LIVEKIT_SIP_URI", "sip:secret@abc.sip.livekit.cloud"),
        ("LIVEKIT_SIP_URI", "sip:abc.sip.livekit.cloud:secret"),
        ("LIVEKIT_ALLOWED_ADDRESSES", "everyone"),
        ("LIVEKIT_ALLOWED_ADDRESSES", "twilio;10.0.0.0/8"),
        ("LIVEKIT_ALLOWED_ADDRESSES", "twilio,10.0.0.1/8"),
        ("LIVEKIT_ALLOWED_ADDRESSES", ","),
        ("WEBHOOK_ALLOWED_NETWORKS", "my network"),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "my proxy"),
        ("TRUNK_SECURE", "perhaps"),
        ("TRUNK_TRANSFER_MODE", "enable"),
        ("LIVEKIT_ROOM_PRESETS", ","),
        ("TRUSTED_PROXIES", "10.0.0.5,0.0.0.0/0"),
        ("WEBHOOK_ALLOWED_NETWORKS", "0.0.0.0/0"),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/8,::/0"),
        ("WEBHOOK_ALLOWED_NETWORKS", "0.0.0.0/1"),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/7"),
        ("WEBHOOK_ALLOWED_NETWORKS", "8.8.8.8"),
        ("WEBHOOK_ALLOWED_NETWORKS", "2000::/3"),
        ("WEBHOOK_ALLOWED_NETWORKS", "169.254.0.0/16"),
        ("WEBHOOK_ALLOWED_NETWORKS", "169.254.169.254"),
        ("WEBHOOK_ALLOWED_NETWORKS", "fe80::/10"),
        ("WEBHOOK_ALLOWED_NETWORKS", "::ffff:10.0.0.0/104"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "null"),
        ("CORS_ORIGINS", "https://*.example.com"),
        ("CORS_ORIGINS", "app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com/"),
        ("CORS_ORIGINS", "https://app.example.com?secret"),
        ("CORS_ORIGINS", "https://secret@app.example.com"),
        ("CORS_ORIGINS", "http://app.example.com"),
        ("CORS_ORIGINS", ","),
        ("INSTANCE_NAME", "Über"),
        ("INSTANCE_NAME", "x" * 17),
        ("PORT", "0"),
        ("PORT", "http"),
        ("PORT", "8_080"),
        ("PORT", "\uff18080"),
        ("PORT", "8080.0"),
        ("DATABASE_POOLER", "perhaps"),
        ("METRICS_PUBLIC", "2"),
        ("LOG_FORMAT", "xml"),
        ("FLOWER_BASIC_AUTH", "nocolon"),
        ("FLOWER_ADDRESS", "127.0.0.1:5555"),
        ("FLOWER_ADDRESS", "http://127.0.0.1"),
        ("FLOWER_URL", "javascript:alert(1)"),
        ("FLOWER_URL", "JavaScript://host/%0aalert(1)"),
        ("FLOWER_URL", "data:text/html,x"),
        ("FLOWER_URL", "//evil.example.com"),
        ("FLOWER_URL", "flower.example.com"),
        ("FLOWER_URL", "https://ops:secret@flower.example.com"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "file:///etc/passwd"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("RATE_LIMIT", "0/minute"),
        ("RATE_LIMIT", "-1/minute"),
        ("RATE_LIMIT", "1e999/minute"),
        ("RATE_LIMIT", "6000"),
        ("RATE_LIMIT", "6000/minute;1/day"),
        ("TWILIO_IN_FLIGHT", "0"),
        ("TWILIO_IN_FLIGHT", "1e9"),
        ("LIVEKIT_IN_FLIGHT", "99999999"),
        ("OPERATION_BUDGET_S", "-1"),
        ("OPERATION_BUDGET_S", "604801"),
        ("ORPHAN_GRACE_S", "2592001"),
        ("PROVIDER_TIMEOUT_S", "600"),
        ("PROVIDER_TIMEOUT_S", "0"),
        ("PROVIDER_TIMEOUT_S", "0.000000001"),
    ],
)
def test_a_malformed_setting_is_named_and_its_value_is_not_shown(load: Load, name: str, value: str) -> None:
    problems = _problems(load, **{name: value})

    assert [problem.split(":")[0] for problem in problems] == [name]
    assert "secret" not in str(problems)


NUMBERS = [name for name, field in Settings.model_fields.items() if {int, float} & set(_types(field.annotation))]
RATES = ["twilio_rate", "livekit_rate"]


@pytest.mark.parametrize(
    "text", ["inf", "-inf", "nan", "1e999", "1e3", "-1", "-0.5", "9" * 400, "0x10", "1_0", "\u0663"]
)
def test_every_number_is_finite_plain_and_in_its_range(load: Load, text: str) -> None:
    names = [name.upper() for name in NUMBERS + RATES]

    problems = _problems(load, **dict.fromkeys(names, text))

    assert sorted(problem.split(":")[0] for problem in problems) == sorted(names)


def refused_for(load: Load, text: str, names: Iterable[str]) -> set[str]:
    """Return why each of the settings is refused with that text, without its name."""
    problems = _problems(load, **{name.upper(): text for name in names})
    told = dict(problem.split(": ", 1) for problem in problems)
    assert set(told) == {name.upper() for name in names}
    return set(told.values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\nb", "holds a line break (its character 2): it must be one line"),
        ("a\r\nX-Injected: b", "holds a line break (its character 2): it must be one line"),
        ("ab\x1b[2J", "holds a character that cannot be seen (its character 3): type it again"),
        ("a\u200bb", "holds a character that cannot be seen (its character 2): type it again"),
        ("a\u00a0b", "holds a character that cannot be seen (its character 2): type it again"),
        ("\ufeffab", "holds a character that cannot be seen (its character 1): type it again"),
        ('"value"', "stands in quotes, which are taken as part of it: leave them out"),
        ("'value'", "stands in quotes, which are taken as part of it: leave them out"),
    ],
)
def test_what_a_copy_leaves_in_a_value_is_refused_with_the_reason(load: Load, text: str, told: str) -> None:
    assert refused_for(load, text, Settings.model_fields) == {told}


def test_what_no_header_can_carry_is_refused_everywhere_but_in_a_path(load: Load) -> None:
    names = set(Settings.model_fields) - {"data_dir"}

    reasons = refused_for(load, "value-\u00e4", names)

    assert reasons == {"holds a character outside ASCII (its character 7); in a URL, write it as %XX"}


def test_a_path_may_be_in_any_script(load: Load) -> None:
    assert load(DATA_DIR="donn\u00e9es").data_dir == Path("donn\u00e9es")


@pytest.mark.parametrize("blank", ["\n", "\r\n", " ", "\t", "\u00a0"])
def test_white_space_around_a_value_is_dropped(load: Load, blank: str) -> None:
    plain = load(TWILIO_AUTH_TOKEN="t", LIVEKIT_ALLOWED_ADDRESSES="twilio", PORT="1", LOG_FORMAT="console")
    given = {name: f"{blank}{value}{blank}" for name, value in {**GOOD, "TWILIO_AUTH_TOKEN": "t"}.items()}

    padded = load(
        **given,
        LIVEKIT_ALLOWED_ADDRESSES=f"twilio{blank}",
        PORT=f"1{blank}",
        LOG_FORMAT=f"console{blank}",
        INSTANCE_NAME=blank,
    )

    assert padded == plain
    assert padded.twilio_password == "t"


def test_a_blank_credential_is_a_missing_one(load: Load) -> None:
    problems = _problems(load, TWILIO_AUTH_TOKEN="\n", LIVEKIT_API_SECRET=" ", LIVEKIT_API_KEY="\t")

    assert {problem.split(":")[0] for problem in problems} == {
        "TWILIO_AUTH_TOKEN",
        "LIVEKIT_API_SECRET",
        "LIVEKIT_API_KEY",
    }
    assert all("missing" in problem for problem in problems)


@pytest.mark.parametrize(
    ("given", "for_redis_py", "for_celery"),
    [
        ("redis://h", "redis://h/0", {}),
        ("redis://:p%2Fw@h:1/?db=3", "redis://:p%2Fw@h:1/3", {}),
        ("rediss://h/1", "rediss://h/1", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        (
            "rediss://h/1?ssl_cert_reqs=CERT_REQUIRED",
            "rediss://h/1?ssl_cert_reqs=required",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED},
        ),
        ("rediss://h/1?ssl_cert_reqs=none", "rediss://h/1?ssl_cert_reqs=none", {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("rediss://h/1?ssl_cert_reqs=CERT_NONE", "rediss://h/1?ssl_cert_reqs=none", {"ssl_cert_reqs": ssl.CERT_NONE}),
        (
            "rediss://h/1?ssl_check_hostname=False",
            "rediss://h/1?ssl_check_hostname=False",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": False},
        ),
        (
            "rediss://h/1?ssl_ca_certs=ca.pem&ssl_cert_reqs=CERT_OPTIONAL",
            "rediss://h/1?ssl_ca_certs=ca.pem&ssl_cert_reqs=optional",
            {"ssl_cert_reqs": ssl.CERT_OPTIONAL, "ssl_ca_certs": "ca.pem"},
        ),
    ],
)
def test_what_a_redis_url_says_of_tls_is_told_to_each_client_in_its_own_way(
    load: Load, tmp_path: Path, given: str, for_redis_py: str, for_celery: dict[str, object]
) -> None:
    (tmp_path / "ca.pem").touch()

    settings = load(REDIS_URL=given)

    assert (settings.redis_url, settings.broker_tls) == (for_redis_py, for_celery)
    assert settings.broker_url == for_redis_py.partition("?")[0]


@pytest.mark.parametrize("url", ["ws://127.0.0.1:7880", "http://[::1]:7880/", "http://localhost:7880", "WSS://h/path/"])
def test_a_livekit_on_this_machine_or_behind_tls_is_taken(load: Load, url: str) -> None:
    assert load(LIVEKIT_URL=url).livekit_url == url.rstrip("/")


def test_origins_are_kept_as_browsers_write_them(load: Load) -> None:
    given = "https://App.Example.com:443, http://localhost:3000,http://[::1]:80,https://app.example.com:8443"

    assert load().page_origins == frozenset()
    assert load(CORS_ORIGINS=given).page_origins == {
        "https://app.example.com",
        "http://localhost:3000",
        "http://[::1]",
        "https://app.example.com:8443",
    }


def test_private_networks_for_webhooks_are_taken(load: Load) -> None:
    given = "127.0.0.0/8, ::1/128,10.0.0.0/8,172.16.0.0/12,192.168.7.0/24,100.64.0.0/10,fd00::/8,"

    assert len(load(WEBHOOK_ALLOWED_NETWORKS=given).webhook_networks) == 7


def test_an_api_key_needs_its_secret(load: Load) -> None:
    sid = "SK" + "1" * 32

    assert "TWILIO_API_KEY_SECRET" in str(_problems(load, TWILIO_API_KEY_SID=sid))
    settings = load(TWILIO_API_KEY_SID=sid, TWILIO_API_KEY_SECRET="s", TWILIO_AUTH_TOKEN=None)
    assert (settings.twilio_username, settings.twilio_password) == (sid, "s")


@pytest.mark.parametrize(
    ("given", "url", "expected"),
    [
        (None, "wss://abc.livekit.cloud", ()),
        (None, "http://127.0.0.1:7880", TWILIO_SIGNALLING),
        ("twilio", "wss://abc.livekit.cloud", TWILIO_SIGNALLING),
        ("twilio,10.0.0.0/8", "wss://abc.livekit.cloud", (*TWILIO_SIGNALLING, "10.0.0.0/8")),
        ("10.0.0.0/8, twilio,twilio", "wss://a.livekit.cloud", ("10.0.0.0/8", *TWILIO_SIGNALLING)),
        (" ", "http://127.0.0.1:7880", ()),
        ("", "http://127.0.0.1:7880", ()),
        ("10.0.0.0/8, 192.168.0.1", "wss://abc.livekit.cloud", ("10.0.0.0/8", "192.168.0.1")),
    ],
)
def test_who_may_call_depends_on_the_setting_and_on_livekit_cloud(
    load: Load, given: str | None, url: str, expected: tuple[str, ...]
) -> None:
    assert load(LIVEKIT_ALLOWED_ADDRESSES=given, LIVEKIT_URL=url).allowed_addresses == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sip:abc.sip.livekit.cloud", "sip:abc.sip.livekit.cloud;transport=tcp"),
        ("abc.sip.livekit.cloud", "sip:abc.sip.livekit.cloud;transport=tcp"),
        ("sip:abc.sip.livekit.cloud;transport=tcp  ", "sip:abc.sip.livekit.cloud;transport=tcp"),
        ("SIP:ABC.sip.livekit.cloud;transport=UDP", "sip:abc.sip.livekit.cloud;transport=udp"),
        ("sip:abc.eu.sip.livekit.cloud:5060", "sip:abc.eu.sip.livekit.cloud;transport=tcp"),
        ("sip:sip.example.com:5080;transport=tls", "sip:sip.example.com:5080;transport=tls"),
        ("sip:[2001:db8::1]:5070", "sip:[2001:db8::1]:5070;transport=tcp"),
        ("sip:abc.sip.livekit.cloud;transport=tcp;edge=dublin", "sip:abc.sip.livekit.cloud;transport=tcp;edge=dublin"),
        ("sip:abc.sip.livekit.cloud;edge=Dublin", "sip:abc.sip.livekit.cloud;transport=tcp;edge=dublin"),
    ],
)
def test_a_sip_uri_is_taken_in_any_form_that_means_it(load: Load, given: str, expected: str) -> None:
    assert str(load(LIVEKIT_SIP_URI=given).livekit_sip_uri) == expected


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("sips:abc.sip.livekit.cloud", "sips:"),
        ("sip:user@abc.sip.livekit.cloud", "user part"),
        ("sip:abc.sip.livekit.cloud;lr", "parameter that is not known"),
        ("sip:abc.sip.livekit.cloud;edge", "edge that is not one word"),
        ("sip:abc.sip.livekit.cloud;edge=a b", "edge that is not one word"),
        ("sip:abc.sip.livekit.cloud?X-Team=1", "headers"),
        ("sip:", "no host"),
        ("sip:;transport=tcp", "no host"),
        ("sip:p_abc.sip.livekit.cloud", "p_"),
        ("sip:abc.livekit.cloud", "takes no SIP"),
        ("sip:livekit.cloud", "takes no SIP"),
        ("sip:sip.livekit.cloud", "takes no SIP"),
        ("sip:abc.pstn.twilio.com", "host of Twilio"),
        ("sip:abc.sip.twilio.com;transport=tcp", "host of Twilio"),
        ("sip:abc.sip.livekit.cloud:99999", "port"),
        ("sip:abc.sip.livekit.cloud;transport=ws", "transport"),
        ("sip:abc sip.livekit.cloud", "host with characters"),
    ],
)
def test_a_sip_uri_is_refused_in_one_sentence_that_names_the_part(load: Load, given: str, part: str) -> None:
    (problem,) = _problems(load, LIVEKIT_SIP_URI=given)

    assert problem.startswith("LIVEKIT_SIP_URI: ")
    assert part in problem
    assert ". " not in problem
    assert given not in problem


def test_all_paths_have_the_profile_of_the_settings(load: Load) -> None:
    plain = profile_of(load(LIVEKIT_ALLOWED_ADDRESSES="10.0.0.0/8"))
    assert str(plain.sip_uri) == "sip:abc.sip.livekit.cloud;transport=tcp"
    assert (plain.is_secure, plain.transfer_mode, plain.room_presets) == (False, None, None)
    assert plain.allowed_addresses == ("10.0.0.0/8",)

    chosen = profile_of(load(TRUNK_TRANSFER_MODE="sip-only", LIVEKIT_ROOM_PRESETS="small, large,"))
    assert (chosen.transfer_mode, chosen.room_presets) == ("sip-only", {"small", "large"})


@pytest.mark.parametrize("named", ["", ";transport=tcp", ";transport=tls", ":5060;transport=udp"])
def test_secure_lines_go_over_tls_whatever_the_sip_uri_names(load: Load, named: str) -> None:
    profile = profile_of(load(LIVEKIT_SIP_URI=f"sip:abc.sip.livekit.cloud{named}", TRUNK_SECURE="true"))

    assert profile.is_secure
    assert str(profile.sip_uri) == "sip:abc.sip.livekit.cloud;transport=tls"


def test_files_stand_behind_the_environment(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("INSTANCE_NAME=from-dotenv\nPORT=1111\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stack.env").write_text("INSTANCE_NAME=from-stack\nPORT=2222\nLOG_FORMAT=console\n")

    settings = load(DATA_DIR="data", PORT="3333")

    assert (settings.port, settings.instance_name, settings.log_format) == (3333, "from-dotenv", "console")


def test_the_data_directory_may_stand_in_the_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("\ufeffDATA_DIR=elsewhere\n", encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "stack.env").write_text("PORT=2222\n")

    assert load(DATA_DIR=None).port == 2222


@pytest.mark.parametrize("name", [".env", "data/stack.env"])
def test_a_file_that_is_no_text_is_one_line(load: Load, tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / name).write_bytes(b"PORT=\xff\xfe\n")

    (problem,) = _problems(load, DATA_DIR="data")

    assert "cannot be read" in problem


def test_a_folder_above_is_not_looked_into(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "below"
    below.mkdir()
    for name in (".env", ".flaskenv"):
        (tmp_path / name).write_text("TWILIO_BASE_URL=https://evil.example.com\nPORT=1111\n")
    monkeypatch.chdir(below)

    assert (load().twilio_base_url, load().port) == (None, 8080)


def test_what_flask_read_above_is_taken_back_and_what_was_set_is_kept(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (tmp_path / ".env").write_text("TWILIO_BASE_URL=https://evil.example.com\nPORT=1111\nEMPTY\n")
    monkeypatch.setenv("TWILIO_BASE_URL", "https://evil.example.com")
    monkeypatch.setenv("PORT", "2222")
    unset_parent_env_files()
    assert os.environ["TWILIO_BASE_URL"] == "https://evil.example.com"

    monkeypatch.chdir(below)
    unset_parent_env_files()

    assert ("TWILIO_BASE_URL" in os.environ, os.environ["PORT"]) == (False, "2222")
    assert f"{tmp_path / '.env'} (TWILIO_BASE_URL)" in capsys.readouterr().err


def test_secrets_do_not_show_in_a_repr(load: Load) -> None:
    settings = load()

    assert "secret-c" not in repr(settings)
    assert "secret-d" not in repr(settings)


def test_provider_rates_are_found_by_default_and_may_be_set(load: Load) -> None:
    assert (load().twilio_rate, load().livekit_rate, load().twilio_in_flight) == ("auto", "auto", None)
    settings = load(TWILIO_RATE="16.5", LIVEKIT_RATE="off", TWILIO_IN_FLIGHT="5")
    assert (settings.twilio_rate, settings.livekit_rate, settings.twilio_in_flight) == ("16.5", "off", 5)


@pytest.mark.parametrize("wrong", ["0", "-1", "fast", "1.2.3", "nan", "20/s", ".", "0.001", "100001"])
def test_a_provider_rate_that_makes_no_sense_is_named(load: Load, wrong: str) -> None:
    expected = 'LIVEKIT_RATE: must be requests per second (0.01 to 100000), "auto" or "off"'
    assert _problems(load, LIVEKIT_RATE=wrong) == [expected]


def test_migrations_need_the_address_of_the_database_and_nothing_else(load: Load) -> None:
    with pytest.raises(SettingsError):
        load(**{**dict.fromkeys(GOOD), "DATABASE_URL": GOOD["DATABASE_URL"], "OPERATION_BUDGET_S": "soon"})
    assert load_database_settings().database_url.endswith("/trunkline")
    with pytest.raises(SettingsError):
        load(DATABASE_URL="")
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: missing$"):
        load_database_settings()
