"""A plotly figure that a notebook always shows, wherever its page lives.

Plotly by itself sends a notebook the figure's numbers alone, which only a page with plotly's extension can draw. `ShownFigure` sends
HTML that draws itself, too, and needs no network: plotly's script is inside the first figure of a session. Nothing is set for other
figures, and a renderer that you choose (`plotly.io.renderers.default`, `figure.show("png")`) is used.
"""

import base64
import html
import json
import re
import secrets
import sys
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from mechocl.report.page_parts import javascript_for_script, json_for_script

JSON: Final = "application/vnd.plotly.v1+json"

_OURS: Final = frozenset({"plotly_mimetype", "plotly_mimetype+notebook", "notebook", "vscode"})
"""Plotly's own choices for a notebook, in whose place figures show themselves. Others are for pages that do not share a script between
cells, such as Colab's, or were chosen by the user."""

_holder: list[object] = []
"""The cell whose output holds plotly's script, and which execution of it; empty before the first figure."""

_HTML: Final = """<div id="{name}" style="height:{height}px{width}">{title}: this page does not draw it yet. Trust the notebook, or run the cells again.</div>
<script>{library}(function () {{
  const figure = {figure};
  let tries = 0;
  function draw() {{  // a page may run the script before it shows the cell, and before it runs that of the cell with plotly's script
    const place = document.getElementById("{name}");
    if (!place || !window.mechoclPlotly) return tries++ < 3000 && setTimeout(draw, 200);
    place.textContent = "";
    window.mechoclPlotly.newPlot(place, figure.data, figure.layout, {{responsive: true, displaylogo: false}});
  }}
  draw();
}})();</script>"""

_LIBRARY: Final = """(function () {{
  const other = window.Plotly;
  (function () {{ let define, module, exports; {script} }})();
  window.mechoclPlotly = window.Plotly;
  if (other) window.Plotly = other;
}})();
"""
"""Plotly's script, which a page's module loader must not take, beside another version of it that may be there."""


class ShownFigure(go.Figure):
    """A figure as all others of plotly, which a notebook shows as HTML that draws itself."""

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None, validate: bool = True, **kwargs: Any
    ) -> dict[str, Any]:
        if plotly.io.renderers.default not in _OURS:
            bundle: dict[str, Any] = super()._repr_mimebundle_(include, exclude, validate, **kwargs)
            return bundle
        plain = plain_json(self)
        return {
            "text/html": _html(plain, with_library=_takes_library()),
            JSON: plain | {"config": {"displaylogo": False}},
            "text/plain": repr_of(self),
        }

    def _ipython_display_(self) -> None:
        if plotly.io.renderers.default in _OURS and "IPython" in sys.modules:
            from IPython.display import display

            display(self._repr_mimebundle_(), raw=True)  # type: ignore[no-untyped-call]
        else:
            super()._ipython_display_()

    def show(self, *args: Any, **kwargs: Any) -> None:
        """Show the figure; in a notebook as a cell does whose value it is, unless a renderer or an option is given."""
        if args or kwargs or plotly.io.renderers.default not in _OURS:
            super().show(*args, **kwargs)
        else:
            self._ipython_display_()


def repr_of(figure: go.Figure) -> str:
    """A figure in one line."""
    title = _title(plain_json(figure))
    return f"Figure({len(figure.data)} traces{': ' + title if title else ''})"


def plain_json(figure: go.Figure) -> dict[str, Any]:
    """The figure's data and layout with lists in the place of typed arrays, which older versions of plotly's script cannot read."""
    made: dict[str, Any] = _plain(json.loads(figure.to_json()))
    return {"data": made["data"], "layout": made["layout"]}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() >= {"bdata", "dtype"}:
            array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
            if shape := value.get("shape"):
                array = array.reshape([int(n) for n in str(shape).split(",")])
            return _plain(array.tolist())
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _title(figure: dict[str, Any]) -> str:
    """The first line of the title, without HTML."""
    line = re.split(r"<br ?/?>", str(figure["layout"].get("title", {}).get("text") or ""))[0]
    return re.sub(r"<[^>]*>", "", line)


def _html(plain: dict[str, Any], *, with_library: bool) -> str:
    layout = plain["layout"]
    width = f";max-width:{layout['width']}px" if "width" in layout else ""
    library = _LIBRARY.format(script=javascript_for_script(get_plotlyjs())) if with_library else ""
    return _HTML.format(
        name=f"mechocl-figure-{secrets.token_hex(6)}", height=layout.get("height", 450), width=width,
        title=html.escape(_title(plain) or "A figure"), library=library, figure=json_for_script(json.dumps(plain)),
    )  # fmt: skip


def _takes_library() -> bool:
    """Whether the output that is made now shall hold plotly's script: that of the first cell that shows a figure, once each time it runs."""
    from IPython import get_ipython

    shell = get_ipython()
    cell = shell.get_parent().get("metadata", {}).get("cellId") if hasattr(shell, "get_parent") else None
    now = [cell, getattr(shell, "execution_count", None)]
    if _holder and (_holder[0] != cell or cell is None or _holder == now):
        return False
    _holder[:] = now
    return True
