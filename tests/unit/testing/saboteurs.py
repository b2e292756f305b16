"""For each test of the contracts, who breaks it and what the failure says then."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec.structs

from events.integration import RetryPolicy
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.message import Ack, Reject, Release, Retry
from events.testing import Fault
from events.testing.contracts import Harness
from events.testing.faults import (
    ChangeDelivery,
    ChangeMessage,
    CorruptBody,
    DropSilently,
    DuplicatePublish,
    ForgetAttempts,
    IgnoreReject,
    IgnoreRetryDelay,
    LeakSubscription,
    LoseDelivery,
    LoseSettlement,
    ReorderPublish,
    StripHeaders,
    SubscribeTwice,
)
from tests.unit.testing.sabotage import (
    AltersBodies,
    AlwaysTheFirstPage,
    AttemptsGoOn,
    CannotStopTwice,
    DeadLetters,
    FaultyHarness,
    ForgetsInGroups,
    GroupsByNothing,
    HasEndlessGrace,
    HasNoGrace,
    KeepsEverything,
    LeakTask,
    Miscounts,
    RedrivesToAll,
    RemovesByLooking,
    ReorderKey,
    Replay,
    SendsAnything,
    SendsIntoTheVoid,
    StartsAgain,
    SwallowsErrors,
    SwallowsWhatIsNoError,
    TriesThriceAtOnce,
    WedgeWhenCancelled,
    change,
    goes_to,
    is_binary,
    is_number,
    is_other,
    registering,
    rerouted,
    settle,
    with_header,
)


@dataclass(frozen=True)
class Saboteur:
    """What breaks the property that `test` shows, and what the failure `says` then."""

    test: str
    says: str
    faults: Callable[[], Sequence[Fault]] = tuple
    bus_class: type[TransportIntegrationEventBus] = TransportIntegrationEventBus
    declares: dict[str, Any] | None = None
    timeout: float = 0.5  # longer where the test does not end by a timeout
    pace: float = Harness.pace

    def harness(self) -> FaultyHarness:
        harness = FaultyHarness(*self.faults(), bus_class=self.bus_class, declares=self.declares)
        harness.timeout = self.timeout
        harness.pace = self.pace
        return harness


def by(test: str, says: str, *faults: Callable[[], Fault], **others: Any) -> Saboteur:
    return Saboteur(test, says, lambda: [make() for make in faults], **others)


SABOTEURS = [
    # 1
    by("test_01_a_batch_arrives_whole", "100 events are handled", lambda: DropSilently(times=1)),
    by("test_01_a_batch_arrives_whole", "100 events are handled", lambda: CorruptBody(times=1)),
    by(
        "test_01_a_batch_arrives_whole",
        "the body of number 0 is another",
        lambda: ChangeMessage(lambda m: msgspec.structs.replace(m, body=m.body + b" "), times=1),
    ),
    by(
        "test_01_a_batch_arrives_whole",
        "headers of number 0 are others",
        lambda: StripHeaders("x-greeting", times=1),
    ),
    by(
        "test_01_a_batch_arrives_whole",
        "headers of number 0 are others",
        lambda: with_header("x-greeting", "gr??e"),
    ),
    by(
        "test_01_a_batch_arrives_whole",
        "the key of number 0 is another",
        lambda: ChangeMessage(change(key=None)),
    ),
    by(
        "test_01_a_batch_arrives_whole",
        "number 0 arrived under another id",
        lambda: with_header("ce-id", "another"),
    ),
    by("test_01_a_batch_arrives_whole", "101 arrived", lambda: DuplicatePublish(times=1)),
    # 2
    by(
        "test_02_competing_consumers_share_the_work",
        "500 events are handled",
        lambda: DropSilently(when=is_number(77)),
    ),
    by(
        "test_02_competing_consumers_share_the_work",
        r"handled more than once: \[77\]",
        lambda: LoseSettlement(times=1, when=is_number(77)),
    ),
    by(
        "test_02_competing_consumers_share_the_work",
        "delivered again after a restart|handled more than once",
        lambda: settle(lambda _: Retry(0.05, 1), times=1, when=is_number(77)),
    ),
    # 3
    by(
        "test_03_topics_in_parallel_do_not_mix",
        "400 events are handled",
        lambda: LoseDelivery(times=1, when=goes_to("consumer7-")),
    ),
    by(
        "test_03_topics_in_parallel_do_not_mix",
        "got events of other topics",
        lambda: rerouted("topic7-", "topic8-"),
    ),
    # 4
    by(
        "test_04_each_consumer_name_gets_everything",
        "10 events are handled; seen: {'two",
        lambda: LoseDelivery(when=goes_to("two-")),
    ),
    by(
        "test_04_each_registration_gets_everything",
        "10 events are handled; seen: {'one",
        declares={"delivery": "broadcast"},
    ),
    # 5
    by(
        "test_05_one_name_on_two_topics_gets_both",
        "20 events are handled",
        lambda: LoseDelivery(when=lambda d: d.topic.startswith("there-")),
    ),
    by(
        "test_05_one_name_on_two_topics_gets_both",
        "what came from where|more came than it wants",
        lambda: rerouted("here-", "there-", when=is_other),
    ),
    # 6
    by(
        "test_06_types_not_registered_are_skipped",
        "skipped, and came back",
        lambda: settle(lambda _: Retry(0.06, 1), when=is_other),
    ),
    by(
        "test_06_types_not_registered_are_skipped",
        "worth no warning",
        lambda: ChangeDelivery(
            lambda d: msgspec.structs.replace(d, body=b"?", headers={}), when=is_other
        ),
    ),
    # 7
    by(
        "test_07_what_was_sent_before_the_first_start_waits",
        "10 events are handled",
        declares={"before_first_start": "waits"},
    ),
    by(
        "test_07_what_was_sent_before_the_first_start_is_gone",
        "declared gone, and came",
        Replay,
    ),
    # 8
    by(
        "test_08_in_order_one_at_a_time",
        "the order is another",
        lambda: ReorderPublish(times=1, when=is_number(50)),
    ),
    by(
        "test_08_in_order_one_at_a_time",
        "the order is another|ran at once",
        bus_class=registering(concurrency=2),
    ),
    by(
        "test_08_in_order_within_each_key",
        "never ran at once",
        bus_class=registering(concurrency=1, order_by=None),
    ),
    by(
        "test_08_in_order_within_each_key",
        "ran beside another of its key",
        bus_class=registering(concurrency=8, order_by=None),
    ),
    by(
        "test_08_in_order_within_each_key",
        "key 'b': ",
        lambda: ReorderKey("b"),
    ),
    # 9
    by(
        "test_09_the_ceiling_holds_under_load",
        "more than 3 handlers run at once",
        bus_class=registering(concurrency=4),
    ),
    by(
        "test_09_the_ceiling_holds_under_load",
        "not within .*: 3 handlers run at once",
        bus_class=registering(concurrency=2),
    ),
    by(
        "test_09_the_ceiling_holds_after_a_reconnect",
        "more than 3 handlers run at once",
        bus_class=registering(concurrency=4),
    ),
    # 10
    by(
        "test_10_the_third_attempt_succeeds_in_place",
        "1 events are handled",
        bus_class=SwallowsErrors,
    ),
    by(
        "test_10_the_third_attempt_succeeds_in_place",
        r"attempts: \[1, 1, 1\]",
        bus_class=TriesThriceAtOnce,
    ),
    by(
        "test_10_the_third_attempt_succeeds_through_the_broker",
        r"attempts: \[1, 1, 1\]",
        ForgetAttempts,
    ),
    by(
        "test_10_the_third_attempt_succeeds_through_the_broker",
        "headers changed",
        lambda: ChangeDelivery(
            lambda d: msgspec.structs.replace(d, headers={**d.headers, "x-attempt": str(d.attempt)})
        ),
    ),
    by(
        "test_10_the_third_attempt_succeeds_through_the_broker",
        "its id changed",
        lambda: ChangeDelivery(
            lambda d: msgspec.structs.replace(
                d, headers={**d.headers, "ce-id": f"{d.id}-{d.attempt}"}
            )
        ),
    ),
    by(
        "test_10_whatever_a_handler_raises_is_a_failed_attempt",
        "3 events are handled",
        bus_class=SwallowsWhatIsNoError,
    ),
    # 11
    by(
        "test_11_attempts_are_bounded_in_place",
        "attempt 3 came after",
        bus_class=registering(
            retry=RetryPolicy(attempts=4, delay=0.04, factor=1, jitter=0, in_place=60)
        ),
    ),
    by(
        "test_11_attempts_are_bounded_in_place",
        "attempts after the last",
        bus_class=registering(
            retry=RetryPolicy(attempts=9, delay=0.04, factor=1, jitter=0, in_place=60)
        ),
    ),
    by(
        "test_11_attempts_are_bounded_through_the_broker",
        r"attempt \d came after",
        IgnoreRetryDelay,
    ),
    by(
        "test_11_attempts_are_bounded_through_the_broker",
        "attempts after the last|attempts: ",
        ForgetAttempts,
    ),
    by(
        "test_11_attempts_are_bounded_through_the_broker",
        "held up by a bad one",
        bus_class=registering(
            retry=RetryPolicy(attempts=4, delay=0.04, factor=2, jitter=0, in_place=60)
        ),
    ),
    by("test_11_a_dead_letter_tells_all", "there are 1 dead letters", IgnoreReject),
    by(
        "test_11_a_dead_letter_tells_all",
        "its body is not the original one",
        lambda: DeadLetters(AltersBodies),
    ),
    by(
        "test_11_a_dead_letter_tells_all",
        "its attempts are 1",
        lambda: settle(
            lambda s: msgspec.structs.replace(s, attempts=1) if isinstance(s, Reject) else s
        ),
    ),
    # 12
    by(
        "test_12_bad_input_is_given_up_at_once",
        "a hot loop",
        lambda: settle(lambda s: Retry(0.0, 0) if isinstance(s, Reject) else s),
    ),
    by(
        "test_12_bad_input_is_given_up_at_once",
        "1 events are handled",
        lambda: ReorderPublish(times=1, when=is_number(2)),
    ),
    by("test_12_bad_input_is_kept", "there are 3 dead letters", IgnoreReject),
    by(
        "test_12_bad_input_is_kept",
        "their bytes are not the original",
        lambda: DeadLetters(AltersBodies),
    ),
    by(
        "test_12_a_body_over_the_limit_is_not_sent",
        "returns, and should raise",
        bus_class=SendsAnything,
    ),
    # 13
    by(
        "test_13_redrive_goes_to_that_consumer_alone",
        "it went to another consumer as well",
        lambda: DeadLetters(RedrivesToAll),
    ),
    by(
        "test_13_redrive_goes_to_that_consumer_alone",
        "not within .* s: 1 events are handled",
        AttemptsGoOn,
    ),
    by("test_13_discard_removes", "2 dead letters, where 1", lambda: DeadLetters(KeepsEverything)),
    by("test_13_listing_pages", "a page of 3", lambda: DeadLetters(AlwaysTheFirstPage)),
    by(
        "test_13_groups_are_those_of_the_list",
        "10 of 11 are in groups",
        lambda: DeadLetters(ForgetsInGroups),
    ),
    by(
        "test_13_groups_are_those_of_the_list",
        "the groups are ",
        lambda: DeadLetters(GroupsByNothing),
    ),
    by(
        "test_13_groups_are_those_of_the_list",
        "they are others now",
        lambda: DeadLetters(RemovesByLooking),
    ),
    Saboteur(
        "test_13_the_backlog_counts_what_waits_and_what_died",
        "two that wait",
        bus_class=Miscounts,
    ),
    # 14
    by(
        "test_14_many_failures_lose_nothing",
        "200 events are handled",
        lambda: settle(lambda s: Ack() if isinstance(s, Retry) else s, times=1, when=is_number(99)),
    ),
    # 15
    by("test_15_what_no_dead_letter_can_hold_stays", "there are 1 dead letters", IgnoreReject),
    by(
        "test_15_what_no_dead_letter_can_hold_stays",
        "it spins",
        lambda: settle(lambda s: Retry(0.0, 0) if isinstance(s, Reject) else s),
    ),
    # 16
    by(
        "test_16_startup_and_shutdown_twice_are_harmless",
        "no task of the bus's is left",
        bus_class=StartsAgain,
    ),
    by(
        "test_16_startup_and_shutdown_twice_are_harmless",
        "it raised BusNotStartedError",
        bus_class=CannotStopTwice,
    ),
    by(
        "test_16_use_before_startup_is_a_clear_error",
        "returns, and should raise",
        bus_class=SendsIntoTheVoid,
    ),
    # 17
    by(
        "test_17_shutdown_lets_running_handlers_end",
        "the running handler was cancelled",
        bus_class=HasNoGrace,
    ),
    by(
        "test_17_shutdown_lets_running_handlers_end",
        r"after the next start came \[\]",
        lambda: settle(lambda s: Ack() if isinstance(s, Release) else s),
    ),
    by(
        "test_17_shutdown_lets_running_handlers_end",
        "attempts were counted",
        lambda: settle(lambda s: Retry(0.0, 1) if isinstance(s, Release) else s),
    ),
    by(
        "test_17_past_the_grace_the_event_comes_back",
        "shutdown returns",
        bus_class=HasEndlessGrace,
    ),
    by(
        "test_17_past_the_grace_the_event_comes_back",
        "it was cancelled after",
        bus_class=HasNoGrace,
        pace=5.0,  # of a grace that it does not wait for: longer than a busy machine takes
    ),
    by(
        "test_17_past_the_grace_the_event_comes_back",
        r"after the next start came \[\]",
        lambda: settle(lambda s: Ack() if isinstance(s, Release) else s),
    ),
    by(
        "test_17_past_the_grace_the_event_comes_back",
        "it counts as attempt 2",
        lambda: settle(lambda s: Retry(0.0, 1) if isinstance(s, Release) else s),
    ),
    # 18
    by(
        "test_18_what_was_sent_meanwhile_arrives",
        "5 events are handled",
        lambda: DropSilently(times=1, when=is_number(3)),
    ),
    # 19
    by(
        "test_19_registering_a_hundred_times_leaks_nothing",
        "open before",
        LeakSubscription,
    ),
    by("test_19_registering_a_hundred_times_leaks_nothing", "tasks of before", LeakTask),
    by(
        "test_19_registering_a_hundred_times_leaks_nothing",
        "open before|the third got",
        SubscribeTwice,
        timeout=10.0,
    ),
    # 20
    by(
        "test_20_send_during_shutdown_is_accepted_or_raises",
        "all that were accepted arrive",
        bus_class=SendsIntoTheVoid,
    ),
    by(
        "test_20_send_during_shutdown_is_accepted_or_raises",
        "all that were accepted arrive",
        lambda: DropSilently(times=1),
    ),
    # 21
    by(
        "test_21_a_cancelled_send_leaves_the_bus_usable",
        "send after a cancelled one returns",
        WedgeWhenCancelled,
    ),
    # 38
    by(
        "test_38_a_cloudevent_keeps_its_id",
        r"one event arrived under these ids: \['client-2', 'order-7'\]",
        lambda: StripHeaders("ce-id", times=1, when=is_binary),
    ),
    by(
        "test_38_a_dead_letter_bears_the_cloudevents_id",
        r"one event died under these ids: \['client-2', 'order-7'\]",
        lambda: StripHeaders("ce-id", times=1, when=is_binary),
    ),
]
