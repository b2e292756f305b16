"""Handlers that fail on demand, beside those of the services."""

from collections import defaultdict
from math import inf

from dishka import Provider, Scope, provide  # pyright: ignore[reportUnknownVariableType]

from events.domain import DomainEventHandler, DomainEventHandlerRegistry
from events.integration import Handle, IncomingEvent
from examples.user_registration.contracts import UserRegisteredV1
from examples.user_registration.demo.timeline import Timeline
from examples.user_registration.user_service.domain.user import UserRegistered


class Faults:
    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.fail_for: set[str] = set()
        self.email_failures: dict[str, float] = defaultdict(int)

    def fail_email(self, email: str, *, times: float = inf) -> None:
        """Have the email service fail on so many attempts for this user."""
        self.email_failures[email] = times

    async def fail_email_on_demand(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        """A middleware of the email service: fail after its handler, in the same transaction."""
        await call_next(incoming)
        event = incoming.event
        if isinstance(event, UserRegisteredV1) and self.email_failures[event.email] > 0:
            self.email_failures[event.email] -= 1
            raise RuntimeError("the demo lets this fail")


class FailOnDemand(DomainEventHandler[UserRegistered]):
    """Listed after the service's handlers, so it runs after them, in the same transaction."""

    def __init__(self, faults: Faults, registry: DomainEventHandlerRegistry) -> None:
        self._faults = faults
        self._before = [each for each in registry.get(UserRegistered) if each is not FailOnDemand]

    async def handle(self, event: UserRegistered) -> None:
        say = self._faults.timeline.say
        for handler in self._before:
            say("domain", f"{handler.__name__} handled {type(event).__name__}")
        if event.user.email in self._faults.fail_for:
            say("domain", f"{type(self).__name__} fails", style="yellow")
            raise RuntimeError("the demo lets this fail")


class FaultsProvider(Provider):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    @provide(scope=Scope.APP)
    def faults(self) -> Faults:
        return self._faults
