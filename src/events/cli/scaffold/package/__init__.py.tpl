"""{{name}}: orders, and a receipt for each."""
