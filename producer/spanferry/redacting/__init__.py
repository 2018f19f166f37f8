"""How what must not leave the process is found and replaced; nothing of it is loaded before it is asked for."""
