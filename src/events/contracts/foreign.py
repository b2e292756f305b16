"""Another team's AsyncAPI 3 document, read as a lock: what they send, and what they read.

References are followed within the document and into files beside it, never over the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from events.contracts.lock import Lock, LockFileError
from events.contracts.payloads import payloads
from events.errors import MissingExtraError

# What says nothing of the form; draft 7 has it beside a reference only in an `allOf`.
_BESIDE = {"default", "deprecated", "description", "examples", "title", "x-pii"}

# By what a member of a schema holds: schemas by their names, schemas in a list, or plain values.
_NAMED = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_LISTED = {"allOf", "anyOf", "oneOf", "prefixItems"}
_VALUES = {"const", "default", "enum", "example", "examples"}


def read_contracts(path: Path) -> Lock:
    """Read a lock file or an AsyncAPI document, in JSON or YAML.

    Raises:
        LockFileError: it is neither, or is of another version. The text names the place.
        MissingExtraError: YAML is needed, and the extra `asyncapi` is not installed.
    """
    from events.contracts.lock import loads  # noqa: PLC0415 - beside its other form

    text = path.read_text(encoding="utf-8")
    found = _parsed(path, text)
    if "asyncapi" in found:
        return contracts_of(found, path)
    if path.suffix in {".yaml", ".yml"}:
        raise LockFileError(f"{path} is not an AsyncAPI document: it has no member `asyncapi`")
    return loads(text, path)


def contracts_of(found: Mapping[str, Any], path: Path) -> Lock:
    """Read a parsed document, which lies at this path.

    Raises:
        LockFileError: see `read_contracts`.
    """
    version = str(found["asyncapi"])
    if not version.startswith("3."):
        raise LockFileError(
            f"{path} has AsyncAPI version {version}, and 3.0 or newer is needed: "
            f"`npx @asyncapi/cli convert {path.name}` converts it"
        )
    return _Document(dict(found), path).read()


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        found: object = json.loads(text)
    except ValueError:
        if path.suffix not in {".yaml", ".yml"}:
            from events.contracts.lock import loads  # noqa: PLC0415

            return loads(text, path)  # which says what is wrong
        found = _yaml(path, text)
    if not isinstance(found, dict):
        raise LockFileError(f"{path} is neither a lock file nor an AsyncAPI document")
    return cast("dict[str, Any]", found)


def _yaml(path: Path, text: str) -> object:
    try:
        import yaml  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise MissingExtraError(__name__, "asyncapi") from error
    try:
        loaded: object = yaml.load(text, _json_loader(yaml))  # noqa: S506 - a SafeLoader's child
    except yaml.YAMLError as error:
        raise LockFileError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return loaded


def to_yaml(document: Mapping[str, Any]) -> str:
    """Write a document as YAML.

    Raises:
        MissingExtraError: the extra `asyncapi` is not installed.
    """
    try:
        import yaml  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise MissingExtraError(__name__, "asyncapi") from error
    plain = json.loads(json.dumps(document))  # no anchors for what occurs twice
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    return text


def _json_loader(yaml: Any) -> Any:
    """Make a loader of what JSON has: YAML's dates stay text."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in of if not tag.endswith(":timestamp")]
        for first, of in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


