[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{{name}}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = [
    "integration-events[{{extras}}]>={{version}}",
    "alembic>=1.16",
%% if web
    "fastapi>=0.115",
    "uvicorn>=0.34",
%% end
]

[project.optional-dependencies]
%% if web
dev = ["httpx", "mypy", "pyright", "pytest", "pytest-asyncio>=1", "ruff"]
%% else
dev = ["mypy", "pyright", "pytest", "pytest-asyncio>=1", "ruff"]
%% end

[tool.hatch.build.targets.wheel]
packages = ["{{package}}"]

[tool.events]
app = "{{package}}.app:app"

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
filterwarnings = ["error"]

[tool.mypy]
strict = true
files = ["{{package}}", "tests", "migrations"]
explicit_package_bases = true

[tool.pyright]
typeCheckingMode = "strict"
include = ["{{package}}", "tests", "migrations"]

[tool.ruff]
line-length = 100
target-version = "py311"

[tool.ruff.lint]
select = ["B", "E", "F", "I", "RUF", "UP", "W"]
