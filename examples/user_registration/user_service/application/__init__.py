"""What the service does for its users, in terms of ports."""
