import sys

from mechocl.cli import main

sys.exit(main())