class _Document:
    def __init__(self, root: dict[str, Any], path: Path) -> None:
        self._files: dict[Path, dict[str, Any]] = {path.resolve(): root}
        self._root, self._path = root, path.resolve()

    def read(self) -> Lock:
        events: dict[str, dict[str, Any]] = {}
        sends: dict[str, dict[str, list[int]]] = {}
        consumers: dict[str, Any] = {}
        for key, given in self._root.get("operations", {}).items():
            operation, file = self._resolved(given, self._path)
            channel, channel_file = self._resolved(operation.get("channel", {}), file)
            topic = channel.get("address") or ""
            listed = operation.get("messages")
            messages = (
                [(name, each, channel_file) for name, each in channel.get("messages", {}).items()]
                if listed is None
                else [(str(e.get("$ref", "")).rpartition("/")[2], e, file) for e in listed]
            )
            for name, each, of_file in messages:
                for type_, version, described in self._events(name, each, of_file):
                    events.setdefault(type_, {})[str(version)] = described
                    if operation.get("action") == "send":
                        versions = sends.setdefault(topic, {}).setdefault(type_, [])
                        versions[:] = sorted({*versions, version})
                    else:
                        who = consumers.setdefault(operation.get("title") or key, {})
                        reads = who.setdefault(topic, {}).setdefault(type_, {})
                        reads[str(version)] = version
        return {
            "lock": 1,
            "service": {"name": self._root.get("info", {}).get("title", self._path.name)},
            "events": events,
            "sends": sends,
            "consumers": consumers,
        }

    def _events(
        self, name: str, given: Mapping[str, Any], file: Path
    ) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Read a message. What says which event it is, is its payload, its headers or its name."""
        message, file = self._resolved(given, file)
        payload, payload_file = self._resolved(message.get("payload", {}), file)
        if "schemaFormat" in payload:
            kind = str(payload["schemaFormat"])
            if not ("json" in kind or "asyncapi" in kind):
                raise LockFileError(
                    f"{file.name}: the payload of message {name!r} has format {kind}, which is "
                    f"not supported: use JSON Schema"
                )
            payload, payload_file = self._resolved(payload["schema"], payload_file)
        definitions: dict[str, Any] = {}
        schema = self._whole(payload, payload_file, definitions, {})
        if definitions:
            schema["$defs"] = definitions
        headers = self._resolved(message.get("headers", {}), file)[0].get("properties", {})
        inner = schema.get("properties", {})
        type_ = (
            _constant(inner.get("type"))
            or _constant(headers.get("ce-type"))
            or message.get("name")
            or name
        )
        version = _constant(inner.get("version")) or _constant(headers.get("ce-eventversion")) or 1
        number = int(version) if str(version).isdigit() else 1
        described: dict[str, Any] = {"schema": schema}
        # As our own reader would have it of the headers.
        known = {"type": type_, "version": number}
        examples = [e["payload"] for e in message.get("examples", ()) if "payload" in e]
        base = examples[0] if examples else next(iter(payloads(schema)), None)
        if isinstance(base, dict):
            described["example"] = {**cast("dict[str, Any]", base), **known}
        described["schema"] = {
            **schema,
            "properties": {**inner, "type": {"const": type_}, "version": {"const": number}},
            "required": sorted({*schema.get("required", ()), *known}),
        }
        yield str(type_), number, described

    def _whole(
        self,
        given: Any,
        file: Path,
        definitions: dict[str, Any],
        names: dict[tuple[Path, str], str],
        within: str | None = None,
    ) -> Any:
        """Copy a schema, or this member of one, with all that it refers to."""
        if isinstance(given, list) and within not in _VALUES:
            items = cast("Sequence[Any]", given)
            within = "prefixItems" if within == "items" else within
            return [self._whole(each, file, definitions, names, within) for each in items]
        if isinstance(given, bool) and (within is None or within in _LISTED):
            return _spelt_out(given)
        if not isinstance(given, dict) or within in _VALUES:
            return cast("Any", given)
        schema = cast("dict[str, Any]", given)
        if within in _NAMED:
            return {n: self._whole(of, file, definitions, names) for n, of in schema.items()}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            place, pointer = self._place(reference, file)
            name = names.get((place, pointer))
            if name is None:
                name = names[place, pointer] = f"{pointer.rpartition('/')[2]}-{len(names)}"
                definitions[name] = self._whole(self._at(place, pointer), place, definitions, names)
            return {"$ref": f"#/$defs/{name}"}
        made = {
            name: self._whole(value, file, definitions, names, name)
            for name, value in schema.items()
        }
        return _in_our_form(made)

    def _resolved(self, given: Any, file: Path) -> tuple[dict[str, Any], Path]:
        for _ in range(50):
            given = _spelt_out(given) if isinstance(given, bool) else given
            reference = given.get("$ref")
            if not isinstance(reference, str):
                return dict(given), file
            file, pointer = self._place(reference, file)
            given = self._at(file, pointer)
        raise LockFileError(f"{file.name}: {given['$ref']!r} refers to itself")

    def _place(self, reference: str, file: Path) -> tuple[Path, str]:
        where, _, pointer = reference.partition("#")
        if "://" in where:
            raise LockFileError(
                f"{file.name}: {reference!r} is on another machine, from which nothing is loaded: "
                f"bundle the document first (`npx @asyncapi/cli bundle`)"
            )
        return (file.parent / where).resolve() if where else file, pointer

    def _at(self, file: Path, pointer: str) -> Any:
        if file not in self._files:
            try:
                self._files[file] = _parsed(file, file.read_text(encoding="utf-8"))
            except OSError as error:
                raise LockFileError(f"{self._path.name} refers to {file}: {error}") from None
        found: Any = self._files[file]
        for step in pointer.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise LockFileError(f"{file.name} refers to {pointer!r}, which does not exist")
            found = cast("dict[str, Any]", found)[name]
        return found


def _in_our_form(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("items"), list):  # draft 7's form of a tuple
        schema["prefixItems"] = schema.pop("items")
    if isinstance(tag := schema.get("discriminator"), str):  # AsyncAPI's form
        schema["discriminator"] = {"propertyName": tag}
    match schema.get("allOf"):
        case [{"$ref": str(target)}] if schema.keys() - {"allOf"} <= _BESIDE:
            del schema["allOf"]
            schema["$ref"] = target
        case _:
            pass
    return schema


def _spelt_out(schema: bool) -> dict[str, Any]:  # noqa: FBT001 - JSON Schema has it so
    """Return the schema of anything for true, and of nothing for false."""
    return {} if schema else {"enum": []}


def _constant(schema: object) -> Any:
    if not isinstance(schema, dict):
        return None
    given = cast("dict[str, Any]", schema)
    values = given.get("enum", ())
    return given.get("const") or (values[0] if len(values) == 1 else None)
