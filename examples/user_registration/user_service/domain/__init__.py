"""What is true of users, whatever the database or the web framework."""
