"""How what must not leave the process is found and replaced; loaded by apps that ask for it."""
