"""`python -m examples.user_registration.demo_rabbitmq [EMAIL ...]`; see `--help`."""

import sys


def _main() -> int:
    try:
        # In here, as it takes a moment, in which somebody may think better of it.
        from examples.user_registration.demo_rabbitmq.cli import main  # noqa: PLC0415

        return main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(_main())
