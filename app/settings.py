"""Every setting: its variable, type, unit and default. The only reader of the environment.

Order of precedence: the environment, `.env` in the working directory, `DATA_DIR/stack.env` (which ./run.py writes while
its stack is up). Parent folders are not searched: whoever can write there could redirect our credentials.
"""

import os
import sys
from datetime import timedelta
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from dotenv import dotenv_values, find_dotenv
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app import setting_values as values
from app.domain.sip_uris import SipUri
from app.sealing import parse_keys

ENV_FILE = Path(".env")
"""In the working directory."""

LONGEST_BUDGET_S = 604_800
"""Seconds, a week: what fails for longer needs a person."""

LONGEST_GRACE_S = 2_592_000
"""Seconds, 30 days: an orphaned trunk costs nothing, but its number stays in use."""

SHORTEST_S = 0.1
"""Seconds: no provider responds faster."""

MOST_IN_FLIGHT = 10_000
"""Concurrent requests: far more than the threads of all workers of an installation."""

MOST_TRUNKS = 1_000_000
"""Trunks of one account: far more than any limit of Twilio's that we know of."""

MOST_NUMBERS = 100_000
"""Numbers on one shared trunk: Twilio sets no limit, a list of them takes a call for every thousand."""

TransferMode = Literal["disable-all", "enable-all", "sip-only"]
"""Handing calls on: not, to phones and SIP, to SIP only (https://www.twilio.com/docs/sip-trunking/call-transfer)."""

Whole = Annotated[int, BeforeValidator(values.whole_number)]
Seconds = Annotated[float, BeforeValidator(values.number)]


_ENCODING = "utf-8-sig"
"""UTF-8, with or without a byte order mark, which some editors write."""


