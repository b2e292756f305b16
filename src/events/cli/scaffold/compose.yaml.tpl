x-service: &service
  build: .
  restart: unless-stopped
  stop_grace_period: 40s # a running handler may end
  environment:
    DATABASE_URL: postgresql+asyncpg://postgres:postgres@postgres/postgres
%% if broker
    BROKER_URL: {{compose_url}}
%% end
  depends_on:
    migrate: {condition: service_completed_successfully}
%% if broker
    broker: {condition: service_healthy}
%% end

services:
%% if web
  web:
    <<: *service
    command: uvicorn {{package}}.web:web --host 0.0.0.0
    ports: ["127.0.0.1:8000:8000"]
%% end
  worker:
    <<: *service
    command: events run
%% if broker
  relay:
    <<: *service
    command: events relay env:DATABASE_URL env:BROKER_URL
%% end
  migrate:
    <<: *service
    command: alembic upgrade head
    restart: "no"
    depends_on:
      postgres: {condition: service_healthy}
  postgres:
    image: postgres:17
    environment: {POSTGRES_PASSWORD: postgres}
    volumes: ["postgres:/var/lib/postgresql/data"]
    healthcheck: {test: ["CMD", "pg_isready", "-U", "postgres"], interval: 2s, retries: 30}
%% if broker
  broker:
{{compose_broker}}
%% end

volumes:
  postgres:
%% if broker
  broker:
%% end
