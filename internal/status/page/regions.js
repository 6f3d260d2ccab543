// The regions, their machines, and why each machine is as it is. Rows are made once and changed in place.
import { $, make, text } from "./dom.js";
import { causes, kinds, machineKey } from "./log.js";

const regionCards = new Map();
const machineRows = new Map();
let stoppable = false;

export function showRegions(s) {
  const regions = new Map();
  const region = (name) => {
    if (!regions.has(name)) regions.set(name, { place: "", edge: false, machines: [] });
    return regions.get(name);
  };
  for (const n of s.nodes) {
    const r = region(n.region);
    r.place ||= n.place ?? "";
    r.edge ||= n.role.includes("edge");
  }
  for (const m of s.machines) region(m.region).machines.push(m);
  stoppable = s.also?.includes("stop") ?? false;
  const manyApps = new Set(s.machines.map((m) => m.app)).size > 1;

  for (const [name, card] of regionCards) {
    if (!regions.has(name)) {
      card.el.remove();
      regionCards.delete(name);
    }
  }
  for (const [name, r] of regions) {
    let card = regionCards.get(name);
    if (!card) regionCards.set(name, (card = regionCard(name)));
    text(card.place, r.place);
    card.edge.hidden = !r.edge;
    const up = r.machines.filter((m) => m.state === "started").length;
    text(card.awake, r.machines.length ? `${up} of ${r.machines.length} running` : "no machines");
    r.machines.sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
    for (const m of r.machines) {
      const key = machineKey(m.app, m.id);
      let row = machineRows.get(key);
      if (!row) machineRows.set(key, (row = machineRow(m.id)));
      if (row.el.parentElement !== card.list) insertSorted(card.list, row.el);
      showMachine(row, m, manyApps);
    }
  }
  const present = new Set(s.machines.map((m) => machineKey(m.app, m.id)));
  for (const [key, row] of machineRows) {
    if (!present.has(key)) {
      row.el.remove();
      machineRows.delete(key);
    }
  }
  $("no-regions").hidden = regions.size > 0;
}

function regionCard(name) {
  const el = make("article", "region", $("regions"));
  const header = make("header", "", el);
  text(make("h3", "", header), name);
  const place = make("span", "place", header);
  const edge = make("span", "edge", header);
  text(edge, "edge");
  edge.title = "Clients connect here";
  const awake = make("span", "awake", header);
  return { el, place, edge, awake, list: make("ul", "", el) };
}

function insertSorted(list, el) {
  for (const other of list.children) {
    if (other.dataset.id.localeCompare(el.dataset.id, "en", { numeric: true }) > 0) {
      other.before(el);
      return;
    }
  }
  list.append(el);
}

function machineRow(id) {
  const el = make("li", "machine");
  el.dataset.id = id;
  const line = make("div", "line", el);
  make("i", "dot", line).ariaHidden = "true";
  text(make("span", "id", line), id);
  const load = make("span", "load", line);
  const loadNumber = make("b", "", load);
  const loadOf = make("span", "", load);
  const facts = make("p", "facts", el);
  const state = make("span", "state", facts);
  const epoch = make("span", "epoch", facts);
  const app = make("span", "", facts);
  const cordon = make("span", "tag", facts);
  const health = make("span", "tag bad", facts);
  const since = make("time", "", facts);
  const stop = make("button", "stop", facts);
  stop.type = "button";
  text(stop, "Stop");
  stop.addEventListener("click", () => stopMachine(id, stop));
  const bar = make("div", "bar", el);
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-label", `Requests in flight at ${id}`);
  bar.setAttribute("aria-valuemin", "0");
  const fill = make("i", "", make("span", "", bar));
  const soft = make("u", "", bar);
  const cause = make("p", "why", el);
  const causeWord = make("b", "", cause);
  const causeText = make("span", "", cause);
  // A long reason is cut to two lines until somebody wants to read it.
  const toggle = () => cause.ariaExpanded = String(cause.classList.toggle("open"));
  cause.addEventListener("click", () => cause.classList.contains("long") && toggle());
  cause.addEventListener("keydown", (e) => {
    if (!cause.classList.contains("long") || (e.key !== "Enter" && e.key !== " ")) return;
    e.preventDefault();
    toggle();
  });
  return { el, id, epoch, state, app, cordon, health, since, stop, loadNumber, loadOf, bar, fill, soft, cause, causeWord, causeText };
}

