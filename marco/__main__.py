"""`python -m marco`: the same as the `marco` command."""

from marco.cli import main

if __name__ == "__main__":
    main()
