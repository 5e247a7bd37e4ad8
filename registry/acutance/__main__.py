"""``python -m acutance``."""

from acutance.cli import main

if __name__ == "__main__":
    main()
