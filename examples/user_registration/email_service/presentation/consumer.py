from events.dishka import DishkaHandler
from events.integration import EventHandlerConsumer, IntegrationEventBusRegistration, RetryPolicy
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.email_service.application.welcome_user import WelcomeUser

NAME = "registration.email"


def create_registration(retry: RetryPolicy) -> IntegrationEventBusRegistration:
    consumer = EventHandlerConsumer(NAME)
    consumer.add_handler(UserRegisteredV1, DishkaHandler(WelcomeUser))
    return consumer.subscribe(
        USERS,
        concurrency=8,  # no user waits for another
        retry=retry,
    )
