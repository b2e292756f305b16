"""`python -m examples.user_registration.demo_dashboard [--port 8010]`: serve until Ctrl-C."""

import sys


def _main() -> int:
    try:
        # In here, as it takes a moment, in which somebody may think better of it.
        from examples.user_registration.demo_dashboard.cli import main  # noqa: PLC0415

        return main(sys.argv[1:])
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(_main())
