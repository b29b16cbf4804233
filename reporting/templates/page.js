// Wiping and sorting. Without this script the page still reads.
"use strict";

document.addEventListener("input", (event) => {
  if (event.target.type === "range") event.target.parentElement.style.setProperty("--at", event.target.value + "%");
});

const list = document.getElementById("images");
if (list) {
  const key = document.getElementById("key");
  const order = document.getElementById("order");
  const collator = new Intl.Collator(undefined, { numeric: true });
  const rows = [...list.children].map((article, number) => ({ article, number, values: JSON.parse(article.dataset.values) }));

  // Numbers by size, texts by their numbers and letters; what has no value comes last in either order.
  const compare = (a, b) => {
    const [x, y] = key.value ? [a.values[key.value], b.values[key.value]] : [a.number, b.number];
    const missing = (x == null) - (y == null);
    const larger = x == null || y == null ? 0 : typeof x === "string" ? collator.compare(x, y) : x - y;
    return missing || (order.value === "ascending" ? larger : -larger) || a.number - b.number;
  };
  const sort = () => {
    order.textContent = order.value;
    list.dataset.sorted = key.value;
    list.append(...rows.sort(compare).map((row) => row.article));
    for (const cell of list.querySelectorAll("[data-key]")) cell.classList.toggle("sorted", cell.dataset.key === key.value);
  };
  key.addEventListener("change", () => {
    order.value = key.selectedOptions[0].dataset.order;
    sort();
  });
  order.addEventListener("click", () => {
    order.value = order.value === "ascending" ? "descending" : "ascending";
    sort();
  });
}
