"""The ports, on SQLAlchemy and Argon2."""
