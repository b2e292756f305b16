"""The ports, on SMTP."""
