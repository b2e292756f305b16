"""What transports for brokers need, once: a connection that is kept, and what goes with it."""
