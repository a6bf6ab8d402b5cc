"use strict";
// What the page offers beyond reading it: without this script, all of it can still be read.

function make(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function button(text, act, attributes = {}) {
  const made = make("button", text, { type: "button", ...attributes });
  made.addEventListener("click", act);
  return made;
}

// Themes: the system's, light, dark.
const themes = ["system", "light", "dark"];
const theme = button("Theme: system", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % themes.length];
  document.documentElement.dataset.theme = next;
  theme.textContent = `Theme: ${next}`;
});
document.querySelector("nav").after(theme);

// Tables: the first line of a cell counts; numbers by their value, and what is empty or "-" comes last.
const first = (cell) => (cell.querySelector("a") ?? cell).firstChild?.textContent.trim() ?? "";
const whole = (cell) => [...cell.childNodes].map((node) => node.textContent.trim()).join(" ");
const number = (text) => (/^[-+−]?[\d.,]+(e[-+]?\d+)?\s*%?( of .*)?$/i.test(text) ? parseFloat(text.replaceAll(",", "").replace("−", "-")) : NaN);

function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  return isNaN(x) || isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
}

function sortBy(table, heading) {
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  const text = (row) => first(row.cells[heading.cellIndex]);
  const isLast = (row) => ["", "-"].includes(text(row));
  const order = (a, b) => (rising ? compare(text(a), text(b)) : compare(text(b), text(a)));
  const rows = [...table.tBodies[0].rows].sort((a, b) => isLast(a) - isLast(b) || order(a, b));
  table.tBodies[0].append(...rows);
  for (const each of heading.parentElement.cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
}

function lines(table) {
  return [...table.rows].filter((row) => !row.hidden).map((row) => [...row.cells].map(whole));
}

function asCsv(table) {
  // A program for tables must find no formula: a text that looks like one begins with a quote.
  const safe = (text) => (/^[=+@-]/.test(text) && text.length > 1 && isNaN(number(text)) ? `'${text}` : text);
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return lines(table).map((line) => line.map((text) => quoted(safe(text))).join(",")).join("\n") + "\n";
}

function asLatex(table) {
  const names = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "−": "$-$", "†": "\\dag{}" };
  const escaped = (text) => text.replace(/[\\~^±−†&%$#_{}]/g, (sign) => names[sign] ?? `\\${sign}`);
  const row = (texts) => `${texts.map(escaped).join(" & ")} \\\\`;
  const [head, ...body] = lines(table);
  const kinds = [...table.tBodies[0].rows[0].cells].map((cell) => (cell.matches("th, .word") ? "l" : "r")).join("");
  return [`\\begin{tabular}{${kinds}}`, row(head), "\\hline", ...body.map(row), "\\end{tabular}", ""].join("\n");
}

async function copy(text, status) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a browser that gives no page the clipboard: the older way
    const area = make("textarea", text);
    status.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  status.textContent = "copied";
}

for (const place of document.querySelectorAll(".table")) {
  const table = place.querySelector("table");
  const label = place.querySelector("[aria-label]").getAttribute("aria-label");
  const status = make("span", "", { role: "status" });
  const tools = make("div", "", { class: "tools" });
  const rows = [...table.tBodies[0].rows];
  if (rows.length > 3) {
    const filter = make("input", "", { type: "search", placeholder: "Filter rows", "aria-label": `Filter the rows. ${label}` });
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/);
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
    });
    tools.append(filter);
  }
  tools.append(
    button("Copy CSV", () => copy(asCsv(table), status), { "aria-label": `Copy CSV. ${label}` }),
    button("Copy LaTeX", () => copy(asLatex(table), status), { "aria-label": `Copy LaTeX. ${label}` }),
    status,
  );
  place.prepend(tools);
  for (const heading of rows.length > 1 ? table.rows[0].cells : []) {
    const sort = button(heading.textContent, () => sortBy(table, heading), { title: "Sort by this column" });
    heading.replaceChildren(sort);
  }
}

// Pictures: enlarged, with those of the same image to choose between.
const dialog = make("dialog", "", { "aria-labelledby": "enlarged" });
const shown = make("h2", "", { id: "enlarged" });
const layers = make("fieldset", "");
const large = make("img", "", { alt: "" });
dialog.append(shown, button("Close", () => dialog.close()), layers, large);
document.body.append(dialog);

function show(picture) {
  large.src = picture.src;
  large.alt = picture.alt;
}

function enlarge(picture) {
  const gallery = picture.closest(".gallery");
  const card = picture.closest("figure");
  const title = card.querySelector("figcaption").textContent;
  // The first card has the image and its truth, which every other is compared with.
  const pictures = new Set([...gallery.querySelector("figure").querySelectorAll("img"), ...card.querySelectorAll("img")]);
  shown.textContent = `${gallery.querySelector("h3").firstChild.textContent.trim()}: ${title}`;
  layers.replaceChildren(make("legend", "Show"));
  for (const each of pictures) {
    const choice = make("input", "", { type: "radio", name: "layer" });
    choice.checked = each === picture;
    choice.addEventListener("change", () => show(each));
    const words = make("label", "");
    words.append(choice, each.dataset.layer);
    layers.append(words);
  }
  show(picture);
  dialog.showModal();
  layers.querySelector(":checked").focus();
  history.replaceState(null, "", `#${encodeURIComponent(gallery.querySelector("h3").id)}`);
}

for (const picture of document.querySelectorAll(".cards img")) {
  const opener = button("", () => enlarge(picture), { class: "picture", "aria-label": `Enlarge ${picture.alt}` });
  picture.replaceWith(opener);
  opener.append(picture);
}

// An address may be that of something folded, or of a row that the filter hides.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  target.hidden = false;
  for (let each = target.closest("details"); each; each = each.parentElement.closest("details")) each.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
