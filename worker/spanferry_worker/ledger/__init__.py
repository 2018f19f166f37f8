"""`spanferry ledger`: what became of every record that apps have produced."""
