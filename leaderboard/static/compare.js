// Compares two methods of a table: the difference of their edit scores with its interval, and the cases that differ.
"use strict";

(() => {
  const { element, svg, load, fragment, setFragment, root } = knbench;
  const form = document.getElementById("choice");
  const answer = document.getElementById("answer");
  const STEPS = 65535;

  // --- statistics; the draws are those of the tables, with equal cases for both methods ---
  const drawsOf = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Array.from({ length: bytes.length / 2 }, (_, n) => view.getUint16(2 * n, true) / STEPS);
  };

  const quantile = (values, share) => {
    const place = share * (values.length - 1);
    const low = Math.floor(place);
    return values[low] + (place - low) * ((values[low + 1] ?? values[low]) - values[low]);
  };

  const interval = (a, b) => {
    const differences = a.map((value, n) => value - b[n]).sort((x, y) => x - y);
    return [quantile(differences, 0.025), quantile(differences, 0.975)];
  };

  // Two-sided sign test: probability of at least so uneven a split of the cases that differ.
  const signTest = (wins, losses) => {
    const n = wins + losses;
    if (!n) return 1;
    let term = 0.5 ** n;
    let sum = 0;
    for (let k = 0; k <= Math.min(wins, losses); k += 1) {
      sum += term;
      term *= (n - k) / (k + 1);
    }
    return Math.min(1, 2 * sum);
  };

  const percent = (value) => (100 * value).toFixed(1);
  const signed = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)}`;

  // --- the picture of a difference: its interval and zero ---
  const picture = (rows) => {
    const reach = Math.max(0.02, ...rows.flatMap(({ low, high, value }) => [low, high, value].map(Math.abs)));
    const x = (value) => 355 + (195 * value) / reach;
    const height = 26 * rows.length + 24;
    const chart = svg("svg", { class: "chart versus", viewBox: `0 0 560 ${height}`, role: "img", "aria-label": rows.map((r) => `${r.title}: ${signed(r.value)}`).join("; ") });
    chart.append(svg("path", { class: "zero", d: `M${x(0)} 4V${height - 18}` }));
    rows.forEach(({ title, value, low, high }, n) => {
      const y = 16 + 26 * n;
      const label = svg("text", { x: 0, y: y + 4 });
      label.append(title);
      chart.append(label, svg("path", { class: "ci", d: `M${x(low)} ${y}H${x(high)}`, stroke: "currentColor", "stroke-width": 2 }), svg("circle", { cx: x(value), cy: y, r: 5, fill: "var(--accent)" }));
    });
    const zero = svg("text", { x: x(0), y: height - 4, "text-anchor": "middle" });
    zero.append("no difference");
    chart.append(zero);
    return chart;
  };

  const table = (label, heads, lines) => element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, element("table", { class: "stack", style: heads.map((head, n) => `--l${n + 1}:${JSON.stringify(head)}`).join(";") },
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...lines.map((line) => element("tr", {}, ...line.map((cell, n) => element(n ? "td" : "th", n ? {} : { scope: "row" }, cell)))))));

  const show = async (section, a, b) => {
    const shared = await load(`${section.key}/section`, `data/${section.key}/section.js`);
    const [one, other] = await Promise.all([a, b].map(([, slug]) => load(`${section.key}/${slug}`, `data/${section.key}/methods/${slug}.js`)));
    const [first, second] = [a[0], b[0]];
    const scores = shared.tables.filter(([name]) => one.draws[name] && other.draws[name]).map(([name, title, overTasks]) => {
      const [low, high] = interval(drawsOf(one.draws[name]), drawsOf(other.draws[name]));
      return { title, name, overTasks, a: one.scores[name], b: other.scores[name], value: one.scores[name][0] - other.scores[name][0], low, high };
    });
    const parts = [];
    if (scores.length) {
      // The verdict is on all tasks together; methods that do not have them all are judged on each task.
      const overTasks = scores.filter((s) => s.overTasks);
      for (const s of overTasks.length ? overTasks.slice(-1) : scores) {
        const real = s.low > 0 || s.high < 0;
        const better = s.value > 0 ? first : second;
        const range = `${signed(s.value)} points, 95% interval ${signed(s.low)} to ${signed(s.high)}`;
        const ranks = s.overTasks ? ` In the table, where all methods are compared at once, ${first} has the rank ${one.ranks[s.name]} and ${second} ${other.ranks[s.name]}.` : "";
        parts.push(element("p", { class: "verdict" }, element("b", {}, real ? `Yes: ${better} is better, for this pair. ` : "Not shown: the data allow either order. "), `${s.title}: ${first} minus ${second} is ${range}.${ranks}`));
      }
      parts.push(picture(scores));
      parts.push(table("Edit scores", ["Table", first, second, "Difference", "95% interval", "Gain", "Preservation"], scores.map((s) => [
        s.title, percent(s.a[0]), percent(s.b[0]), signed(s.value), `${signed(s.low)} to ${signed(s.high)}`, `${percent(s.a[3])} and ${percent(s.b[3])}`, `${percent(s.a[6])} and ${percent(s.b[6])}`,
      ])));
      parts.push(element("p", { class: "meta" }, "The same cases are resampled for both methods. Of many pairs that are looked at, some intervals miss zero by chance. The ranks of the table are corrected for that."));
    } else {
      parts.push(element("p", { class: "verdict" }, "No task gives both methods an edit score."));
    }
    const lines = [];
    const cases = [];
    for (const task of shared.tasks) {
      const [x, y] = [one.values[task.name], other.values[task.name]];
      if (!x || !y) continue;
      for (const [criterion, title] of Object.entries(shared.criteria)) {
        if (!x[criterion] || !y[criterion]) continue;
        const pairs = x[criterion].map((value, n) => [value, y[criterion][n], n]).filter(([p, q]) => p !== null && q !== null);
        if (!pairs.length) continue;
        const mean = (n) => pairs.reduce((sum, pair) => sum + pair[n], 0) / pairs.length;
        const wins = pairs.filter(([p, q]) => p > q).length;
        const losses = pairs.filter(([p, q]) => p < q).length;
        const p = signTest(wins, losses);
        lines.push([task.title, title, percent(mean(0)), percent(mean(1)), signed(mean(0) - mean(1)), `${wins} / ${losses} / ${pairs.length - wins - losses}`, wins + losses === 0 ? "–" : p < 0.001 ? "<.001" : p.toFixed(3)]);
        pairs.filter(([p1, q1]) => p1 !== q1).forEach(([p1, q1, n]) => cases.push([task, title, task.cases[n], p1, q1]));
      }
    }
    parts.push(element("h2", {}, "By task and criterion"), element("p", { class: "meta" }, "Share of probes that pass by the measure success. The last column is the p-value of the sign test on the cases that differ, not corrected for the number of rows."), table("By task and criterion", ["Task", "Criterion", first, second, "Difference", "Better / worse / equal", "p"], lines));
    parts.push(element("h2", {}, `Cases that differ: ${cases.length}`), table("Cases that differ", ["Case", "Criterion", first, second, "Task"], cases.slice(0, 200).map(([task, title, [page, words], p, q]) => [element("a", { href: root + page }, words), title, percent(p), percent(q), task.title])));
    answer.replaceChildren(...parts);
  };

  const fill = (select, items, chosen) => {
    select.replaceChildren(...items.map(([value, text]) => {
      const option = element("option", { value }, text);
      option.selected = value === chosen;
      return option;
    }));
  };

  const start = async () => {
    const sections = await load("compare", "data/compare.js");
    if (!sections.length) {
      answer.replaceChildren(element("p", {}, "No table has two methods."));
      return;
    }
    form.hidden = false;
    const draw = () => {
      const wanted = fragment();
      const section = sections.find(({ key }) => key === wanted.get("section")) ?? sections[0];
      const names = section.methods.map(([name]) => name);
      const a = names.includes(wanted.get("a")) ? wanted.get("a") : names.find((name) => name === "rome") ?? names[0];
      const b = names.includes(wanted.get("b")) && wanted.get("b") !== a ? wanted.get("b") : names.find((name) => name !== a && name === "memit") ?? names.find((name) => name !== a);
      fill(form.section, sections.map(({ key, title }) => [key, title]), section.key);
      fill(form.a, names.map((name) => [name, name]), a);
      fill(form.b, names.map((name) => [name, name]), b);
      const find = (name) => section.methods.find(([other]) => other === name);
      show(section, find(a), find(b)).catch((error) => answer.replaceChildren(element("p", { class: "warning" }, error.message)));
    };
    form.addEventListener("change", () => {
      setFragment(new URLSearchParams({ section: form.section.value, a: form.a.value, b: form.b.value }));
      draw();
    });
    window.addEventListener("hashchange", draw);
    draw();
  };
  start();
})();
