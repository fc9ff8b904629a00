// Sorting, search, filters, columns, details and exports of the main table. Its state is kept in the address.
"use strict";

(() => {
  const { element, fragment, setFragment, root } = knbench;
  const MAX_PICKED = 4;
  const FIRST_ROWS = 40; // rows that move at once; the others follow when the browser is idle
  const table = document.querySelector("table.data");
  const tools = document.getElementById("tools");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const keys = heads.map((head) => head.dataset.key);
  const titles = heads.map((head) => (head.querySelector(".long") ?? head.querySelector("span")).textContent);
  const rows = [...body.rows];
  const points = new Map(); // by id of the row, the points of all figures
  document.querySelectorAll(".pt").forEach((point) => {
    points.set(point.dataset.for, [...(points.get(point.dataset.for) ?? []), point]);
  });
  const nameOf = (row) => row.querySelector("th a").textContent;
  // The exact value of a coloured cell is the first word of its title.
  const rawText = (cell) => cell.dataset.v ?? (cell.classList.contains("heat") && cell.title ? cell.title.split(" ")[0] : cell.firstElementChild?.textContent ?? cell.textContent);
  const textOf = (cell) => rawText(cell).trim().replace("−", "-").replace(/^–$/, "");
  const shownText = (row, column) => (keys[column] === "rank" ? (row.cells[0].querySelector("small") ? "" : row.cells[0].lastChild.textContent.trim()) : keys[column] === "method" ? nameOf(row) : textOf(row.cells[column]));
  const ASCENDING = new Set(["rank", "method", "seconds", "changed", "memory", "bytes_per_fact", "seconds_per_query", "training", "peak_memory", "failed"]);
  const shownAtFirst = heads.map((head) => !head.hidden);
  const search = new Map(rows.map((row) => [row, `${nameOf(row)} ${row.dataset.about} ${row.dataset.kind}`.toLowerCase()]));

  const state = { sort: null, query: "", kinds: new Set(), without: new Set(), columns: new Map(), picked: [] };
  const details = new Map();

  // --- the state in the address ---
  const save = () => {
    const parameters = new URLSearchParams();
    if (state.sort) parameters.set("sort", state.sort.join(":"));
    if (state.query) parameters.set("q", state.query);
    if (state.kinds.size) parameters.set("kind", [...state.kinds].join(","));
    if (state.without.size) parameters.set("without", [...state.without].join(","));
    if (state.columns.size) parameters.set("columns", [...state.columns].map(([key, on]) => (on ? key : `-${key}`)).join(","));
    if (state.picked.length) parameters.set("rows", state.picked.map((row) => row.id.slice(2)).join(","));
    setFragment(parameters);
  };

  const read = () => {
    const parameters = fragment();
    const list = (name) => (parameters.get(name) ?? "").split(",").filter(Boolean);
    const [key, direction] = (parameters.get("sort") ?? "").split(":");
    state.sort = keys.includes(key) ? [key, direction === "asc" ? "asc" : "desc"] : null;
    state.query = parameters.get("q") ?? "";
    state.kinds = new Set(list("kind"));
    state.without = new Set(list("without"));
    state.columns = new Map(list("columns").map((name) => (name.startsWith("-") ? [name.slice(1), false] : [name, true])));
    const ids = location.hash.startsWith("#m-") ? [location.hash.slice(1)] : list("rows").map((name) => `m-${name}`);
    state.picked = ids.map((id) => rows.find((row) => row.id === id)).filter(Boolean).slice(0, MAX_PICKED);
  };

  // --- order ---
  const columnValues = new Map(); // by column, the value of each row, read when it is first needed
  const valuesOf = (column) => {
    if (!columnValues.has(column)) {
      columnValues.set(column, new Map(rows.map((row) => {
        const text = column === 1 ? nameOf(row) : textOf(row.cells[column]);
        const number = Number.parseFloat(text);
        return [row, column === 1 ? text : Number.isNaN(number) ? null : number];
      })));
    }
    return columnValues.get(column);
  };

  const sorted = () => {
    if (!state.sort) return rows;
    const sign = state.sort[1] === "asc" ? 1 : -1;
    const values = valuesOf(keys.indexOf(state.sort[0]));
    return [...rows].sort((one, other) => {
      const [a, b] = [values.get(one), values.get(other)];
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
    });
  };

  const sortBy = (key) => {
    const first = ASCENDING.has(key) ? "asc" : "desc";
    const second = first === "asc" ? "desc" : "asc";
    if (state.sort?.[0] !== key) state.sort = [key, first];
    else if (state.sort[1] === first) state.sort = [key, second];
    else state.sort = null;
    draw();
  };

  // --- filters ---
  const condition = (word) => {
    const found = /^([\w ]+)([<>])(-?[\d.]+)$/.exec(word);
    if (!found) return null;
    const column = keys.findIndex((key, n) => key === found[1] || titles[n].toLowerCase() === found[1]);
    if (column < 0) return null;
    const limit = Number(found[3]);
    const values = valuesOf(column);
    return (row) => values.get(row) !== null && (found[2] === "<" ? values.get(row) < limit : values.get(row) > limit);
  };

  const passes = () => {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const tests = words.map((word) => condition(word) ?? ((row) => search.get(row).includes(word)));
    return (row) => {
      const needs = row.dataset.needs.split(" ");
      return (
        tests.every((test) => test(row)) &&
        (!state.kinds.size || state.kinds.has(row.dataset.kind)) &&
        (!state.without.size || (!needs.includes("unknown") && [...state.without].every((need) => !needs.includes(need))))
      );
    };
  };

  // --- details of a row ---
  const detailsOf = (row) => {
    if (details.has(row)) return details.get(row);
    const list = element("dl");
    heads.forEach((_, n) => {
      const cell = row.cells[n];
      if (n > 1 && textOf(cell) !== "") {
        const value = cell.title ? cell.title.split(", ").slice(0, cell.title.includes("[") ? 2 : 1).join(", ") : cell.textContent;
        list.append(element("div", {}, element("dt", {}, titles[n]), element("dd", {}, value)));
      }
    });
    const name = nameOf(row);
    const link = (href, text) => element("a", { href }, text);
    const needs = { subject: "needs a subject", training: "is trained first", replay: "sees earlier edits again", unknown: "" };
    const words = [row.dataset.about, row.querySelector("th .k")?.title, ...row.dataset.needs.split(" ").map((need) => needs[need]), row.querySelector(".t").textContent.trim()];
    const others = [...rows.filter((other) => other !== row)].sort((a, b) => Math.abs(rows.indexOf(a) - rows.indexOf(row)) - Math.abs(rows.indexOf(b) - rows.indexOf(row))).slice(0, 2);
    const compare = others.flatMap((other) => {
      const parameters = new URLSearchParams({ section: table.dataset.section, a: name, b: nameOf(other) });
      return [" · ", link(`${root}compare.html#${parameters}`, `compare with ${nameOf(other)}`)];
    });
    const text = element("p", {}, `${words.filter(Boolean).join("; ")}. `, link(row.querySelector("th a").href, "Page of the method"), ...compare);
    const made = element("tr", { class: "details" }, element("td", { colspan: heads.length }, text, list));
    details.set(row, made);
    return made;
  };

  const pick = (row, on = !state.picked.includes(row)) => {
    state.picked = state.picked.filter((other) => other !== row);
    if (on) state.picked = [...state.picked, row].slice(-MAX_PICKED);
    draw();
  };

  const drawPicked = () => {
    rows.forEach((row) => {
      const on = state.picked.includes(row);
      if (row.classList.contains("picked") !== on) {
        row.classList.toggle("picked", on);
        row.querySelector("button.more").setAttribute("aria-expanded", on);
        points.get(row.id)?.forEach((point) => point.classList.toggle("picked", on));
      }
    });
    const place = document.getElementById("parallel");
    if (!place) return;
    place.replaceChildren();
    if (!state.picked.length) return;
    const shown = heads.map((_, n) => n).filter((n) => n > 2 && (heads[n].classList.contains("heat") || heads[n].classList.contains("number")) && !["immediate", "checkpoints", "score", "extended_score"].includes(keys[n]));
    const values = (row) => shown.map((n) => (textOf(row.cells[n]) === "" ? null : Number(textOf(row.cells[n]))));
    place.append(element("h2", {}, "Criteria of the chosen methods"), ...parallel.draw(shown.map((n) => titles[n]), state.picked.map((row) => [nameOf(row), values(row)])));
    if (state.picked.length > 1) {
      const parameters = new URLSearchParams({ section: table.dataset.section, a: nameOf(state.picked[0]), b: nameOf(state.picked[1]) });
      place.append(element("a", { class: "button", href: `${root}compare.html#${parameters}` }, `Is the difference between ${nameOf(state.picked[0])} and ${nameOf(state.picked[1])} real?`));
    }
  };

  // --- drawing ---
  const idle = (work) => (window.requestIdleCallback ?? ((later) => setTimeout(later, 50)))(work);
  let order = rows; // the children of the body, in their order
  let waiting = []; // those that are not yet in their place

  // Moving a row costs far more than computing its place. The first ones are moved at once, and no row is moved that
  // is in its place already.
  const arrange = (wanted) => {
    const same = wanted.length === order.length && wanted.every((row, n) => row === order[n]);
    order = wanted;
    if (same) return;
    body.querySelectorAll("tr.details").forEach((row) => { if (!wanted.includes(row)) row.remove(); });
    body.prepend(...wanted.slice(0, FIRST_ROWS));
    waiting = wanted.slice(FIRST_ROWS);
    if (waiting.length) idle(moveNext);
  };
  const moveNext = () => {
    body.append(...waiting.slice(0, FIRST_ROWS));
    waiting = waiting.slice(FIRST_ROWS);
    if (waiting.length) idle(moveNext);
  };
  const moveAll = () => {
    body.append(...waiting);
    waiting = [];
  };

  const count = element("span", { class: "meta", role: "status" });

  const draw = () => {
    const keep = passes();
    let shown = 0;
    const children = [];
    for (const row of sorted()) {
      const kept = keep(row);
      shown += kept;
      if (row.hidden === kept) {
        row.hidden = !kept;
        points.get(row.id)?.forEach((point) => point.classList.toggle("out", !kept));
      }
      children.push(row);
      if (kept && state.picked.includes(row)) children.push(detailsOf(row));
    }
    arrange(children);
    heads.forEach((head, n) => {
      if (state.sort?.[0] === keys[n]) head.setAttribute("aria-sort", state.sort[1] === "asc" ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    const unknown = state.without.size ? rows.filter((row) => row.dataset.needs === "unknown").length : 0;
    count.textContent = (shown === rows.length ? `${shown} methods` : `${shown} of ${rows.length} methods`) + (unknown ? `; ${unknown} of version 0.1 do not state their needs` : "");
    drawPicked();
    save();
  };

  const drawColumns = () => {
    heads.forEach((head, n) => {
      const on = state.columns.get(keys[n]) ?? shownAtFirst[n];
      const chosen = state.columns.get(keys[n]) === true;
      if (head.hidden === !on && head.classList.contains("on") === chosen) return;
      for (const cell of [head, ...rows.map((row) => row.cells[n])]) {
        cell.hidden = !on;
        cell.classList.toggle("on", chosen);
      }
    });
  };

  // --- tools ---
  const boxes = [];
  // The content of a menu is made when it is first opened.
  const menu = (label, content) => {
    const place = element("div");
    const made = element("details", { class: "menu" }, element("summary", {}, element("span", {}, label)), place);
    made.addEventListener("toggle", () => {
      if (made.open && !place.childElementCount) place.append(...content());
      boxes.forEach((update) => update());
    });
    return made;
  };
  const choice = (label, checked, changed) => {
    const box = element("input", { type: "checkbox" });
    box.checked = checked();
    box.addEventListener("change", () => changed(box.checked));
    boxes.push(() => { box.checked = checked(); });
    return element("label", {}, box, ` ${label}`);
  };
  const toggle = (set, value) => (on) => {
    if (on) set().add(value);
    else set().delete(value);
    draw();
  };
  const group = (title, ...content) => element("fieldset", {}, element("legend", {}, title), ...content);

  const query = element("input", { type: "search", "aria-label": "Search", placeholder: "method, or gain>50", autocomplete: "off" });
  query.addEventListener("input", () => {
    state.query = query.value;
    draw();
  });
  const KINDS = { weights: "Weights", memory: "Memory", context: "Context", control: "Controls" };
  const present = Object.keys(KINDS).filter((kind) => rows.some((row) => row.dataset.kind === kind));
  const needs = { subject: "No subject needed", training: "No training", replay: "Earlier edits not seen again" };
  const filters = menu("Filter", () => [
    group("Kind of method", ...present.map((kind) => choice(KINDS[kind], () => state.kinds.has(kind), toggle(() => state.kinds, kind)))),
    group("Needs", ...Object.entries(needs).map(([need, label]) => choice(label, () => state.without.has(need), toggle(() => state.without, need)))),
  ]);
  const columns = menu("Columns", () => keys.map((key, n) => [key, n]).filter(([, n]) => n > 1).map(([key, n]) =>
    choice(titles[n], () => getComputedStyle(heads[n]).display !== "none", (on) => {
      state.columns.set(key, on);
      drawColumns();
      save();
    })));

  const visible = () => {
    moveAll();
    const chosen = keys.map((_, n) => n).filter((n) => !heads[n].hidden);
    const kept = [...body.rows].filter((row) => !row.hidden && !row.classList.contains("details"));
    return [chosen.map((n) => keys[n]), kept.map((row) => chosen.map((n) => shownText(row, n)))];
  };
  const download = (name, type, text) => {
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const csv = (head, lines) => {
    // A leading quote prevents spreadsheets from evaluating a name as a formula.
    const safe = (text) => (/^[=+@-]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text);
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return `${[head, ...lines].map((line) => line.map((text) => quoted(safe(text))).join(",")).join("\n")}\n`;
  };
  const button = (label, title, action) => {
    const made = element("button", { type: "button", title }, label);
    made.addEventListener("click", action);
    return made;
  };
  const file = table.dataset.file;
  tools.append(query, filters, columns, menu("Download", () => [
    button("CSV", "Download the visible rows as CSV", () => download(`${file}.csv`, "text/csv", csv(...visible()))),
    button("JSON", "Download the visible rows as JSON", () => {
      const [head, lines] = visible();
      const objects = lines.map((line) => Object.fromEntries(head.map((key, n) => [key, line[n]])));
      download(`${file}.json`, "application/json", `${JSON.stringify(objects, null, 1)}\n`);
    }),
  ]), count);

  heads.forEach((head, n) => {
    const label = head.querySelector("span");
    const sort = element("button", { type: "button", class: "sort" });
    sort.append(...label.childNodes);
    label.replaceWith(sort);
    sort.addEventListener("click", () => sortBy(keys[n]));
  });
  rows.forEach((row) => {
    row.cells[0].prepend(element("button", { type: "button", class: "more", "aria-expanded": "false", "aria-label": `Details of ${nameOf(row)}` }));
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !row.classList.contains("details") && !event.target.closest("a")) pick(row);
  });
  document.querySelectorAll(".pt").forEach((point) => {
    point.addEventListener("click", (event) => {
      event.preventDefault();
      const row = rows.find((other) => other.id === point.dataset.for);
      pick(row);
      moveAll();
      if (state.picked.includes(row)) row.scrollIntoView({ block: "nearest" });
    });
  });

  // Links to other measures, models and tasks keep the state.
  document.querySelectorAll("nav.bar a").forEach((link) => {
    link.addEventListener("click", () => { link.hash = location.hash; });
  });

  const restore = () => {
    read();
    query.value = state.query;
    drawColumns();
    draw();
    boxes.forEach((update) => update());
    moveAll();
    if (state.picked.length) state.picked[0].scrollIntoView({ block: "nearest" });
  };
  window.addEventListener("hashchange", restore);
  if (location.hash) restore();
  else count.textContent = `${rows.length} methods`;
})();
