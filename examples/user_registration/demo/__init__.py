"""Drive the services over HTTP, watch what goes on, and check that it did."""
