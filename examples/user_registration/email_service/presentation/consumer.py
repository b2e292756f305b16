from events.integration import (
    EventHandlerConsumer,
    IntegrationEventBusRegistration,
    RetryPolicy,
)
from events.integration.implementation.dishka import DishkaHandler
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.email_service.application.ports import MailRefusedError
from examples.user_registration.email_service.application.send_welcome import SendWelcome


def email_registration(*, attempts: int, delay: float) -> IntegrationEventBusRegistration:
    consumer = EventHandlerConsumer("email-service")
    consumer.add_handler(UserRegisteredV1, DishkaHandler(SendWelcome))
    return IntegrationEventBusRegistration(
        consumer,
        USERS,
        consumer.handlers.keys(),
        concurrency=8,  # no mail waits for another
        retry=RetryPolicy(attempts=attempts, delay=delay, dead_letter_on=(MailRefusedError,)),
    )
