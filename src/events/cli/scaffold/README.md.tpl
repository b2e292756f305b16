# {{name}}

A small service. `place_order` stores an order and announces it in the same transaction. The consumer
`{{name}}-receipts` writes a receipt for each order, once.

%% if broker
The outbox keeps the event until the relay has sent it to {{broker_title}}. The inbox makes a repeated event
take effect once.
%% else
The bus stores its events in the service's own database, so there is no broker and no relay. The
handler's changes and the removal of its event are one transaction.
%% end

| file | holds |
|---|---|
| `{{package}}/contracts.py` | the topics and events that other services see |
| `{{package}}/orders.py` | what the service does, without HTTP and without a bus |
| `{{package}}/receipts.py` | a consumer |
| `{{package}}/database.py` | the tables, and the outbox of a session |
| `{{package}}/app.py` | the application that the command `events` runs and inspects |
%% if web
| `{{package}}/web.py` | the HTTP interface |
%% else
| `{{package}}/__main__.py` | the command line |
%% end

## Develop

```console
$ python -m venv .venv && . .venv/bin/activate
$ pip install -e ".[dev]"
$ pytest
```

## Run

With Docker: `docker compose up --build`. Without, each in a terminal of its own:

```console
$ alembic upgrade head
$ events run
%% if broker
$ events relay env:DATABASE_URL env:BROKER_URL
%% end
%% if web
$ uvicorn {{package}}.web:web
$ curl localhost:8000/orders --json '{"email": "ann@example.com", "quantity": 2}'
%% else
$ python -m {{package}} ann@example.com 2
%% end
```

Start `events run` first: a consumer gets what is sent after its first start.

Settings come from the environment:

| variable | default |
|---|---|
| `DATABASE_URL` | `sqlite+aiosqlite:///{{package}}.db` |
%% if broker
| `BROKER_URL` | `{{broker_url}}` |
%% end

## Operate

```console
$ events check              # would it start?
$ events backlog            # what waits for each consumer
$ events dead groups        # events that exhausted their retries, by cause
$ events dead redrive --all # handle them again: one first, then the others
%% if broker
$ events outbox stats       # what the relay has yet to send
%% end
```
