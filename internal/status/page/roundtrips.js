// The matrix of measured round trips, and the last two minutes of the selected pair.
import { $, make, text } from "./dom.js";
import { bounds, curve, pairKey, remember, samplesOf } from "./history.js";
import { brief, isChanged, linkOf, refreshLinks, showLink } from "./links.js";

const farthest = 400; // ms: the darkest

let tableOf = "";
let cells = new Map();
let selected = "";
let nodes = new Map(); // by ID

export function showRoundTrips(s) {
  remember(s.rtt);
  refreshLinks(s.also?.includes("links"));
  $("no-rtt").hidden = s.rtt.length > 0;
  $("mesh").hidden = s.rtt.length === 0;
  $("scale").hidden = s.rtt.length === 0;
  nodes = new Map(s.nodes.map((n) => [n.id, n]));
  const names = inOrder(s);
  if (tableOf !== JSON.stringify(names)) {
    tableOf = JSON.stringify(names);
    buildTable(names);
  }
  const measured = new Map(s.rtt.map((r) => [pairKey(r.from, r.to), r]));
  for (const [key, cell] of cells) showCell(cell, measured.get(key));
  showPair(measured);
}

const regionOf = (id) => nodes.get(id)?.region ?? id;
const placeOf = (id) => nodes.get(id)?.place || regionOf(id);

// inOrder returns the nodes that measured or were measured, those of a region side by side: what is near looks near.
function inOrder(s) {
  const found = new Set(s.rtt.flatMap((r) => [r.from, r.to]));
  const names = [...new Set([...s.nodes.map((n) => n.id), ...found])].filter((n) => found.has(n));
  const regions = [...new Set(names.map(regionOf))];
  return regions.flatMap((region) => names.filter((n) => regionOf(n) === region));
}

function showCell(cell, r) {
  const { button } = cell;
  const lost = r?.state === "lost";
  button.dataset.is = lost ? "lost" : r ? (r.state ?? "fresh") : "unknown";
  text(cell.ms, lost ? "lost" : r ? brief(r.ms) : "–");
  text(cell.loss, r && !lost && r.loss >= 0.005 ? `${Math.round(100 * r.loss)} % lost` : "");
  // By the root: the difference between 1 and 10 ms matters as much as that between 200 and 300.
  const far = r && !lost ? Math.sqrt(Math.min(1, r.ms / farthest)) : 0;
  button.style.setProperty("--far", `${(100 * far).toFixed(1)}%`);
  const link = linkOf(regionOf(cell.from), regionOf(cell.to));
  button.classList.toggle("changed", isChanged(link));
  const facts = !r ? "not measured" : lost ? "lost" : `${r.ms.toFixed(2)} ms, ${percent(r.loss)} lost${r.state === "stale" ? ", stale" : ""}`;
  const title = `${cell.from} to ${cell.to}: ${facts}${isChanged(link) ? `; link changed from ${brief(link.usual_ms)} to ${brief(link.ms)} ms` : ""}`;
  if (button.title !== title) button.title = button.ariaLabel = title;
}

const percent = (share) => `${share > 0 && share < 0.1 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;

// heading writes a node as its region and what else its name says: there is little room above a column.
function heading(id, scope, parent) {
  const th = make("th", "", parent);
  th.scope = scope;
  th.title = [id, nodes.get(id)?.place].filter(Boolean).join(", ");
  const region = regionOf(id);
  text(make("b", "", th), region);
  text(make("small", "", th), id === region ? "" : id.split("-").filter((part) => part !== region).join("-"));
}

function buildTable(names) {
  const table = $("rtt");
  table.classList.toggle("many", names.length > 8);
  table.tHead.replaceChildren();
  const head = make("tr", "", table.tHead);
  make("td", "", head);
  for (const n of names) heading(n, "col", head);
  const body = table.tBodies[0];
  body.replaceChildren();
  cells = new Map();
  for (const from of names) {
    const tr = make("tr", "", body);
    heading(from, "row", tr);
    for (const to of names) {
      const td = make("td", from === to ? "self" : "", tr);
      if (from === to) continue;
      const button = make("button", "", td);
      button.type = "button";
      const cell = { from, to, button, ms: make("span", "", button), loss: make("small", "", button) };
      const key = pairKey(from, to);
      button.addEventListener("click", () => select(key));
      cells.set(key, cell);
    }
  }
  const far = names.find((n) => regionOf(n) !== regionOf(names[0])) ?? names[1];
  select(cells.has(selected) ? selected : names.length > 1 ? pairKey(names[0], far) : "");
}

function select(key) {
  selected = key;
  for (const [k, { button }] of cells) {
    button.setAttribute("aria-pressed", String(k === key));
    button.tabIndex = k === key ? 0 : -1; // one stop for the tabulator; arrows go on from there
  }
  showPair(null);
}

/* ---- the selected pair ---- */

let latest = new Map();

function showPair(measured) {
  latest = measured ?? latest;
  const cell = cells.get(selected);
  $("pair").hidden = !cell;
  if (!cell) return;
  const { from, to } = cell;
  text($("pair-from"), from);
  text($("pair-to"), to);
  const [a, b] = [regionOf(from), regionOf(to)];
  text($("pair-place"), a === b ? `both in ${placeOf(from)}` : `${placeOf(from)} to ${placeOf(to)}`);
  const r = latest.get(selected);
  const back = latest.get(pairKey(to, from));
  const lost = r?.state === "lost";
  text($("pair-ms"), lost ? "lost" : r ? fine(r.ms) : "–");
  text($("pair-back"), back && back.state !== "lost" ? `${fine(back.ms)} ms the other way` : "not measured the other way");
  text($("pair-loss"), r ? percent(r.loss) : "–");

  const samples = samplesOf(selected);
  const ms = bounds(samples, (s) => s.ms);
  draw($("pair-rtt-chart"), curve(samples, (s) => s.ms, ms.low, ms.high));
  text($("pair-range"), !samples.length ? "\u00a0" : fine(ms.least) === fine(ms.most) ? "steady" : `${fine(ms.least)} to ${fine(ms.most)} ms`);
  const loss = Math.max(0, ...samples.map((s) => s.loss));
  // No red line where there is nothing to see.
  draw($("pair-loss-chart"), curve(loss > 0 ? samples : [], (s) => s.loss, 0, Math.max(0.1, loss)));
  text($("pair-loss-range"), loss > 0 ? `at most ${percent(loss)}` : "none");
  text($("pair-loss-back"), back ? `${percent(back.loss)} the other way` : "\u00a0");
  showLink(a, b);
}

const fine = (ms) => (ms < 1 ? ms.toFixed(2) : ms < 1000 ? ms.toFixed(1) : String(Math.round(ms)));

function draw(chart, { line, area }) {
  const [areaPath, linePath] = chart.children;
  areaPath.setAttribute("d", area);
  linePath.setAttribute("d", line);
}

/* ---- by keyboard ---- */

const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

$("rtt").addEventListener("keydown", (e) => {
  const move = arrows[e.key];
  const td = e.target.closest("td");
  if (!move || !td) return;
  e.preventDefault();
  const rows = $("rtt").tBodies[0].rows;
  let [row, column] = [td.parentElement.rowIndex - 1, td.cellIndex];
  for (;;) {
    row += move[0];
    column += move[1];
    const button = rows[row]?.cells[column]?.querySelector("button");
    if (button) {
      button.focus();
      button.click();
      return;
    }
    if (!rows[row]?.cells[column] || column === 0) return; // the edge; a cell without a button is the diagonal, behind it is another
  }
});
