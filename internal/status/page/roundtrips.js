// The table of measured round trips.
import { $, make, text } from "./dom.js";

let tableOf = "";
let cells = new Map();

// showRoundTrips fills the table; first names what comes first in it.
export function showRoundTrips(rtt, first) {
  $("no-rtt").hidden = rtt.length > 0;
  $("rtt").parentElement.hidden = rtt.length === 0;
  const names = [...new Set([...first, ...rtt.flatMap((r) => [r.from, r.to])])].filter((n) => rtt.some((r) => r.from === n || r.to === n));
  const rows = names.filter((n) => rtt.some((r) => r.from === n));
  if (tableOf !== JSON.stringify([rows, names])) {
    tableOf = JSON.stringify([rows, names]);
    buildTable(rows, names);
  }
  const seen = new Set();
  for (const r of rtt) {
    const key = JSON.stringify([r.from, r.to]);
    const cell = cells.get(key);
    if (!cell) continue;
    seen.add(key);
    cell.el.dataset.has = "";
    text(cell.ms, r.ms < 10 ? r.ms.toFixed(1) : Math.round(r.ms));
    text(cell.loss, r.loss >= 0.005 ? `${Math.round(100 * r.loss)} % lost` : "");
    const far = Math.min(1, r.ms / 300);
    cell.el.style.setProperty("--far", `${Math.round(100 * far)}%`);
    cell.el.title = `${r.from} to ${r.to}: ${r.ms.toFixed(2)} ms, ${(100 * r.loss).toFixed(1)} % lost`;
  }
  for (const [key, cell] of cells) {
    if (seen.has(key) || cell.self) continue;
    delete cell.el.dataset.has;
    text(cell.ms, "–");
    text(cell.loss, "");
    cell.el.title = "not measured";
  }
}

function buildTable(rows, names) {
  $("rtt").tHead.replaceChildren();
  const head = make("tr", "", $("rtt").tHead);
  make("th", "", head);
  for (const n of names) {
    const th = make("th", "", head);
    th.scope = "col";
    text(th, n);
  }
  const body = $("rtt").tBodies[0];
  body.replaceChildren();
  cells = new Map();
  for (const from of rows) {
    const tr = make("tr", "", body);
    const th = make("th", "", tr);
    th.scope = "row";
    text(th, from);
    for (const to of names) {
      const el = make("td", from === to ? "self" : "", tr);
      cells.set(JSON.stringify([from, to]), { el, ms: make("span", "", el), loss: make("small", "", el), self: from === to });
    }
  }
}
