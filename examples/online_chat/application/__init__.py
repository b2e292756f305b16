"""Who is in which room at this server, and what they receive."""
