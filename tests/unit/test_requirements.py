"""The lists in requirements/ agree with one another and with the bounds of pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"

_pin = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
_bound = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=([^ ;,]+)$")


def pins(path: Path) -> dict[str, str]:
    return dict(_pin.findall(path.read_text()))


def lower_bounds() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += [each for each in extra if not each.startswith("integration-events")]
    bounds: dict[str, str] = {}
    for each in wanted:
        match = _bound.match(each)
        assert match, f"{each!r} has no lower bound alone"
        name, version = match.groups()
        assert bounds.setdefault(name, version) == version, f"two bounds of {name}"
    return bounds


def test_each_lower_bound_is_what_make_test_lowest_installs() -> None:
    installed = {
        name: _padded(version) for name, version in pins(REQUIREMENTS / "lowest.in").items()
    }

    assert {name: _padded(version) for name, version in lower_bounds().items()} == installed


def _padded(version: str) -> list[int]:
    return [int(part) for part in (version + ".0.0").split(".")[:3]]


@pytest.mark.parametrize("name", ["demo", "test"])
def test_a_shorter_list_pins_what_the_whole_one_pins(name: str) -> None:
    whole = pins(REQUIREMENTS / "dev.txt")
    part = pins(REQUIREMENTS / f"{name}.txt")

    assert part
    assert {each: whole.get(each) for each in part} == part


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda path: path.name)
def test_every_pin_has_hashes_and_no_list_names_a_registry(path: Path) -> None:
    text = path.read_text()

    assert "://" not in text
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=[A-Za-z])", text))


def test_pre_commit_has_the_ruff_of_make_lint() -> None:
    config = (ROOT / ".pre-commit-config.yaml").read_text()

    assert f"rev: v{pins(REQUIREMENTS / 'dev.txt')['ruff']}\n" in config
