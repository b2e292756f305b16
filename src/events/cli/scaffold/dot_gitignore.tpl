.venv/
__pycache__/
*.db
*.db-shm
*.db-wal
