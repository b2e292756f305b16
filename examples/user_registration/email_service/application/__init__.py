"""What the service does with what it hears, in terms of ports."""
