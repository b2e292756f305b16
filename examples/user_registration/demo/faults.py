"""A handler that fails when it is told to, beside those of the service."""

from dishka import Provider, Scope, provide  # pyright: ignore[reportUnknownVariableType]

from events.domain import DomainEventHandler, DomainEventHandlerRegistry
from examples.user_registration.demo.timeline import Timeline
from examples.user_registration.user_service.domain.user import UserRegistered


class Faults:
    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.fail_for: set[str] = set()


class FailIfTold(DomainEventHandler[UserRegistered]):
    """Listed after the service's handlers, so it runs after them, in the same transaction."""

    def __init__(self, faults: Faults, registry: DomainEventHandlerRegistry) -> None:
        self._faults = faults
        self._before = [each for each in registry.get(UserRegistered) if each is not FailIfTold]

    async def handle(self, event: UserRegistered) -> None:
        say = self._faults.timeline.say
        for handler in self._before:
            say("domain", f"{handler.__name__} handled {type(event).__name__}")
        if event.user.email in self._faults.fail_for:
            say("domain", f"{type(self).__name__} fails", style="yellow")
            raise RuntimeError("the demo told it to")


class FaultsProvider(Provider):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    @provide(scope=Scope.APP)
    def faults(self) -> Faults:
        return self._faults
