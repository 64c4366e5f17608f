"""``python -m delineate.cli``: the same as the command ``delineate``."""

from delineate.cli.main import main

if __name__ == "__main__":
    main()
