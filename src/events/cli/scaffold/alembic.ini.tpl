[alembic]
script_location = %(here)s/migrations
prepend_sys_path = .
path_separator = os
