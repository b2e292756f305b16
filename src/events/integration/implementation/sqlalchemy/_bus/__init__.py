"""The bus on the tables of a database: see `tables` for the layout, `pump` for the loop."""
