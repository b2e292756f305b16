"""A database for what is owed, and a mail server that takes it."""
