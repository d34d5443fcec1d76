"""`python -m app.sandbox`: the command line of the sandbox."""

import argparse
from pathlib import Path

from app import sandbox
from app.sandbox.demo import seed_demo
from app.sandbox.server import serve
from app.sandbox.state import Credentials
from app.sandbox.wsgi import SandboxApp, create_sandbox


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(prog="python -m app.sandbox", description="A stand-in for Twilio and LiveKit.")
    options.add_argument("--port", type=int, default=sandbox.PORT, help="port to listen on; 0 takes a free one")
    options.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; the control API serves loopback only"
    )
    options.add_argument("--state", type=Path, help="journal file; without it nothing outlives the process")
    options.add_argument("--seed-demo", action="store_true", help="start an empty account with a handful of numbers")
    options.add_argument("--account-sid", default=sandbox.ACCOUNT_SID)
    options.add_argument("--auth-token", default=sandbox.AUTH_TOKEN)
    options.add_argument("--api-key-sid", default=sandbox.API_KEY_SID)
    options.add_argument("--api-key-secret", default=sandbox.API_KEY_SECRET)
    options.add_argument("--livekit-api-key", default=sandbox.LIVEKIT_API_KEY)
    options.add_argument("--livekit-api-secret", default=sandbox.LIVEKIT_API_SECRET)
    options.add_argument("--sip-host", default=sandbox.SIP_HOST, help="SIP host of the LiveKit project")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Serve the sandbox until it is told to stop."""
    options = parser().parse_args(arguments)
    credentials = Credentials(
        account_sid=options.account_sid,
        auth_token=options.auth_token,
        api_key_sid=options.api_key_sid,
        api_key_secret=options.api_key_secret,
        livekit_api_key=options.livekit_api_key,
        livekit_api_secret=options.livekit_api_secret,
        sip_host=options.sip_host,
    )

    def make() -> SandboxApp:
        application = create_sandbox(credentials, options.state)
        if options.seed_demo:
            seed_demo(application.sandbox)
        return application

    serve(options.host, options.port, make)


if __name__ == "__main__":
    main()
