"""What a room, a name, an id and a message are, and which are none."""
