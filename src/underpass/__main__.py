"""`python -m underpass` is `underpass`."""

from underpass.cli.main import main

if __name__ == "__main__":
    main()
