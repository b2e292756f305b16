"""Break the email service by a switch, and put it right by the dashboard."""
