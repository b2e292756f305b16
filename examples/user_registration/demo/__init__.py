"""Drive the services over HTTP, observe them, and check the results."""
