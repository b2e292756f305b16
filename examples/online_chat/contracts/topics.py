from events.integration import Topic


def topic_of(room: str) -> Topic:
    return Topic(f"chat.room.{room}")
