"use strict";
// The number in a cell, or its text if it is not only a number; numbers come before texts, cells without a value last.
function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = Number(text.replace(/,/g, ""));
  return column === 0 ? text : text === "–" || text === "" ? null : Number.isNaN(number) ? text : number;
}
function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return typeof a === "string" ? a.localeCompare(b) : a - b;
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const body = table.tBodies[0], first = column === 0 ? "ascending" : "descending";
    const next = head.ariaSort === first ? (first === "ascending" ? "descending" : "ascending") : first;
    const sign = next === "ascending" ? 1 : -1;
    const rows = [...body.rows].map(row => [valueOf(row, column), row]);
    rows.sort(([a], [b]) => a === null || b === null ? compare(a, b) : sign * compare(a, b));
    body.append(...rows.map(([, row]) => row));
    heads.forEach(other => { if (other.ariaSort) other.ariaSort = other === head ? next : "none"; });
  }));
}
const filters = document.getElementById("filters");
if (filters) {
  const images = [...document.querySelectorAll("section[data-errors]")];
  const show = () => {
    const chosen = filters.elements["class"].value, kind = filters.elements["error"].value;
    for (const image of images) {
      const errors = JSON.parse(image.dataset.errors);
      const fits = errors.some(([error, name]) => (!chosen || name === chosen) && (!kind || error === kind));
      image.hidden = Boolean(chosen || kind) && !fits;
    }
    const shown = images.filter(image => !image.hidden).length;
    filters.querySelector("output").textContent = `${shown} of ${images.length} images`;
  };
  filters.addEventListener("change", show);
  filters.addEventListener("submit", event => event.preventDefault());
  show();
}
