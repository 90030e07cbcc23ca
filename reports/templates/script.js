// Sorting and filtering of tables, the contents, files of data, pictures, flames. The page is
// complete without it.
"use strict";

const button = (text, does, name = "") => {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.className = name;
  made.addEventListener("click", does);
  return made;
};

// What a column is sorted by.
const value = (cell) => cell.dataset.v ?? cell.textContent;

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const compare = (a, b) => {
    // A dash is an unknown value and comes last in either order.
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    const sort = button("", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const known = [], unknown = [];
      for (const row of body.rows) (value(row.cells[i]) === "–" ? unknown : known).push(row);
      known.sort((a, b) => (down ? -1 : 1) * compare(value(a.cells[i]), value(b.cells[i])));
      body.append(...known, ...unknown);
    });
    sort.append(...head.childNodes);
    head.append(sort);
  });
  const input = table.closest(".scroll").previousElementSibling?.querySelector("input");
  input?.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
for (const label of document.querySelectorAll(".filter")) label.classList.add("works");

// Each table as it is shown, and the values behind each figure, as comma-separated values. A
// spreadsheet takes what begins like a formula for one.
const field = (text) => {
  const plain = text.replaceAll(/[\u00a0\u202f]/g, " ");
  const safe = /^([=@\t]|[+-](?![\d.]))/.test(plain) ? `'${plain}` : plain;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};
const save = (table, name) => {
  // Of a drawing its words.
  const read = (cell) => (cell.querySelector("svg title") ?? cell).textContent;
  const shown = table.closest("figure") ? value : read;
  const rows = [...table.rows].map((row, place) =>
    [...row.cells].map((cell) => field(place ? shown(cell) : cell.textContent)).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([rows.join("\n") + "\n"], { type: "text/csv" }));
  link.download = `${name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
for (const link of document.querySelectorAll(".link")) {
  const place = link.parentElement;
  let table = place.closest("figure")?.querySelector("table");
  for (let one = place; !table && one && !place.closest("figure"); one = one.nextElementSibling)
    table = one.querySelector("table");
  const { id } = place.closest("[id]");
  if (table) link.before(button("CSV", () => save(table, id)));
}

// The section that is being read.
const contents = document.querySelector("nav");
const read = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (!isIntersecting) continue;
    for (const link of contents.children) {
      if (link.hash !== `#${target.id}`) link.removeAttribute("aria-current");
      else {
        link.setAttribute("aria-current", "true");
        contents.scrollTo({
          left: link.offsetLeft - 16,
          top: link.offsetTop - contents.clientHeight / 2,
        });
      }
    }
  }
}, { rootMargin: "-15% 0px -80% 0px" });
for (const section of document.querySelectorAll("section")) read.observe(section);

// Pictures as large as the window lets them be, their pixels whole.
const dialog = document.createElement("dialog");
dialog.addEventListener("click", () => dialog.close());
document.body.append(dialog);
for (const picture of document.querySelectorAll(".strips img")) {
  const open = button("", () => {
    const large = picture.cloneNode();
    const room = Math.floor((0.9 * innerWidth) / picture.naturalWidth);
    large.width = picture.naturalWidth * Math.max(1, Math.min(8, room));
    large.removeAttribute("height");
    dialog.replaceChildren(button("close", () => dialog.close()), large);
    dialog.setAttribute("aria-label", picture.alt);
    dialog.showModal();
  }, "enlarge");
  open.setAttribute("aria-label", `enlarge: ${picture.alt}`);
  picture.before(open);
  open.append(picture);
}

// A tree of calls as flames, drawn when it is first opened: what is below was called by what is
// above, as broad as its share. A click makes one as broad as all.
const branch = (node) => ({
  text: (node.querySelector(":scope > summary") ?? node).textContent.trim(),
  share: Number((node.querySelector(".share")).style.getPropertyValue("--share")),
  branches: [...node.querySelectorAll(":scope > details, :scope > p")].map(branch),
});
const draw = (flame, root, whole) => {
  const rows = [];
  const place = (one, left, depth) => {
    const width = one.share / whole.share;
    if (width * flame.clientWidth < 2) return;
    const narrow = width * flame.clientWidth < 24;
    const bar = button(narrow ? "" : one.text, () => {
      draw(flame, root, one === whole ? root : one);
      flame.querySelector("button").focus();
    });
    bar.title = one.text;
    // A key stops only at what can be read.
    if (narrow) bar.tabIndex = -1;
    bar.style.cssText = `left:${100 * left}%;width:${100 * width}%;top:${1.4 * depth}rem`;
    rows[depth] = (rows[depth] ?? []).concat(bar);
    for (const inner of one.branches) {
      place(inner, left, depth + 1);
      left += inner.share / whole.share;
    }
  };
  place(whole, 0, 0);
  flame.style.height = `${1.4 * rows.length}rem`;
  flame.replaceChildren(...rows.flat());
};
for (const tree of document.querySelectorAll("details.tree")) {
  tree.addEventListener("toggle", () => {
    const flame = document.createElement("div");
    flame.className = "flame";
    tree.querySelector("summary").after(flame);
    const branches = [...tree.querySelectorAll(":scope > details, :scope > p")].map(branch);
    const root = { text: "a step", share: 1, branches };
    draw(flame, root, root);
  }, { once: true });
}
