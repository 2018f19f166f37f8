"""`python -c` for a warm Python: runs its first argument as `__main__`."""

import sys

code = sys.argv.pop(1)
sys.argv[0] = "-c"
exec(compile(code, "<string>", "exec"))
