"""The ports, on SQLAlchemy."""