class SettingsError(Exception):
    """One or more settings are missing or invalid; `problems` has one line for each, with the variable's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DatabaseSettings(BaseSettings):
    """The settings of the migrations, which run without any provider's credentials."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    database_url: Annotated[str, AfterValidator(values.database_url)]
    database_pooler: bool = False
    """Whether PostgreSQL is behind a pooler that shares connections by transaction, such as PgBouncer."""

    credential_keys: Annotated[SecretStr | None, AfterValidator(values.sealing_keys)] = None
    """Keys that seal stored secrets, 32 bytes each in Base64, with commas: the first seals, all of them open."""

    @property
    def sealing_keys(self) -> tuple[bytes, ...]:
        """The keys of `credential_keys`; none if it is unset."""
        return parse_keys(self.credential_keys.get_secret_value()) if self.credential_keys else ()

    @model_validator(mode="before")
    @classmethod
    def _stripped(cls, given: dict[str, object]) -> dict[str, object]:
        """Strip every value, since mounted files end in a line break, and treat an empty variable as unset.

        Except where empty has a meaning.
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
    """The settings of one process; `.env.example` has the same list with comments."""

    redis_url: Annotated[str, AfterValidator(values.redis_url)]
    """In redis-py's form; Celery and Flower use `broker_url` and `broker_tls`."""

    twilio_account_sid: Annotated[str, Field(pattern=r"^AC[0-9a-f]{32}$")]
    twilio_api_key_sid: Annotated[str, Field(pattern=r"^SK[0-9a-f]{32}$")] | None = None
    twilio_api_key_secret: Annotated[SecretStr | None, Field(validate_default=True)] = None
    twilio_auth_token: Annotated[SecretStr | None, Field(validate_default=True)] = None
    twilio_base_url: Annotated[str, AfterValidator(values.base_url)] | None = None

    twilio_trunk_limit: Annotated[Whole, Field(ge=1, le=MOST_TRUNKS)] = 100
    """Trunks that the Twilio account may have (https://www.twilio.com/docs/sip-trunking/scale-and-limits)."""

    trunk_max_numbers: Annotated[Whole, Field(ge=1, le=MOST_NUMBERS)] = 500
    """Numbers on one shared trunk at most: what a trunk that somebody breaks takes with it."""

    livekit_url: Annotated[str, AfterValidator(values.livekit_url)]
    livekit_api_key: Annotated[str, Field(min_length=1)]
    livekit_api_secret: SecretStr
    livekit_sip_uri: Annotated[SipUri, NoDecode, BeforeValidator(values.sip_uri), PlainSerializer(str)]
    livekit_allowed_addresses: Annotated[str, AfterValidator(values.addresses)] | None = None
    livekit_room_presets: Annotated[str, AfterValidator(values.names)] | None = None
    """The room presets of the LiveKit server, with commas; not known if unset: LiveKit's API does not list them."""

    trunk_secure: bool = False
    """Whether lines are encrypted, signalling (TLS) and media (SRTP); off: what is there is left alone."""
    trunk_transfer_mode: TransferMode | None = None
    """Twilio's TransferMode: whether an agent may hand a call on. Unset: as Twilio makes a trunk, and left alone."""

    test_call_caller: Annotated[str, AfterValidator(values.phone_number)] = "+12025550100"
    """The number that test calls come from, in E.164; of those reserved for fiction, so that it is nobody's."""

    instance_name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?$")] = "trunkline"
    """Marks our resources at the providers; at most 16 characters, so that a tag with an agent id fits Twilio's 64."""
    web_address: Annotated[str, AfterValidator(values.listen_address)] = "127.0.0.1"
    """The address that the API listens on; an IPv6 one in brackets."""
    port: Annotated[Whole, Field(ge=1, le=65535)] = 8080
    data_dir: Path = Path(".data")
    flower_address: Annotated[str, AfterValidator(values.host_name)] = "127.0.0.1"
    """The address that Flower listens on; other than loopback only with FLOWER_BASIC_AUTH."""
    flower_port: Annotated[Whole, Field(ge=1, le=65535)] = 5555
    flower_url: Annotated[str, AfterValidator(values.web_url)] | None = None
    """Flower's URL for the console's link; if unset, FLOWER_PORT on the host of the request."""
    flower_basic_auth: Annotated[str | None, Field(pattern=r"^[^:\s]+:\S+$", validate_default=True)] = None
    log_format: Literal["json", "console"] = "json"

    rate_limit: Annotated[str, AfterValidator(values.rate_limit)] = "6000/minute"
    """Writing calls per API key; "off" for no limit. 100 a second: only a runaway loop reaches it."""
    trusted_proxies: Annotated[str, AfterValidator(values.proxies)] = ""
    """Proxies (CIDR blocks with commas) whose X-Forwarded-For and X-Forwarded-Proto are trusted; none by default."""
    cors_origins: Annotated[str, AfterValidator(values.origins)] = ""
    """Origins (with commas) whose pages may call the API from a browser; none by default."""
    metrics_public: bool = False
    """Whether /metrics needs no key."""

    twilio_rate: Annotated[str, AfterValidator(values.provider_rate)] = "auto"
    livekit_rate: Annotated[str, AfterValidator(values.provider_rate)] = "auto"
    """Requests per second of all processes; "auto": found from the provider's 429s; "off": not limited."""
    twilio_in_flight: Annotated[Whole, Field(ge=1, le=MOST_IN_FLIGHT)] | None = None
    livekit_in_flight: Annotated[Whole, Field(ge=1, le=MOST_IN_FLIGHT)] | None = None
    """Concurrent requests of all processes; not limited if unset."""

    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(values.web_url)] | None = None
    """The OTLP/HTTP endpoint for traces, without /v1/traces; no traces if unset."""

    operation_budget_s: Annotated[Seconds, Field(ge=SHORTEST_S, le=LONGEST_BUDGET_S)] = 900
    """Seconds that one operation may spend on retries of transient failures before it is rolled back."""
    orphan_grace_s: Annotated[Seconds, Field(ge=0, le=LONGEST_GRACE_S)] = 3600
    """Seconds before an audit with --fix deletes a resource with our mark and no row."""
    webhook_allowed_networks: Annotated[str, AfterValidator(values.networks)] = ""
    """Private networks (CIDR blocks with commas) that webhooks may be sent to, also without TLS; none by default."""
    provider_timeout_s: Annotated[Seconds, Field(ge=SHORTEST_S, le=60)] = 10
    """Timeout of a provider call in seconds; the lease and the quiet period are derived from it."""

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
        """The user name for Twilio: the API key if there is one, else the account."""
        return self.twilio_api_key_sid or self.twilio_account_sid

    @property
    def twilio_password(self) -> str:
        """The password for `twilio_username`."""
        secret = self.twilio_api_key_secret if self.twilio_api_key_sid else self.twilio_auth_token
        return secret.get_secret_value() if secret else ""

    @property
    def provider_secrets(self) -> frozenset[str]:
        """All credentials for the providers: masked where one of the two should quote them."""
        secrets = (self.twilio_api_key_secret, self.twilio_auth_token, self.livekit_api_secret)
        return frozenset({self.livekit_api_key, *(one.get_secret_value() for one in secrets if one)})

    @cached_property
    def allowed_addresses(self) -> tuple[str, ...]:
        """The CIDR blocks that may call our LiveKit trunks; empty means all (Cloud must enable the field first)."""
        return values.allowed_blocks(self.livekit_allowed_addresses, self.livekit_url)

    @property
    def room_presets(self) -> frozenset[str] | None:
        """The room presets of the LiveKit server; None: not known."""
        presets = self.livekit_room_presets
        return None if presets is None else frozenset(values.entries(presets))

    @property
    def webhook_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The private networks that webhooks may be sent to."""
        return values.networks_of(self.webhook_allowed_networks)

    @property
    def page_origins(self) -> frozenset[str]:
        """The origins whose pages may call the API."""
        return frozenset(values.entries(self.cors_origins))

    @cached_property
    def trusted_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of proxies whose X-Forwarded-For is trusted."""
        return values.networks_of(self.trusted_proxies)

    @property
    def broker_url(self) -> str:
        """`redis_url` without TLS parameters, which Celery's clients take from `broker_tls`."""
        return self.redis_url.partition("?")[0]

    @property
    def broker_tls(self) -> dict[str, object]:
        """Celery's `broker_use_ssl`: empty for a broker without TLS."""
        return values.redis_tls(self.redis_url)

    @property
    def provider_timeout(self) -> timedelta:
        """How long one provider call may take."""
        return timedelta(seconds=self.provider_timeout_s)


def unset_parent_env_files() -> None:
    """Unset what the `flask` command has read from a `.env` above the working directory."""
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


def load_settings(**overrides: object) -> Settings:
    """Read the settings; `overrides` come first. Raise a `SettingsError` that lists every problem."""
    return _load(Settings, overrides)


def load_database_settings() -> DatabaseSettings:
    """Read the database settings, whatever the others are; raise `SettingsError` likewise."""
    return _load(DatabaseSettings, {})


def _load(kind: type[Read], overrides: dict[str, object]) -> Read:
    files = _files()
    try:
        return kind(_env_file=files, _env_file_encoding=_ENCODING, **overrides)  # type: ignore[call-arg, arg-type]  # the rest comes from the environment
    except ValidationError as error:
        raise SettingsError([_line(problem["loc"], problem["msg"]) for problem in error.errors()]) from error


def _files() -> tuple[Path, Path]:
    """Return the files of settings, in ascending precedence; DATA_DIR itself may be set in `.env`."""
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
