// Values of charts under the pointer, and under the keyboard's arrows: the nearest of the points that a chart is drawn
// from, with the names that its axes and its legend give them. Read from the scene that Vega has drawn, so that no chart
// has to carry anything for it.
const values = document.getElementById("values"), spot = document.getElementById("spot");
const REACH = 40; // pixels from the pointer within which a point is meant
const THIN = 1; // widths of lines below which they are of single runs behind a mean

// the part of a chart's specification that a mark was made from, by its name, with the encodings that it inherits
function partOf(spec, name) {
  let node = spec, siblings = [spec], encoding = { ...spec.encoding };
  const words = name.replace(/_?marks$/, "").split("_");
  for (let i = 0; i < words.length; i++) {
    if (words[i] === "child") { node = node.spec; siblings = [node]; }
    else if (Array.isArray(node?.[words[i]])) { siblings = node[words[i]]; node = siblings[Number(words[++i])]; }
    if (!node) return null;
    encoding = { ...encoding, ...node.encoding };
  }
  return { encoding, siblings };
}

// all points of a scene with their places in it, their data, and what they are parts of
function pointsOf(scene, spec) {
  const points = [], bands = [];
  const walk = (mark, x, y) => {
    if (mark.marktype === "group") {
      for (const item of mark.items) for (const inner of item.items ?? []) walk(inner, x + (item.x ?? 0), y + (item.y ?? 0));
      return;
    }
    const part = mark.name?.endsWith("marks") ? partOf(spec, mark.name) : null;
    if (!part) return;
    if (mark.marktype === "area") bands.push({ part, items: mark.items });
    if (!["symbol", "line", "rect"].includes(mark.marktype) || part.encoding.y2 && mark.marktype !== "rect") return;
    if (mark.marktype === "line" && (mark.items[0]?.strokeWidth ?? 2) < THIN) return;
    for (const item of mark.items) {
      if (item.defined === false || !item.datum || item.opacity === 0) continue;
      const w = item.width ?? 0, h = item.height ?? 0;
      points.push({ x: x + item.x, y: y + item.y, w, h, datum: item.datum, part, cell: mark.marktype === "rect" });
    }
  };
  walk(scene, 0, 0);
  return { points, bands };
}

