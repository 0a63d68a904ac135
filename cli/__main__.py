"""``python -m hiprobe.cli``."""

from hiprobe.cli.main import main

main()
