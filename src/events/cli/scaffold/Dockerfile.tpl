FROM python:3.13-slim
WORKDIR /app
COPY pyproject.toml README.md ./
COPY {{package}} {{package}}
RUN pip install --no-cache-dir .
COPY alembic.ini ./
COPY migrations migrations
USER nobody
CMD ["events", "run"]
