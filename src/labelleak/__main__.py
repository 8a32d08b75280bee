"""Run the command line as ``python -m labelleak``."""

from labelleak.cli import main

if __name__ == "__main__":
    main()
