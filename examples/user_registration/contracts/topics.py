from events.integration import Topic

# A broker is shared by many, so our topics have our name.
USERS = Topic("registration.users")
