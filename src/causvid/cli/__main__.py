"""`python -m causvid.cli`, where the console script is not installed."""

from causvid.cli import main

main()
