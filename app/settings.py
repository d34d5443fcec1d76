"""Every setting: its variable, type, unit and default. The only reader of the environment.

Order of precedence: the environment, `.env` in the working directory, `DATA_DIR/stack.env` (which ./run.py writes while
its stack is up). No folder above is looked into: whoever may write there would say where our credentials go.
"""

import os
import sys
from datetime import timedelta
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values, find_dotenv
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from app import setting_values as values

TWILIO_SIGNALLING_ADDRESSES = (
    "54.172.60.0/30",
    "54.244.51.0/30",
    "54.171.127.192/30",
    "35.156.191.128/30",
    "54.65.63.192/30",
    "54.169.127.128/30",
    "54.252.254.64/30",
    "177.71.206.192/30",
)
"""Where Twilio's SIP trunks call from, all eight regions (https://www.twilio.com/docs/sip-trunking/ip-addresses)."""

ENV_FILE = Path(".env")
"""In the working directory."""

LONGEST_BUDGET_S = 604_800
"""Seconds, a week: what is retried for longer than that should be seen by a person."""

LONGEST_GRACE_S = 2_592_000
"""Seconds, 30 days: an orphan's trunk costs nothing, but a number stays taken."""

SHORTEST_S = 0.1
"""Seconds below which no provider can answer."""

MOST_IN_FLIGHT = 10_000
"""Requests at once: far more than all workers of an installation have threads."""

MOST_TRUNKS = 1_000_000
"""Trunks of one account: far more than Twilio has raised the limit to for anybody that we know of."""

Whole = Annotated[int, BeforeValidator(values.whole_number)]
Seconds = Annotated[float, BeforeValidator(values.number)]


_ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that some editors put before it."""


class SettingsError(Exception):
    """One or more settings are missing or malformed; `problems` has one line for each, naming the variable."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DatabaseSettings(BaseSettings):
    """What the migrations need: they run where nobody has a provider's secrets."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    database_url: Annotated[str, AfterValidator(values.database_url)]
    database_pooler: bool = False
    """Whether a pooler that shares connections by transaction (PgBouncer and its like) stands before PostgreSQL."""

    @model_validator(mode="before")
    @classmethod
    def _stripped(cls, given: dict[str, object]) -> dict[str, object]:
        """Drop white space around every value, as a mounted file ends in, and take an empty variable for an unset one.

        Except where empty says something.
        """
        found = {name: value.strip() if isinstance(value, str) else value for name, value in given.items()}
        return {name: value for name, value in found.items() if value != "" or name == "livekit_allowed_addresses"}

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            return values.plain(value, in_ascii=info.field_name != "data_dir")
        return value


class Settings(DatabaseSettings):
    """The settings of one process; see `.env.example` for the same list with comments."""

    redis_url: Annotated[str, AfterValidator(values.redis_url)]
    """As redis-py takes it; Celery and Flower take `broker_url` and `broker_tls`."""

    twilio_account_sid: Annotated[str, Field(pattern=r"^AC[0-9a-f]{32}$")]
    twilio_api_key_sid: Annotated[str, Field(pattern=r"^SK[0-9a-f]{32}$")] | None = None
    twilio_api_key_secret: Annotated[SecretStr | None, Field(validate_default=True)] = None
    twilio_auth_token: Annotated[SecretStr | None, Field(validate_default=True)] = None
    twilio_base_url: Annotated[str, AfterValidator(values.base_url)] | None = None

    twilio_trunk_limit: Annotated[Whole, Field(ge=1, le=MOST_TRUNKS)] = 100
    """Trunks that the Twilio account may have (https://www.twilio.com/docs/sip-trunking/scale-and-limits)."""

    livekit_url: Annotated[str, AfterValidator(values.livekit_url)]
    livekit_api_key: Annotated[str, Field(min_length=1)]
    livekit_api_secret: SecretStr
    livekit_sip_uri: Annotated[str, AfterValidator(values.sip_uri)]
    livekit_allowed_addresses: Annotated[str, AfterValidator(values.addresses)] | None = None

    instance_name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?$")] = "trunkline"
    """Marks our resources at the providers; at most 16 characters, so that a tag with an agent id fits Twilio's 64."""
    port: Annotated[Whole, Field(ge=1, le=65535)] = 8080
    data_dir: Path = Path(".data")
    flower_address: Annotated[str, AfterValidator(values.host_name)] = "127.0.0.1"
    """Where Flower listens; off loopback only with FLOWER_BASIC_AUTH."""
    flower_port: Annotated[Whole, Field(ge=1, le=65535)] = 5555
    flower_url: Annotated[str, AfterValidator(values.web_url)] | None = None
    """Where a browser finds Flower, for the console's link; unset, FLOWER_PORT on the host that the browser asked."""
    flower_basic_auth: Annotated[str | None, Field(pattern=r"^[^:\s]+:\S+$", validate_default=True)] = None
    log_format: Literal["json", "console"] = "json"

    rate_limit: Annotated[str, AfterValidator(values.rate_limit)] = "6000/minute"
    """Writing calls of one API key; "off" for none. 100 a second: no sane client comes near, a loop gone wild does."""
    trusted_proxies: Annotated[str, AfterValidator(values.proxies)] = ""
    """Proxies (CIDR blocks with commas) whose X-Forwarded-For says who the client is; none is believed without it."""
    metrics_public: bool = False
    """Whether /metrics answers everybody, not only holders of a key."""

    twilio_rate: Annotated[str, AfterValidator(values.provider_rate)] = "auto"
    livekit_rate: Annotated[str, AfterValidator(values.provider_rate)] = "auto"
    """Requests per second of all processes; "auto": found from the provider's 429s; "off": not governed at all."""
    twilio_in_flight: Annotated[Whole, Field(ge=1, le=MOST_IN_FLIGHT)] | None = None
    livekit_in_flight: Annotated[Whole, Field(ge=1, le=MOST_IN_FLIGHT)] | None = None
    """Requests under way at once of all processes; not limited when unset."""

    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(values.web_url)] | None = None
    """Where traces go, OTLP over HTTP, without /v1/traces; none are made when unset."""

    operation_budget_s: Annotated[Seconds, Field(ge=SHORTEST_S, le=LONGEST_BUDGET_S)] = 900
    """Seconds that one operation may spend on retries of transient failures before it is rolled back."""
    orphan_grace_s: Annotated[Seconds, Field(ge=0, le=LONGEST_GRACE_S)] = 3600
    """Seconds that a resource with our mark and no row is left alone before an audit with --fix deletes it."""
    webhook_allowed_networks: Annotated[str, AfterValidator(values.networks)] = ""
    """Private networks (CIDR blocks with commas) that webhooks may go to, there without TLS too; none without it."""
    provider_timeout_s: Annotated[Seconds, Field(ge=SHORTEST_S, le=60)] = 10
    """Seconds until a provider call is given up; the lease and the quiet period follow from it."""

    @field_validator("twilio_api_key_secret", mode="after")
    @classmethod
    def _secret_goes_with_sid(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "twilio_api_key_sid" in info.data and bool(value) != bool(info.data["twilio_api_key_sid"]):
            raise ValueError("goes with TWILIO_API_KEY_SID: set both or neither")
        return value

    @field_validator("twilio_auth_token", mode="after")
    @classmethod
    def _some_credential(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if not value and info.data.get("twilio_api_key_sid", "malformed") is None:
            raise ValueError("missing (or set TWILIO_API_KEY_SID and TWILIO_API_KEY_SECRET)")
        return value

    @field_validator("flower_basic_auth", mode="after")
    @classmethod
    def _password_off_loopback(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value and not values.is_loopback(info.data.get("flower_address", "127.0.0.1")):
            raise ValueError("missing: FLOWER_ADDRESS is not loopback, and Flower can run tasks")
        return value

    @property
    def twilio_username(self) -> str:
        """The user of Twilio's Basic auth: the API key where there is one, else the account."""
        return self.twilio_api_key_sid or self.twilio_account_sid

    @property
    def twilio_password(self) -> str:
        """The secret that goes with `twilio_username`."""
        secret = self.twilio_api_key_secret if self.twilio_api_key_sid else self.twilio_auth_token
        return secret.get_secret_value() if secret else ""

    @cached_property
    def allowed_addresses(self) -> tuple[str, ...]:
        """The CIDR blocks that LiveKit lets call our trunks; empty means all (Cloud must enable the field first)."""
        value = self.livekit_allowed_addresses
        if value is None:
            on_cloud = (urlsplit(self.livekit_url).hostname or "").endswith(".livekit.cloud")
            value = "" if on_cloud else "twilio"
        blocks = [
            block
            for entry in values.entries(value)
            for block in (TWILIO_SIGNALLING_ADDRESSES if entry == "twilio" else (entry,))
        ]
        return tuple(dict.fromkeys(blocks))

    @property
    def webhook_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The private networks that webhooks may go to."""
        return values.networks_of(self.webhook_allowed_networks)

    @cached_property
    def trusted_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Where the proxies are whose X-Forwarded-For is believed."""
        return values.networks_of(self.trusted_proxies)

    @property
    def broker_url(self) -> str:
        """`redis_url` without what is said of TLS: Celery's clients take that from `broker_tls`."""
        return self.redis_url.partition("?")[0]

    @property
    def broker_tls(self) -> dict[str, object]:
        """Celery's `broker_use_ssl`: empty where the broker is asked without TLS."""
        return values.redis_tls(self.redis_url)

    @property
    def provider_timeout(self) -> timedelta:
        """How long one provider call may take."""
        return timedelta(seconds=self.provider_timeout_s)


def forget_files_above() -> None:
    """Take out of the environment what the `flask` command put there from a `.env` above the working directory."""
    for name in (ENV_FILE.name, ".flaskenv"):
        found = Path(find_dotenv(name, usecwd=True))
        if not found.name or found.parent == Path.cwd():
            continue
        given = dotenv_values(found, encoding=_ENCODING)
        taken = [
            variable for variable, value in given.items() if value is not None and os.environ.get(variable) == value
        ]
        for variable in taken:
            del os.environ[variable]
        if taken:
            sys.stderr.write(f"Not read, since it is above the working directory: {found} ({', '.join(taken)})\n")


Read = TypeVar("Read", bound=DatabaseSettings)


def load_settings(**instead: object) -> Settings:
    """Read the settings, `instead` before all; raise `SettingsError` that lists every problem at once."""
    return _load(Settings, instead)


def load_database_settings() -> DatabaseSettings:
    """Read what the database needs, whatever the other settings are; raise `SettingsError` likewise."""
    return _load(DatabaseSettings, {})


def _load(kind: type[Read], instead: dict[str, object]) -> Read:
    files = _files()
    try:
        return kind(_env_file=files, _env_file_encoding=_ENCODING, **instead)  # type: ignore[call-arg, arg-type]  # the rest comes from the environment
    except ValidationError as error:
        raise SettingsError([_line(problem["loc"], problem["msg"]) for problem in error.errors()]) from error


def _files() -> tuple[Path, Path]:
    """Return the files behind the environment, the strongest last; DATA_DIR itself may stand in `.env`."""
    try:
        in_file = dotenv_values(ENV_FILE, encoding=_ENCODING).get("DATA_DIR") if ENV_FILE.is_file() else None
        stack = Path((os.environ.get("DATA_DIR") or in_file or "").strip() or ".data") / "stack.env"
        if stack.is_file():
            stack.read_text(_ENCODING)
    except (OSError, ValueError) as error:
        raise SettingsError([f"a file of settings ({ENV_FILE} or stack.env) cannot be read: {error}"]) from error
    return stack, ENV_FILE


def _line(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Field required", "missing")
    return f"{str(location[0]).upper()}: {message}" if location else message
