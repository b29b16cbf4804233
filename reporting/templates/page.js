// Wiping, what to compare with, sorting, filtering by name, and the arrow keys from image to image. Without this script the page still reads.
"use strict";

document.addEventListener("input", (event) => {
  if (event.target.type === "range") event.target.parentElement.style.setProperty("--at", event.target.value + "%");
});

// What the reconstruction is compared with.
document.addEventListener("click", (event) => {
  const chosen = event.target.closest(".against button");
  if (!chosen) return;
  const wipe = chosen.parentElement.previousElementSibling;
  const picture = wipe.querySelector("img");
  picture.src = chosen.value;
  picture.className = chosen.textContent.replace(" ", "-");
  const before = wipe.querySelector(".left").textContent;
  wipe.querySelector(".left").textContent = chosen.textContent;
  const slider = wipe.querySelector("input");
  slider.ariaLabel = slider.ariaLabel.replace(`between ${before} and`, `between ${chosen.textContent} and`);
  for (const button of chosen.parentElement.children) button.ariaPressed = String(button === chosen);
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

  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    for (const { article } of rows) article.hidden = !article.querySelector("h2").textContent.toLowerCase().includes(wanted);
  });
  // Enter would send the form and load the page again.
  filter.form.addEventListener("submit", (event) => event.preventDefault());

  // Left and right go to the image before and after, unless they move a slider, a choice or a cursor.
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select")) return;
    const shown = [...list.children].filter((article) => !article.hidden);
    const tops = shown.map((article) => Math.abs(article.getBoundingClientRect().top - 64));
    const nearest = tops.indexOf(Math.min(...tops));
    const next = shown[nearest + step];
    if (next) {
      event.preventDefault();
      next.scrollIntoView();
    }
  });
}
