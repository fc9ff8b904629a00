// The view of up to four methods over all criteria, with parallel axes.
"use strict";

const parallel = (() => {
  const { element, svg } = knbench;
  const WIDTH = 560, HEIGHT = 300, LEFT = 44, RIGHT = 24, TOP = 12, BOTTOM = 108;

  // columns: titles; methods: [name, [value or null in percent per column]]
  const draw = (columns, methods) => {
    const x = (n) => LEFT + ((WIDTH - LEFT - RIGHT) * n) / Math.max(1, columns.length - 1);
    const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * Math.min(100, Math.max(0, value))) / 100;
    const words = methods.map(([name, values]) => `${name}: ${columns.map((c, n) => `${c} ${values[n] ?? "–"}`).join(", ")}`);
    const chart = svg("svg", { class: "chart parallel", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Criteria of ${words.join("; ")}` });
    const axes = svg("g", { class: "axes" });
    columns.forEach((title, n) => {
      axes.append(svg("path", { d: `M${x(n)} ${TOP}V${HEIGHT - BOTTOM}` }));
      const label = svg("text", { transform: `translate(${x(n) + 4} ${HEIGHT - BOTTOM + 12}) rotate(-38)`, "text-anchor": "end" });
      label.append(title);
      axes.append(label);
    });
    for (const value of [0, 50, 100]) {
      const label = svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" });
      label.append(String(value));
      axes.append(label);
    }
    chart.append(axes);
    methods.forEach(([name, values], number) => {
      const group = svg("g", { class: `c${number}` });
      const points = values.map((value, n) => (value === null ? null : [x(n), y(value)])).filter(Boolean);
      group.append(svg("path", { class: "line", d: `M${points.map((p) => p.join(" ")).join("L")}` }));
      points.forEach(([cx, cy]) => group.append(svg("circle", { cx, cy, r: 3.5 })));
      chart.append(group);
    });
    const keys = element("p", { class: "keys" });
    methods.forEach(([name], number) => keys.append(element("span", { class: `key c${number}` }, element("i"), name)));
    return [chart, keys];
  };
  return { draw };
})();