function written(value, channel) {
  if (typeof value !== "number") return String(value);
  const names = /^(\[.*\])\[datum\.value\]$/.exec(channel?.axis?.labelExpr ?? "")?.[1];
  if (names) return JSON.parse(names)[value];
  const base = /pow\((\d+), datum\.value\)/.exec(channel?.legend?.labelExpr ?? "")?.[1];
  if (base) value = Number(base) ** value;
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

// the channel that says by its colour what a point is of, from its own part or from another with the same data
function colourOf({ datum, part: { encoding, siblings } }) {
  const named = [encoding, ...siblings.map((own) => own.encoding ?? {})];
  return named.map((own) => own.color).find((own) => own?.field && own.field in datum && own.scale !== null);
}

// what a point says, as lines of name and value
function told(point, bands) {
  const { datum, part: { encoding, siblings } } = point, lines = [];
  const colour = colourOf(point);
  const shade = colour ? [[colour.title ?? "", written(datum[colour.field], colour)]] : [];
  if (!point.cell) lines.push(...shade);
  for (const way of ["x", "y"]) {
    const channel = encoding[way];
    if (channel?.field && datum[channel.field] != null) lines.push([channel.title ?? channel.field, written(datum[channel.field], channel)]);
  }
  if (point.cell) lines.push(...shade);
  if (encoding.color?.field && encoding.color !== colour && encoding.color.field in datum)
    lines.push([encoding.color.title ?? encoding.color.field, written(datum[encoding.color.field])]);
  const x = encoding.x?.field, which = colour?.field ?? encoding.color?.field;
  for (const band of bands) {
    const { y, y2 } = band.part.encoding;
    if (band.part.siblings !== siblings || !y2 || !x) continue;
    const own = band.items.find(({ datum: d }) => d && d[x] === datum[x] && (!which || d[which] === datum[which]));
    if (own && own.datum[y.field] != null && own.datum[y2.field] != null)
      lines.push(["shaded", `${written(own.datum[y.field])} to ${written(own.datum[y2.field])}`]);
  }
  return lines;
}

// where the scene begins in its drawing
function originOf(view) {
  const [x, y] = view.origin(), { left, top } = view.padding();
  return [x + left, y + top];
}

function show(box, view, point, bands) {
  const svg = box.querySelector("svg"), frame = svg.getBoundingClientRect();
  const scale = frame.width / Number(svg.getAttribute("width")), [ox, oy] = originOf(view);
  const left = frame.left + (ox + point.x + point.w / 2) * scale, top = frame.top + (oy + point.y + point.h / 2) * scale;
  values.replaceChildren(...told(point, bands).map(([name, value]) => {
    const line = document.createElement("div"), strong = document.createElement("b");
    strong.textContent = value;
    line.append(name ? `${name}: ` : "", strong);
    return line;
  }));
  for (const part of [values, spot]) part.hidden = false;
  spot.style.translate = `${left}px ${top}px`;
  const { width, height } = values.getBoundingClientRect();
  const x = left + 14 + width > innerWidth ? left - 14 - width : left + 14;
  values.style.translate = `${Math.max(4, x)}px ${Math.max(4, Math.min(top - height / 2, innerHeight - height - 4))}px`;
}

function hide() { values.hidden = spot.hidden = true; }

function explore(box, view, spec) {
  let read = null, current = null, byKeys = false;
  const scene = () => (read ??= pointsOf(view.scenegraph().root, spec));
  // points of the same panel and colour, whatever they are drawn with; of maps the rows
  const seriesOf = (points) => {
    const panels = [], all = new Map();
    for (const point of points) {
      let panel = panels.indexOf(point.part.siblings);
      if (panel < 0) panel = panels.push(point.part.siblings) - 1;
      const key = `${panel} ${point.cell ? point.y : point.datum[colourOf(point)?.field] ?? ""}`;
      if (!all.has(key)) all.set(key, []);
      all.get(key).push(point);
    }
    return [...all.values()].map((own) => own.sort((a, b) => a.x - b.x || a.y - b.y));
  };
  const place = ({ clientX, clientY }) => {
    const svg = box.querySelector("svg"), frame = svg.getBoundingClientRect(), [ox, oy] = originOf(view);
    const scale = Number(svg.getAttribute("width")) / frame.width;
    return [(clientX - frame.left) * scale - ox, (clientY - frame.top) * scale - oy];
  };
  const nearest = (x, y) => {
    let best = null, least = REACH;
    for (const point of scene().points) {
      const dx = Math.max(point.x - x, 0, x - point.x - point.w), dy = Math.max(point.y - y, 0, y - point.y - point.h);
      const far = Math.hypot(dx, dy);
      if (far < least) [best, least] = [point, far];
    }
    return best;
  };
  const at = (event) => {
    byKeys = false;
    current = nearest(...place(event));
    if (current) show(box, view, current, scene().bands); else hide();
  };
  const step = (event) => {
    const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key], across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (event.key === "Escape") { byKeys = false; return hide(); }
    if (!along && !across || event.ctrlKey || event.altKey || event.metaKey) return;
    const { points } = scene();
    if (!points.length) return;
    event.preventDefault();
    const series = seriesOf(points);
    const here = Math.max(0, series.findIndex((row) => row.includes(current)));
    let own = series[here][0];
    if (current && across) {
      const next = series[(here + across + series.length) % series.length];
      own = next.reduce((a, b) => (Math.abs(b.x - current.x) < Math.abs(a.x - current.x) ? b : a));
    } else if (current) {
      const away = (point) => Math.hypot(point.x - current.x, point.y - current.y) > 0.01; // drawn twice, told once
      const row = along > 0 ? series[here] : series[here].toReversed();
      own = row.slice(row.indexOf(current) + 1).find(away) ?? current;
    }
    current = own;
    byKeys = true;
    const svg = box.querySelector("svg"), scale = svg.getBoundingClientRect().width / Number(svg.getAttribute("width"));
    const where = (originOf(view)[0] + own.x) * scale - box.scrollLeft; // in a chart that is wider than its box
    if (where < 20 || where > box.clientWidth - 20) box.scrollLeft += where - box.clientWidth / 2;
    show(box, view, own, scene().bands);
  };
  box.addEventListener("pointermove", at);
  box.addEventListener("pointerdown", at);
  box.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  box.addEventListener("keydown", step);
  box.addEventListener("blur", () => { byKeys = false; hide(); });
  addEventListener("scroll", () => {
    if (byKeys) show(box, view, current, scene().bands);
    else hide();
  }, { passive: true, capture: true });
}
