"""`./run.py soak`: load, faults and kills on a temporary stack, then a comparison of its rows with the providers."""

import argparse
import sys

from app.dev.localstack.terminal import ERRORS
from tests.soak.soak import soak


def main() -> int:
    """Run one soak; 0 if all is well."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors=ERRORS)  # type: ignore[union-attr]  # both are what Python opened
    parser = argparse.ArgumentParser(prog="run.py soak")
    parser.add_argument("--operations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--copies",
        action="store_true",
        help="begin processes as copies of one, in a tenth of the time (default: execute)",
    )
    parser.add_argument("--json", action="store_true", dest="is_json")
    options = parser.parse_args()
    return soak(options.operations, options.seed, has_copies=options.copies, is_json=options.is_json)


if __name__ == "__main__":
    sys.exit(main())
