"""`mechocl serve`: the page on single aliases, live."""

import os
import sys
import webbrowser
from typing import Annotated

import tyro

from mechocl.commands.options import Attribute, Device, PositionalRun, chosen_seeds


def serve(
    run: PositionalRun,
    seeds: Annotated[
        str,
        tyro.conf.arg(
            help="Which seeds can be chosen, such as 0,1,2. By default all that were trained to their end."
        ),
    ] = "all",
    port: int = 8765,
    browser: bool = True,
    patching: bool = True,
    attribute: Attribute = "",
    device: Device = "auto",
) -> None:
    """Show the page of `mechocl share` on this machine, live: any alias at any checkpoint, and any list or text that is typed.

    What is shown is computed when it is chosen. Nothing is written. Ctrl-C ends it.

    Args:
        run: Folder of a run.
        port: Port of 127.0.0.1 that is listened on. 0 takes a free one.
        browser: Open the page in a browser, where there is a screen.
        patching: Patch every question. Without it the page has no effects of patches, and answers sooner.
    """
    from mechocl.models import seam
    from mechocl.report.explorer.live import LiveRun
    from mechocl.report.explorer.serving import open_server
    from mechocl.runs.run import Run

    opened = Run.open(run, attribute=attribute)
    chosen = chosen_seeds(seeds, opened, None)
    live = LiveRun(opened, chosen, patching=patching, device=seam.resolve_device(device))
    with open_server(live, port=port) as server:
        print(f"page of {run}: {server.address}", flush=True)
        print("Ctrl-C ends it", flush=True)
        if browser and has_screen():
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nended")


def has_screen() -> bool:
    """Whether there is a screen. Elsewhere a browser may be one of the terminal, which would take it over."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
