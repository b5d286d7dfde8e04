"""`python -m tilus`: the command line."""

from tilus.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
