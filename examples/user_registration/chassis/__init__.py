"""What every service of the house stands on, and what none of them is about.

Settings, logs, HTTP with probes, a database with migrations, and ending on a signal. A company has
this as a library of its own; it knows nothing of users or mails.
"""
