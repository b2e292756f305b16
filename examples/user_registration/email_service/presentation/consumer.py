from events.integration import EventHandlerConsumer, IntegrationEventBusRegistration, RetryPolicy
from events.integration.implementation.dishka import DishkaHandler
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.email_service.application.welcome_user import WelcomeUser

NAME = "registration.email"


def create_registration(retry: RetryPolicy) -> IntegrationEventBusRegistration:
    consumer = EventHandlerConsumer(NAME)
    consumer.add_handler(UserRegisteredV1, DishkaHandler(WelcomeUser))
    return IntegrationEventBusRegistration(
        consumer,
        USERS,
        consumer.handlers.keys(),
        concurrency=8,  # no user waits for another
        retry=retry,
    )
