"""What tells events apart, and what is remembered of those that were handled."""

from __future__ import annotations

from events.integration.brokering.handled import Handled, identity


def test_an_id_is_unique_at_its_source_alone() -> None:
    ours, theirs = ({"ce-source": source} for source in ("/ours", "/theirs"))
    assert identity("1", ours, b"a") != identity("1", theirs, b"a")
    assert identity("1", ours, b"a") == identity("1", ours, b"b")
    assert identity("1", {}, b'{"source":"/ours"}') != identity("1", {}, b'{"source":"/theirs"}')
    assert identity("1", {"ce-source": 7}, b"a") == identity("1", {}, b"a")


def test_the_last_few_are_remembered() -> None:
    handled = Handled(2)
    one, two, three = (identity(each, {"ce-source": "/ours"}, b"") for each in "123")
    for added in (one, two, two, three):
        handled.add(added)
    assert one not in handled
    assert two in handled
    assert three in handled
