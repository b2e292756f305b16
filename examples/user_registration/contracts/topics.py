from events.integration import Topic

# A broker is shared by many, so what is ours there bears our name.
USERS = Topic("registration.users")
