*
!pyproject.toml
!README.md
!alembic.ini
!{{package}}
!migrations
**/__pycache__
