"""`events asyncapi`: the AsyncAPI 3.1 document of a service."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from events.cli._app import add_app
from events.cli._exit import OK
from events.cli.commands.schema import service_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events asyncapi`."""
    add_app(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the output file, YAML if its name ends so (default: JSON, to the terminal)",
    )
    parser.add_argument(
        "--document-version", default="1.0.0", metavar="VERSION", help="default: %(default)s"
    )
    parser.add_argument(
        "--server",
        action="append",
        metavar="URL",
        help="a broker, masked in the document; may be repeated (default: those of the Service)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the document."""
    from events.contracts.asyncapi import document  # noqa: PLC0415 - not for --help
    from events.contracts.lock import lock_of  # noqa: PLC0415

    service = asyncio.run(service_of(arguments.app))
    servers = arguments.server or service.servers
    made = document(lock_of(service), version=arguments.document_version, servers=servers)
    path: Path | None = arguments.output
    if path is None:
        print(json.dumps(made, indent=2, ensure_ascii=False))
    elif path.suffix in {".yaml", ".yml"}:
        from events.contracts.foreign import to_yaml  # noqa: PLC0415

        path.write_text(to_yaml(made), encoding="utf-8")
    else:
        path.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return OK
