"""A stateful stand-in for Twilio and LiveKit: one process, ports for HTTP and SIP, memory with an optional journal.

Nothing here is secret: the credentials below open this stand-in and nothing else. They are its documented defaults,
so that a stack on one machine needs no settings.
"""

ACCOUNT_SID = "AC" + "0" * 31 + "1"
"""The one Twilio account that the sandbox serves: AC + 32 hex digits."""

AUTH_TOKEN = "sandbox-token"  # noqa: S105 - opens the sandbox only
"""Password that goes with `ACCOUNT_SID`."""

API_KEY_SID = "SK" + "0" * 31 + "1"
"""A Twilio API key of the same account: SK + 32 hex digits."""

API_KEY_SECRET = "sandbox-key-secret"  # noqa: S105 - opens the sandbox only
"""Password that goes with `API_KEY_SID`."""

LIVEKIT_API_KEY = "devkey"
"""Issuer (`iss`) that LiveKit tokens must name."""

LIVEKIT_API_SECRET = "sandbox-livekit-secret-of-forty-bytes-aa"  # noqa: S105 - opens the sandbox only
"""HS256 key of LiveKit tokens; at least 32 bytes, or PyJWT warns."""

SIP_HOST = "sandbox.sip.livekit.cloud"
"""SIP host of the sandbox's LiveKit project: an origination URL must name it for a call to arrive."""

PORT = 8190
"""TCP port that `python -m app.dev.sandbox` listens on."""

SIP_PORT = 5070
"""UDP and TCP port of loopback where the sandbox of ./run.py answers SIP: 5060 is left to programs of the user's."""
