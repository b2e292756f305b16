"""Who was heard of, and what is owed: an inbox, and an outbox whose bus is a mail server."""

from sqlalchemy import MetaData

from events.sqlalchemy import inbox_table, outbox_table

metadata = MetaData()

inbox = inbox_table(metadata)
mails = outbox_table(metadata, "mails")
