from __future__ import annotations

import os
import threading
import time
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from events.integration.uuid7 import uuid7


def test_an_id_is_a_version_7_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000 + 1
    assert str(UUID(made)) == made
    assert (UUID(made).version, UUID(made).variant) == (7, "specified in RFC 4122")
    assert before <= UUID(made).int >> 80 <= after


@given(st.integers(0, 2**47 * 1_000_000))
def test_any_time_gives_a_well_formed_id(now: int) -> None:
    made = UUID(uuid7(now))
    assert (made.version, made.variant) == (7, "specified in RFC 4122")


def test_ids_of_one_process_sort_as_they_were_made() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_of_one_instant_sort_and_differ() -> None:
    now = time.time_ns()
    made = [uuid7(now) for _ in range(10_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_sort_when_the_clock_goes_back() -> None:
    now = time.time_ns()
    made = [uuid7(now - 1_000_000 * each) for each in range(100)]
    assert made == sorted(made)


def test_a_clock_that_is_put_back_far_is_believed() -> None:
    now = time.time_ns()
    uuid7(now + 3600 * 10**9)
    assert UUID(uuid7(now)).int >> 80 == now // 1_000_000


def test_random_bits_do_not_repeat() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert len({each[19:] for each in made}) == len(made)
    assert {each[19] for each in made} == set("89ab")


def test_threads_share_no_random_bits() -> None:
    made: list[str] = []

    def make() -> None:
        made.extend([uuid7() for _ in range(5_000)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each[19:] for each in made}) == 8 * 5_000


def test_a_forked_child_draws_its_own_random_bits() -> None:
    uuid7()  # a supply is there, which both would go on with
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, " ".join(uuid7() for _ in range(50)).encode())
        finally:
            os._exit(0)
    mine = [uuid7() for _ in range(50)]
    os.waitpid(child, 0)
    theirs = os.read(read, 100_000).decode().split()
    os.close(read)
    os.close(write)
    assert len(theirs) == 50
    assert not {each[19:] for each in mine} & {each[19:] for each in theirs}
