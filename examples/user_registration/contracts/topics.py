from events.integration import Topic

USERS = Topic("users")
