"use strict";
// The page is complete without this script: it adds values under the pointer and arms that can be hidden.

// [low, high, from, to] of an axis: pixel -> value
const invert = (axis, pixel) => axis[0] + (axis[1] - axis[0]) * (pixel - axis[2]) / (axis[3] - axis[2]);
const format = (value) => {
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 5e-4)) return value.toExponential(2);
  return value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3);
};

function hover(svg) {
  const axis = (name) => svg.dataset[name].split(" ").map(Number);
  const x = axis("x"), y = axis("y"), figure = svg.closest("figure");
  const curves = [...svg.querySelectorAll(".series")].map((series) => ({
    series,
    points: series.querySelector(".line").getAttribute("points").split(" ").map((p) => p.split(",").map(Number)),
  }));
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const tip = document.createElement("div");
  cursor.setAttribute("class", "cursor");
  tip.className = "tip";

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const at = Math.min(x[3], Math.max(x[2], (event.clientX - box.left) * view.width / box.width));
    cursor.setAttribute("d", `M${at} ${y[3]}V${y[2]}`);
    tip.replaceChildren(`step ${Math.round(invert(x, at))}`);
    for (const {series, points} of curves) {
      if (series.classList.contains("hidden-arm")) continue;
      const near = points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
      const row = document.createElement("div"), key = document.createElement("span");
      key.className = `key ${[...series.classList].find((name) => /^c\d+$/.test(name))}`;
      row.append(key, `${series.dataset.name} ${format(invert(y, near[1]))}`);
      tip.append(row);
    }
    svg.append(cursor);
    figure.append(tip);
    const left = at * box.width / view.width + 16, room = figure.clientWidth - tip.offsetWidth - 6;
    tip.style.left = `${Math.max(4, left < room ? left : left - tip.offsetWidth - 20)}px`;
    tip.style.top = `${box.top - figure.getBoundingClientRect().top + 6}px`;
  });
  svg.addEventListener("pointerleave", () => { cursor.remove(); tip.remove(); });
}
document.querySelectorAll("svg[data-hover]").forEach(hover);

document.querySelectorAll(".legend .arm").forEach((label) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...label.childNodes);
  button.setAttribute("aria-pressed", "true");
  button.title = "Hide or show this arm";
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    document.querySelectorAll(`.series[data-arm="${label.dataset.arm}"]`)
        .forEach((series) => series.classList.toggle("hidden-arm", !shown));
  });
  label.replaceWith(button);
});

addEventListener("beforeprint", () => {
  document.querySelectorAll("details.more").forEach((details) => { details.open = true; });
});
