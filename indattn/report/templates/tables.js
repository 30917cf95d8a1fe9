"use strict";

// Tables: a click on a heading sorts by its column, another one the other way round. Empty cells stay last.
(() => {
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.dataset.sort ?? cell.textContent).trim();
    return text === "–" ? "" : text;
  };
  const numeric = (text) => text !== "" && Number.isFinite(Number(text));
  const compare = (a, b) => (numeric(a) && numeric(b) ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => [key(row, column), row]);
        rows.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : down ? compare(b, a) : compare(a, b)));
        body.append(...rows.map(([, row]) => row));
      });
    });
  }
})();

// Figures: shown again without being in the page twice, and enlarged by a click.
(() => {
  for (const image of document.querySelectorAll("img[data-same]")) {
    image.src = document.getElementById(image.dataset.same).src;
  }
  const dialog = document.getElementById("enlarged");
  const large = dialog.querySelector("img");
  for (const button of document.querySelectorAll("button.zoom")) {
    button.addEventListener("click", () => {
      const image = button.querySelector("img");
      large.src = image.src;
      large.alt = image.alt;
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
})();

// What curves and viewer share.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  return filled(node, attributes, children);
}
function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return filled(node, attributes, children);
}
function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function inline(id) {
  const script = document.getElementById(id);
  return script ? JSON.parse(script.textContent) : [];
}
function path(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}
