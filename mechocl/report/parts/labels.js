// Names beside the marks of a figure in little room: each where it is neither cut nor covers another one.

/** @typedef {{left: number, right: number, top: number, bottom: number}} Box In pixels from the top left corner of the panel. */

/** @param {Box} one @param {Box} other @returns {boolean} */
function meet(one, other) {
  return one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
}

/** The box of an annotation that stands at a point. @param {any} one @param {number} x @param {number} y @returns {Box} */
function boxOf(one, x, y) {
  const size = one.font?.size || 12, width = widthOf(one.text, size) + 4, height = 1.3 * size * linesOf(one.text).length + 2;
  const middle = x + (one.xshift || 0) + ({ left: 0.5, right: -0.5 }[one.xanchor] || 0) * width;
  const center = y - (one.yshift || 0);
  return { left: middle - width / 2, right: middle + width / 2, top: center - height / 2, bottom: center + height / 2 };
}

/** The places that a name may take: its own, to the left, under and over its mark, beside these, and further under and over. @param {any} one @returns {any[]} */
function placesOf(one) {
  const away = Math.max(Math.abs(one.xshift || 0), Math.abs(one.yshift || 0)) + 4, beside = widthOf(one.text, one.font?.size || 12) / 2 + 4;
  const centered = { xanchor: "center", xshift: 0 };
  return [
    {}, ...(one.xshift ? [{ xanchor: "right", xshift: -one.xshift }] : []),
    { ...centered, yshift: -away }, { ...centered, yshift: away },
    ...[-1, 1].flatMap((side) => [-away, away].map((yshift) => ({ xanchor: "center", xshift: side * beside, yshift }))),
    ...[2, 3].flatMap((times) => [-times, times].map((by) => ({ ...centered, yshift: by * Math.max(away, 16) }))),
  ];
}

/** Move names of marks to where they are read: the names that stand at a point of the only panel, whose axes have ranges.
 * @param {any[]} data @param {any} layout For a figure of `room` pixels; its annotations are changed. @param {number} room */
function fitLabels(data, layout, room) {
  const { xaxis: across, yaxis: up, margin } = layout;
  if (!across?.range || !up?.range || layout.xaxis2 || layout.yaxis2) return;
  const width = room - margin.l - margin.r, height = layout.height - margin.t - margin.b;
  const x = (/** @type {number} */ value) => ((value - across.range[0]) / (across.range[1] - across.range[0])) * width;
  const y = (/** @type {number} */ value) => ((up.range[1] - value) / (up.range[1] - up.range[0])) * height;
  const named = layout.annotations.filter((/** @type {any} */ one) => [undefined, "x"].includes(one.xref) && [undefined, "y"].includes(one.yref));
  /** @type {Box[]} */
  const taken = data.filter((trace) => trace.mode === "markers" && trace.marker?.size >= 10).flatMap((trace) => trace.x.map((/** @type {number} */ at, /** @type {number} */ i) => {
    const half = trace.marker.size / 2;
    return { left: x(at) - half, right: x(at) + half, top: y(trace.y[i]) - half, bottom: y(trace.y[i]) + half };
  }));
  for (const one of named) {
    const places = placesOf(one).map((place) => ({ place, box: boxOf({ ...one, ...place }, x(one.x), y(one.y)) }));
    const inside = places.filter(({ box }) => box.left >= -margin.l && box.right <= width + margin.r);
    const free = inside.find(({ box }) => !taken.some((other) => meet(box, other))) || inside[0] || places[0];
    Object.assign(one, free.place);
    taken.push(free.box);
  }
}
