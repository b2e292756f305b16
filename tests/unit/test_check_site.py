"""The check of the built documentation finds what it is there to find."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from scripts.check_site import faults, undescribed

Site: TypeAlias = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    def make(**pages: str) -> Path:
        for name, body in pages.items():
            (tmp_path / f"{name}.html").write_text(f"<html><body>{body}</body></html>")
        return tmp_path

    return make


@pytest.mark.parametrize(
    "body",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<script src="//cdn.example/a.js"></script>',
        '<link rel="stylesheet" href="https://fonts.example/a.css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<img src="http://example.com/a.png">',
        '<img srcset="https://example.com/a.png 2x">',
        '<iframe src="https://example.com/"></iframe>',
        "<style>@import 'https://example.com/a.css';</style>",
        '<p style="background: url(https://example.com/a.png)"></p>',
    ],
)
def test_what_is_loaded_from_another_host_is_found(site: Site, body: str) -> None:
    (fault,) = faults(site(index=body))
    assert "from another host" in fault


def test_a_style_sheet_that_loads_from_another_host_is_found(site: Site) -> None:
    folder = site(index="")
    (folder / "a.css").write_text("@font-face { src: url('https://example.com/a.woff2'); }")
    (fault,) = faults(folder)
    assert fault == "a.css loads https://example.com/a.woff2 from another host"


def test_links_to_other_hosts_are_left_alone(site: Site) -> None:
    body = '<a href="https://example.com/">there</a> <a href="mailto:a@example.com">me</a>'
    assert not [*faults(site(index=body))]


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("gone.html", "is not there"),
        ("other.html#gone", "has no such anchor"),
        ("#gone", "has no such anchor"),
        ("../outside.html", "is not there"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(site: Site, link: str, problem: str) -> None:
    (fault,) = faults(site(index=f'<a href="{link}">x</a>', other='<p id="here"></p>'))
    assert fault.startswith(f"index.html links to {link}")
    assert fault.endswith(problem)


def test_links_that_lead_somewhere_are_fine(site: Site) -> None:
    body = '<a href="other.html#here">x</a> <a href="#top">y</a> <h1 id="top"></h1>'
    assert not [*faults(site(index=body, other='<p id="here"></p>'))]


def test_a_site_without_pages_is_no_site(tmp_path: Path) -> None:
    assert [*faults(tmp_path)]


def test_public_names_that_no_page_describes_are_found(site: Site) -> None:
    folder = site(api='<dt id="events.Topic"></dt>')
    entries = "events.Topic py:class 1 api.html#$ -\nevents.Gone py:class 1 api.html#$ -\n"
    head = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n# compressed\n"
    (folder / "objects.inv").write_bytes(head + zlib.compress(entries.encode()))
    found = [*undescribed(folder, ["events.Topic", "events.Gone", "events.Never"])]
    assert found == [
        "events.Gone is described at api.html#events.Gone, which is not there",
        "events.Never is public, and no page describes it",
    ]
