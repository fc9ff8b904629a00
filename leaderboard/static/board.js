// Sorting, search, filters and column visibility of boards, with DataTables. The state is kept in the URL fragment.
"use strict";

(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const applyColorScheme = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", applyColorScheme);
  applyColorScheme();

  const readFragment = () => new URLSearchParams(location.hash.slice(1));

  const readState = (name) => {
    try {
      return JSON.parse(readFragment().get(name)) || {};
    } catch {
      return {};
    }
  };

  const writeState = (name, state) => {
    const fragment = readFragment();
    if (Object.keys(state).length) fragment.set(name, JSON.stringify(state));
    else fragment.delete(name);
    const text = fragment.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  };

  const download = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const exportText = (cell) => cell.dataset.export ?? cell.textContent.trim();

  const visibleRows = (api) => {
    const columns = api.columns(":visible").indexes().toArray();
    const head = columns.map((i) => api.column(i).header().dataset.key);
    const rows = api.rows({ search: "applied", order: "applied" }).indexes().toArray();
    return [head, rows.map((row) => columns.map((column) => exportText(api.cell(row, column).node())))];
  };

  const csv = (head, rows) => {
    // A leading quote prevents spreadsheets from evaluating a name as a formula.
    const safe = (text) => (/^[=+@-]/.test(text) && isNaN(text) ? `'${text}` : text);
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return [head, ...rows].map((row) => row.map((text) => quoted(safe(text))).join(",")).join("\n") + "\n";
  };

  // Accessible names and roles that DataTables does not set.
  const LABELS = {
    ".dt-button-collection[role=dialog]": "Options",
    "select.dtsb-data": "Column",
    "select.dtsb-condition": "Condition",
    ".dtsb-value": "Value",
  };
  const addLabels = () => {
    document.querySelectorAll(".dtsb-searchBuilder[role=menu]").forEach((item) => item.setAttribute("role", "group"));
    for (const [selector, text] of Object.entries(LABELS)) {
      document.querySelectorAll(`${selector}:not([aria-label])`).forEach((item) => item.setAttribute("aria-label", text));
    }
  };
  new MutationObserver(addLabels).observe(document.body, { childList: true, subtree: true });

  const enhance = (table) => {
    const name = table.dataset.name;
    const keys = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.key);
    let restoring = true;

    const saveState = (api) => {
      if (restoring) return;
      const state = {};
      const order = api.order().filter((item) => item[1]).map(([column, direction]) => [keys[column], direction]);
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
      const order = (state.o || []).map(([key, direction]) => [keys.indexOf(key), direction]).filter(([column]) => column >= 0);
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
            { text: "CSV", titleAttr: "Download the visible rows as CSV", action: (_, dt) => download(`${table.dataset.file}.csv`, "text/csv", csv(...visibleRows(dt))) },
            {
              text: "JSON",
              titleAttr: "Download the visible rows as JSON",
              action: (_, dt) => {
                const [head, rows] = visibleRows(dt);
                const objects = rows.map((row) => Object.fromEntries(head.map((key, i) => [key, row[i]])));
                download(`${table.dataset.file}.json`, "application/json", `${JSON.stringify(objects, null, 1)}\n`);
              },
            },
          ],
        },
        topEnd: { search: { placeholder: "method or word" } },
        bottomStart: null,
        bottomEnd: null,
      },
      language: { search: "Search", zeroRecords: "No matching rows.", searchBuilder: { button: { 0: "Filter", _: "Filter (%d)" } } },
    });
    restore(api);
    api.on("draw.dt column-visibility.dt", () => saveState(api));
    window.addEventListener("hashchange", () => restore(api));
  };

  document.querySelectorAll("table.data").forEach(enhance);

  // Links to other measures, models and tasks keep the state.
  document.querySelectorAll("nav.tabs a").forEach((link) => {
    link.addEventListener("click", () => {
      link.hash = location.hash;
    });
  });
})();
