// Search in lists of cases, and the marks of one method on the page of a case.
"use strict";

(() => {
  const { element, load, root } = knbench;
  const MAX_FOUND = 40;

  const matches = (text, words) => words.every((word) => text.includes(word));
  const wordsOf = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);

  document.querySelectorAll("input.filter").forEach((input) => {
    const rows = [...document.querySelectorAll(input.dataset.rows)].map((row) => [row, row.textContent.toLowerCase()]);
    input.addEventListener("input", () => {
      const words = wordsOf(input);
      rows.forEach(([row, text]) => { row.hidden = !matches(text, words); });
    });
  });

  const search = document.getElementById("search-facts");
  search?.addEventListener("input", async () => {
    const lists = await load("facts", "data/facts.js");
    const words = wordsOf(search);
    const found = [];
    if (words.length) {
      for (const [list, { task, where, cases }] of Object.entries(lists)) {
        for (const [name, text] of cases) {
          if (found.length < MAX_FOUND && matches(`${text} ${task} ${where}`.toLowerCase(), words)) {
            found.push(element("li", {}, element("a", { href: `${root}${list}/${name}.html` }, text), element("span", { class: "meta" }, `${task}, ${where}`)));
          }
        }
      }
      if (!found.length) found.push(element("li", {}, "No case has these words."));
    }
    document.getElementById("found").replaceChildren(...found);
  });

  // The address names a method: its row is marked, and its name in every answer.
  const mark = () => {
    document.querySelectorAll(".by mark").forEach((old) => old.replaceWith(old.textContent));
    document.querySelectorAll("tr.focus").forEach((row) => row.classList.remove("focus"));
    const row = document.getElementById(location.hash.slice(1));
    const name = row?.querySelector("table.fact th a")?.textContent;
    if (!name) return;
    row.classList.add("focus");
    document.querySelectorAll(".by").forEach((by) => {
      by.normalize();
      for (const node of [...by.childNodes]) {
        if (node.nodeType !== Node.TEXT_NODE) continue;
        const at = node.data.replaceAll(",", " ").split(/\s+/).indexOf(name) >= 0 ? node.data.indexOf(name) : -1;
        if (at >= 0) {
          const rest = node.splitText(at);
          rest.splitText(name.length);
          rest.replaceWith(element("mark", {}, name));
        }
      }
    });
  };
  window.addEventListener("hashchange", mark);
  mark();

  document.querySelectorAll("table.fact tbody tr").forEach((row) => {
    row.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      history.replaceState(null, "", `#${row.id}`);
      mark();
    });
  });
})();
