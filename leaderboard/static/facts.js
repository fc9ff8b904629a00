// Search in lists of cases, and the marks of one method on the page of a case.
"use strict";

(() => {
  const { element, load, root } = knbench;
  const MAX_FOUND = 40;

  const matches = (text, words) => words.every((word) => text.includes(word));
  const wordsOf = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);

  document.querySelectorAll("input.filter").forEach((input) => {
    // A number is found with its heading, such as "paraphrase 3/3".
    const rows = [...document.querySelectorAll(input.dataset.rows)].map((row) => {
      const heads = row.closest("table").tHead.rows[0].cells;
      return [row, [...row.cells].map((cell, n) => `${heads[n].textContent} ${cell.textContent}`).join(" ").toLowerCase()];
    });
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
      by.normalize(); // one text: names with their probabilities, separated by commas
      const parts = by.textContent.split(", ");
      const found = parts.findIndex((part) => part === name || part.startsWith(`${name} `));
      if (found < 0) return;
      const rest = by.firstChild.splitText(parts.slice(0, found).reduce((sum, part) => sum + part.length + 2, 0));
      rest.splitText(name.length);
      rest.replaceWith(element("mark", {}, name));
    });
  };
  window.addEventListener("hashchange", mark);
  mark();

  document.querySelectorAll("table.fact tbody tr[id]").forEach((row) => {
    row.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      history.replaceState(null, "", `#${row.id}`);
      mark();
    });
  });
})();
