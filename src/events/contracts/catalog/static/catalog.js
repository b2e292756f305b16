// The search, which knows INDEX of search-index.js, and the map's highlights.
"use strict";

const root = document.body.dataset.root;
const input = document.getElementById("search");
const list = document.getElementById("found");
const MOST = 30;
let chosen = -1;

function score(entry, words) {
  const name = entry.name.toLowerCase();
  let sum = 0;
  for (const word of words) {
    if (name.startsWith(word)) sum += 4;
    else if (name.includes(word)) sum += 3;
    else if (entry.words.includes(word)) sum += 1;
    else return 0;
  }
  return sum;
}

function show() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length
    ? INDEX.map((entry) => [score(entry, words), entry]).filter(([sum]) => sum > 0)
    : [];
  found.sort(([a, one], [b, other]) => b - a || one.name.localeCompare(other.name));
  list.replaceChildren();
  chosen = found.length ? 0 : -1;
  for (const [, entry] of found.slice(0, MOST)) {
    const link = document.createElement("a");
    link.href = root + entry.link;
    link.textContent = `${entry.name} `;
    const kind = document.createElement("small");
    kind.textContent = entry.kind;
    link.append(kind);
    const item = document.createElement("li");
    item.append(link);
    list.append(item);
  }
  if (words.length && !found.length) {
    const item = document.createElement("li");
    item.textContent = "Nothing found";
    list.append(item);
  }
  list.hidden = !words.length;
  mark();
}

function mark() {
  list.querySelectorAll("a").forEach((link, index) => {
    link.classList.toggle("chosen", index === chosen);
    if (index === chosen) link.scrollIntoView({ block: "nearest" });
  });
}

input.addEventListener("input", show);
input.addEventListener("keydown", (event) => {
  const links = list.querySelectorAll("a");
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const step = event.key === "ArrowDown" ? 1 : -1;
    chosen = Math.max(0, Math.min(links.length - 1, chosen + step));
    mark();
  } else if (event.key === "Enter" && links[chosen]) {
    location.href = links[chosen].href;
  } else if (event.key === "Escape") {
    input.value = "";
    show();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== input) {
    event.preventDefault();
    input.focus();
  }
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".search")) list.hidden = true;
});

for (const map of document.querySelectorAll(".map")) {
  const lines = [...map.querySelectorAll("path")];
  const boxes = [...map.querySelectorAll("a")];
  const point = (box) => {
    // What leads to it, and what it leads to, all the way.
    const near = new Set([box.dataset.id]);
    for (const [from, to] of [["from", "to"], ["to", "from"]]) {
      const queue = [box.dataset.id];
      while (queue.length) {
        const id = queue.pop();
        for (const line of lines.filter((each) => each.dataset[from] === id)) {
          line.classList.add("near");
          near.add(line.dataset[to]);
          queue.push(line.dataset[to]);
        }
      }
    }
    boxes.forEach((each) => each.classList.toggle("near", near.has(each.dataset.id)));
    map.classList.add("pointed");
  };
  const leave = () => {
    map.classList.remove("pointed");
    map.querySelectorAll(".near").forEach((each) => each.classList.remove("near"));
  };
  for (const box of boxes) {
    box.addEventListener("mouseenter", () => { leave(); point(box); });
    box.addEventListener("mouseleave", leave);
    box.addEventListener("focus", () => { leave(); point(box); });
    box.addEventListener("blur", leave);
  }
}
