"use strict";
// Shows the values of a chart where the pointer is, or at the point that the arrow keys choose.
(() => {
  const tip = document.getElementById("tip");
  const format = (value) =>
    Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  const nearest = (places, at) => {
    let best = 0;
    places.forEach((place, i) => { if (Math.abs(place - at) < Math.abs(places[best] - at)) best = i; });
    return best;
  };

  for (const chart of document.querySelectorAll("svg.chart")) {
    const shown = JSON.parse(chart.dataset.values);
    const scale = ([low, high, from, to]) => (value) => from + ((value - low) / (high - low)) * (to - from);
    for (const line of shown.lines) {
      line.x = line.x || shown.lines[0].x;
      line.px = line.x.map(scale(shown.x));
      line.py = line.y.map(scale(shown.y));
    }
    const longest = shown.lines.reduce((a, b) => (b.px.length > a.px.length ? b : a));
    let cursor = null;
    let chosen = -1;

    const place = (x, y) => {
      const box = chart.getBoundingClientRect();
      const zoom = box.width / chart.viewBox.baseVal.width;
      const left = box.left + x * zoom + 14;
      const room = document.documentElement.clientWidth - tip.offsetWidth - 6;
      tip.style.left = `${Math.max(6, Math.min(left, room))}px`;
      tip.style.top = `${Math.max(6, box.top + y * zoom - tip.offsetHeight - 10)}px`;
    };
    const tell = (text, x, y) => {
      tip.textContent = text;
      tip.hidden = false;
      place(x, y);
    };
    const hide = () => {
      tip.hidden = true;
      if (cursor) cursor.remove();
      cursor = null;
    };
    const mark = (x) => {
      if (!cursor) {
        cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
        cursor.setAttribute("class", "cursor");
        chart.append(cursor);
      }
      cursor.setAttribute("d", `M${x} ${shown.y[3]}V${shown.y[2]}`);
    };
    const atX = (x) => {
      const at = nearest(longest.px, x);
      const lines = shown.lines.map((line) => {
        const i = nearest(line.px, longest.px[at]);
        return `${line.name ? line.name + ": " : ""}${format(line.y[i])}`;
      });
      mark(longest.px[at]);
      tell([`${shown.label} ${format(longest.x[at])}`, ...lines].join("\n"), longest.px[at], 20);
      return at;
    };
    const points = shown.kind === "points"
      ? shown.lines.flatMap((line) => line.px.map((x, i) => ({ x, y: line.py[i], text: line.name })))
      : [];

    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const zoom = chart.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * zoom;
      const y = (event.clientY - box.top) * zoom;
      if (shown.kind !== "points") { chosen = atX(x); return; }
      const distance = (p) => Math.hypot(p.x - x, p.y - y);
      const point = points.reduce((a, b) => (distance(b) < distance(a) ? b : a));
      if (distance(point) < 12) tell(point.text, point.x, point.y); else hide();
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      const count = shown.kind === "points" ? points.length : longest.px.length;
      chosen = Math.max(0, Math.min(count - 1, chosen + step));
      if (shown.kind === "points") tell(points[chosen].text, points[chosen].x, points[chosen].y);
      else atX(longest.px[chosen]);
    });
  }
})();
