from __future__ import annotations

from events.integration.brokering.backoff import Backoff


def test_each_pause_is_up_to_twice_the_last_and_never_over_the_longest() -> None:
    backoff = Backoff(0.1, 0.35)

    for most in (0.1, 0.2, 0.35, 0.35):
        assert most / 2 <= backoff.take() <= most


def test_a_success_begins_again() -> None:
    backoff = Backoff(0.1, 10.0)
    begun = [backoff.has_begun]
    for _ in range(2):
        backoff.take()
        begun.append(backoff.has_begun)

    backoff.reset()

    assert [*begun, backoff.has_begun] == [False, True, True, False]
    assert backoff.take() <= 0.1
