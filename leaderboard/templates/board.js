// Sort, search, filter and choose columns, with what is chosen kept in the address. Tables come from DataTables.
"use strict";

(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", follow);
  follow();

  const readAll = () => new URLSearchParams(location.hash.slice(1));

  const readState = (name) => {
    try {
      return JSON.parse(readAll().get(name)) || {};
    } catch {
      return {};
    }
  };

  const writeState = (name, state) => {
    const all = readAll();
    if (Object.keys(state).length) all.set(name, JSON.stringify(state));
    else all.delete(name);
    const text = all.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  };

  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const plain = (cell) => cell.dataset.export ?? cell.textContent.trim();

  const shown = (api) => {
    const columns = api.columns(":visible").indexes().toArray();
    const head = columns.map((i) => api.column(i).header().dataset.key);
    const rows = api.rows({ search: "applied", order: "applied" }).indexes().toArray();
    return [head, rows.map((row) => columns.map((column) => plain(api.cell(row, column).node())))];
  };

  const csv = (head, rows) => {
    // A leading quote keeps a spreadsheet from running a name as a formula.
    const safe = (text) => (/^[=+@-]/.test(text) && isNaN(text) ? `'${text}` : text);
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return [head, ...rows].map((row) => row.map((text) => quoted(safe(text))).join(",")).join("\n") + "\n";
  };

  // What the table library leaves without a name, or calls a menu, for those who hear a page.
  const NAMES = {
    ".dt-button-collection[role=dialog]": "Choose",
    "select.dtsb-data": "Column",
    "select.dtsb-condition": "Condition",
    ".dtsb-value": "Value",
  };
  const name = () => {
    document.querySelectorAll(".dtsb-searchBuilder[role=menu]").forEach((item) => item.setAttribute("role", "group"));
    for (const [selector, text] of Object.entries(NAMES)) {
      document.querySelectorAll(`${selector}:not([aria-label])`).forEach((item) => item.setAttribute("aria-label", text));
    }
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });

  const enhance = (table) => {
    const name = table.dataset.name;
    const keys = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.key);
    let restoring = true;

    const remember = (api) => {
      if (restoring) return;
      const state = {};
      const order = api.order().filter((item) => item[1]).map(([column, way]) => [keys[column], way]);
      if (order.length) state.o = order;
      if (api.search()) state.q = api.search();
      const hidden = keys.filter((_, column) => !api.column(column).visible());
      if (hidden.length) state.h = hidden;
      const filter = api.searchBuilder.getDetails(true);
      if (filter.criteria && filter.criteria.length) state.f = filter;
      writeState(name, state);
    };

    const restore = (api) => {
      restoring = true;
      const state = readState(name);
      keys.forEach((key, column) => api.column(column).visible(!(state.h || []).includes(key), false));
      const order = (state.o || []).map(([key, way]) => [keys.indexOf(key), way]).filter(([column]) => column >= 0);
      api.order(order).search(state.q || "");
      api.searchBuilder.rebuild(state.f || {});
      api.columns.adjust().draw();
      restoring = false;
    };

    const numeric = keys.map((key, i) => i).filter((i) => table.tBodies[0].rows[0]?.cells[i].dataset.order !== undefined);
    const api = new DataTable(table, {
      paging: false,
      info: false,
      autoWidth: false,
      order: [],
      orderMulti: true,
      orderClasses: false,
      columnDefs: [
        { targets: numeric, type: "num", orderSequence: ["desc", "asc", ""], searchBuilderType: "num" },
        { targets: keys.indexOf("rank"), orderSequence: ["asc", "desc", ""] },
        { targets: keys.indexOf("seconds"), orderSequence: ["asc", "desc", ""] },
      ].filter((item) => item.targets !== -1),
      layout: {
        topStart: {
          buttons: [
            { extend: "colvis", text: "Columns", columns: keys.map((_, i) => i).filter((i) => keys[i] !== "method") },
            { extend: "searchBuilder", config: { depthLimit: 1 } },
            { text: "CSV", titleAttr: "Save what is shown as CSV", action: (_, dt) => save(`${table.dataset.file}.csv`, "text/csv", csv(...shown(dt))) },
            {
              text: "JSON",
              titleAttr: "Save what is shown as JSON",
              action: (_, dt) => {
                const [head, rows] = shown(dt);
                const objects = rows.map((row) => Object.fromEntries(head.map((key, i) => [key, row[i]])));
                save(`${table.dataset.file}.json`, "application/json", `${JSON.stringify(objects, null, 1)}\n`);
              },
            },
          ],
        },
        topEnd: { search: { placeholder: "a method, a word" } },
        bottomStart: null,
        bottomEnd: null,
      },
      language: { search: "Search", zeroRecords: "No row fits.", searchBuilder: { button: { 0: "Filter", _: "Filter (%d)" } } },
    });
    restore(api);
    api.on("draw.dt column-visibility.dt", () => remember(api));
    window.addEventListener("hashchange", () => restore(api));
  };

  document.querySelectorAll("table.data").forEach(enhance);

  // What is chosen stays chosen in another measure, model or task.
  document.querySelectorAll("nav.tabs a").forEach((link) => {
    link.addEventListener("click", () => {
      link.hash = location.hash;
    });
  });
})();
