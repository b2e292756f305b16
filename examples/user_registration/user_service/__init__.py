"""Who is registered. Tells others by way of its outbox."""
