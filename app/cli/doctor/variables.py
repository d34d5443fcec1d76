"""The settings, even where some are wrong: each problem with its remedy, and stand-ins to go on with."""

from collections.abc import Mapping

from app.cli.doctor.checks import Finding, Result, Verdict, ok
from app.settings import Settings, SettingsError, load_settings

STAND_INS = {
    "database_url": "postgresql://nobody@127.0.0.1:1/none",
    "redis_url": "redis://127.0.0.1:1/0",
    "twilio_account_sid": "AC" + "0" * 32,
    "twilio_auth_token": "none",
    "livekit_url": "ws://127.0.0.1:1",
    "livekit_api_key": "none",
    "livekit_api_secret": "none",
    "livekit_sip_uri": "sip:none.sip.livekit.cloud",
    "flower_basic_auth": "none:none",
}
"""Well-formed, and never used: whatever needs a setting that is wrong is not checked. The others have defaults."""

API_KEY = frozenset({"twilio_api_key_sid", "twilio_api_key_secret"})

REMEDIES = {
    "DATABASE_URL": "Name your PostgreSQL 15 or newer: postgresql://user:password@host:5432/name",
    "REDIS_URL": "Name your Redis 7.2 or newer, or Valkey: redis://:password@host:6379/0",
    "TWILIO_ACCOUNT_SID": "Copy it from the first page of the Twilio console (Account Info): AC, then 32 of 0-9, a-f.",
    "TWILIO_AUTH_TOKEN": "Copy it from the first page of the Twilio console (Account Info), or make an API key there.",
    "TWILIO_API_KEY_SID": "Make an API key in the Twilio console (API keys & tokens): SK, then 32 of 0-9, a-f.",
    "TWILIO_API_KEY_SECRET": "Twilio shows it once, when the API key is made: make another key if it is lost.",
    "LIVEKIT_URL": "Copy it from the LiveKit project's settings: wss://your-project.livekit.cloud, or your own server.",
    "LIVEKIT_API_KEY": "Make a key in the LiveKit project's settings (API keys), or take it from your server's config.",
    "LIVEKIT_API_SECRET": "LiveKit shows it when the API key is made.",
    "LIVEKIT_SIP_URI": "Copy it from the LiveKit project's settings (SIP URI): sip:abc123.sip.livekit.cloud",
}
"""Variable -> where a person gets its value."""

ELSEWHERE = "See its line in .env.example."

TRIES = 4
"""Readings: a setting that goes with another can be judged only once that one is well-formed."""


def read_settings() -> tuple[Settings, dict[str, str]]:
    """Return the settings with stand-ins for what is wrong, and variable -> what is wrong with it."""
    problems: dict[str, str] = {}
    for _ in range(TRIES):
        try:
            return load_settings(**_instead(problems)), problems
        except SettingsError as error:
            problems |= dict(_parted(line) for line in error.problems)
    raise SettingsError([f"{variable}: {problem}" for variable, problem in problems.items()])


def results_of(settings: Settings, problems: Mapping[str, str]) -> list[Result]:
    """Return a result for every setting that is wrong, or the one that says that none is."""
    if not problems:
        count = len(Settings.model_fields)
        return [Result("settings", ok(f"all {count} are well-formed; the instance is {settings.instance_name}"))]
    return [
        Result("settings", Finding(Verdict.FAILED, f"{variable}: {problem}", REMEDIES.get(variable, ELSEWHERE)))
        for variable, problem in problems.items()
    ]


def _instead(problems: Mapping[str, str]) -> dict[str, object]:
    fields = Settings.model_fields
    names = {variable.lower() for variable in problems} & fields.keys()
    if names & API_KEY:
        # One half of a key without the other: none at all, and a token.
        names |= API_KEY | {"twilio_auth_token"}
    return {name: STAND_INS[name] if name in STAND_INS else fields[name].default for name in names}


def _parted(line: str) -> tuple[str, str]:
    variable, _, problem = line.partition(": ")
    return variable, problem
