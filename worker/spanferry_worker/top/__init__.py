"""`spanferry top`: what the workers do, live on the terminal."""
