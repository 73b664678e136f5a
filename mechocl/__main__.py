import sys

from mechocl.commands.cli import main

sys.exit(main())
