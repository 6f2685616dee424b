"""Run `python -m casemate`."""

from casemate.cli.main import main

if __name__ == "__main__":
    main()
