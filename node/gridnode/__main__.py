"""``python -m gridnode`` is the command ``gridnode``."""

from gridnode.cli import main

if __name__ == "__main__":
    main()
