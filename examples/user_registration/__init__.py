"""A user registers, and is sent a welcome: two services, one contract, nothing lost between them.

`contracts` is what the services share. `user_service` and `email_service` know nothing else of each
other. `embedded` puts both into one process; `demo` drives that, and watches.
"""