function showMachine(row, m, manyApps) {
  row.m = m;
  row.el.dataset.state = m.state;
  row.el.dataset.load = m.hard && m.load >= m.hard ? "hard" : m.soft && m.load >= m.soft ? "soft" : "ok";
  const asleep = m.state === "stopped" || m.state === "suspended";
  text(row.state, m.state);
  text(row.epoch, m.epoch ? `epoch ${m.epoch}` : "");
  text(row.app, manyApps ? m.app : "");
  text(row.cordon, m.cordon === "none" ? "" : `${m.cordon} cordon`);
  text(row.health, m.health === "failing" ? { started: "checks fail", starting: "late" }[m.state] ?? "" : "");
  text(row.loadNumber, asleep && !m.load ? "" : m.load);
  const limits = [m.soft && `soft ${m.soft}`, m.hard && `hard ${m.hard}`].filter(Boolean).join(" · ");
  text(row.loadOf, asleep && !m.load ? limits : limits ? ` · ${limits}` : " in flight");
  row.bar.title = limits ? `${m.load} in flight; ${limits}` : `${m.load} in flight`;
  const scale = m.hard || Math.max(1.5 * m.soft, m.load, 10);
  row.fill.style.width = `${Math.min(100, (100 * m.load) / scale)}%`;
  row.soft.hidden = !m.soft;
  row.soft.style.left = `${Math.min(100, (100 * m.soft) / scale)}%`;
  row.bar.setAttribute("aria-valuenow", m.load);
  row.bar.setAttribute("aria-valuemax", scale);
  row.el.title = [`app ${m.app}`, m.revision && `revision ${m.revision}`, `owner ${m.owner}`].filter(Boolean).join(" · ");
  row.stop.hidden = !stoppable || m.state !== "started";
  showCause(row);
}

// stopMachine asks politely: a machine that does not become idle runs on, and its row then says why.
async function stopMachine(id, button) {
  button.disabled = true;
  button.title = "";
  try {
    const res = await fetch("stop", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ machine: id, reason: "stopped on the status page" }),
    });
    if (!res.ok) button.title = (await res.text()).replace(/^status: /, "");
  } catch {
    button.title = "No answer: it may or may not stop.";
  }
  button.disabled = false;
}

/* ---- why a machine is as it is ---- */

const ups = ["start", "resume", "uncordon"];

function showCause(row) {
  const m = row.m;
  const e = m && causes.get(machineKey(m.app, m.id));
  if (!e || !m) {
    text(row.causeWord, m && !m.epoch ? "Asleep: " : "");
    text(row.causeText, m && !m.epoch ? "nothing has needed it yet" : "");
    text(row.since, "");
    return;
  }
  let word = kinds[e.kind].why;
  if (e.kind === "start" && m.state === "started") word = "Awake";
  if (e.kind === "resume" && m.state === "started") word = "Awake, resumed";
  if (e.kind === "stop" && m.state === "stopped") word = "Asleep";
  if (e.kind === "suspend" && m.state === "suspended") word = "Asleep, suspended";
  if (e.kind === "stop" && m.state === "stopping") word = "Stopping";
  if (e.kind === "suspend" && m.state === "suspending") word = "Suspending";
  if (ups.includes(e.kind) && m.state === "failed") word = "Failed to start";
  text(row.causeWord, e.reason ? `${word}: ` : word);
  text(row.causeText, e.reason);
  text(row.since, ago(e.time));
  row.cause.title = e.reason;
  if (!row.cause.classList.contains("open")) {
    const long = row.cause.scrollHeight > row.cause.clientHeight + 1;
    row.cause.classList.toggle("long", long);
    row.cause.tabIndex = long ? 0 : -1;
    row.cause.role = long ? "button" : null;
    row.cause.ariaExpanded = long ? "false" : null;
  }
}

export function refreshCauses() {
  for (const row of machineRows.values()) showCause(row);
}

function ago(time) {
  const s = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (s < 5) return "now";
  if (s < 60) return `${Math.floor(s / 5) * 5} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  return `${Math.floor(s / 3600)} h ago`;
}
