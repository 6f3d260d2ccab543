// The page polls status.json and follows events. Text from outside reaches the document only through textContent, elements
// are made once and changed in place, and nothing is asked while the page is hidden.
const pollEvery = 500; // ms
const historySeconds = 120;
const logRows = 200; // of each group

const $ = (id) => document.getElementById(id);

function make(tag, className, parent) {
  const el = document.createElement(tag);
  if (className) el.className = className;
  if (parent) parent.append(el);
  return el;
}

function text(el, s) {
  s = String(s);
  if (el.textContent !== s) el.textContent = s;
}

/* ---- what kinds of events mean to people ---- */

const kinds = {
  "start": { tone: "up", why: "Starting" },
  "started": { tone: "up" },
  "resume": { tone: "up", why: "Resuming" },
  "soft-cordon": { tone: "down", why: "Winding down" },
  "uncordon": { tone: "up", why: "Kept" },
  "stop": { tone: "down", why: "Put to sleep" },
  "stopped": { tone: "down" },
  "suspend": { tone: "down", why: "Suspended" },
  "suspended": { tone: "down" },
  "exit": { tone: "bad", why: "Exited" },
  "bounce": { tone: "warn", group: "requests", many: "bounces" },
  "retry": { tone: "warn", group: "requests", many: "retries" },
  "park": { tone: "warn", group: "requests", many: "parks" },
};

/* ---- events: the log, and why each machine is as it is ---- */

let lastSeq = 0;
let why = new Map(); // machine -> the latest event that gives a cause
let waiting = []; // events to be shown at the next frame
let source = null;
let retryTimer = 0;

function follow() {
  stopFollowing();
  source = new EventSource(`events?since=${lastSeq}`);
  source.onmessage = (m) => {
    const e = JSON.parse(m.data);
    if (e.seq <= lastSeq) forget(); // the proxy began anew
    lastSeq = e.seq;
    if (kinds[e.kind]?.why && e.machine) why.set(e.machine, e);
    waiting.push(e);
    if (waiting.length === 1) requestAnimationFrame(showEvents);
  };
  source.onerror = () => {
    // The browser tries again by itself, except after an answer that is no stream.
    if (source?.readyState === EventSource.CLOSED) {
      stopFollowing();
      retryTimer = setTimeout(follow, 1000);
    }
  };
}

function stopFollowing() {
  clearTimeout(retryTimer);
  source?.close();
  source = null;
}

function forget() {
  lastSeq = 0;
  why = new Map();
  waiting = [];
  floods = new Map();
  $("log").replaceChildren();
  $("no-log").hidden = false;
}

function showEvents() {
  const log = $("log");
  const replay = log.childElementCount === 0;
  const rows = [];
  for (const e of waiting) {
    if (!joinFlood(e, rows)) rows.push(eventRow(e, !replay));
  }
  waiting = [];
  const before = log.scrollHeight;
  const reading = log.scrollTop > 8; // someone looks further down: what they see stays where it is
  log.prepend(...rows.reverse());
  if (reading) log.scrollTop += log.scrollHeight - before;
  // Each group has its own bound: a flood of bounces must not wash away why a machine was started.
  for (const group of ["machines", "requests"]) {
    for (const row of [...log.querySelectorAll(`[data-group=${group}]`)].slice(logRows)) row.remove();
  }
  $("no-log").hidden = log.childElementCount > 0;
  refreshWhy();
}

// Bounces, retries and parks of one machine and node come once a second while a flood lasts. They share a row that counts,
// so that the list does not run away.
let floods = new Map();
const floodGap = 3000; // ms without one end a flood

function joinFlood(e, rows) {
  if (kinds[e.kind]?.group !== "requests") return false;
  const key = JSON.stringify([e.kind, e.app, e.machine, e.node]);
  const flood = floods.get(key);
  const at = Date.parse(e.time);
  if (!flood || at - flood.at > floodGap || !(flood.row.isConnected || rows.includes(flood.row))) {
    const row = eventRow(e, $("log").childElementCount > 0);
    floods.set(key, { row, from: at, at, count: e.count || 1 });
    rows.push(row);
    return true;
  }
  flood.count += e.count || 1;
  flood.at = at;
  const seconds = Math.round((at - flood.from) / 1000);
  const why = e.count > 1 ? e.reason.replace(/^\d+ [a-z]+: /, "") : e.reason;
  text(flood.row.querySelector(".reason"), `${flood.count} ${kinds[e.kind].many}${seconds > 1 ? ` in ${seconds} s` : ""}: ${why}`);
  return true;
}

function eventRow(e, isNew) {
  const kind = kinds[e.kind] ?? {};
  const li = make("li", isNew ? "new" : "");
  li.dataset.tone = kind.tone ?? "";
  li.dataset.group = kind.group ?? "machines";
  text(make("span", "kind", li), e.kind);
  // Where there is no machine, the node that did it.
  text(make("b", "who", li), e.machine || e.node);
  const when = make("time", "", li);
  const t = new Date(e.time);
  when.dateTime = e.time;
  when.title = t.toLocaleString();
  text(when, t.toLocaleTimeString([], { hour12: false }));
  text(make("p", "reason", li), e.reason);
  li.title = [e.app && `app ${e.app}`, e.node && `node ${e.node}`, `event ${e.seq}`].filter(Boolean).join(" · ");
  return li;
}

const showButtons = document.querySelectorAll("button[data-show]");
for (const button of showButtons) {
  button.addEventListener("click", () => {
    for (const b of showButtons) b.setAttribute("aria-pressed", String(b === button));
    $("log").dataset.show = button.dataset.show;
    $("log").scrollTop = 0;
  });
}

/* ---- the state ---- */

let started = null; // of the proxy's process
let failures = 0;
let pollTimer = 0;
let answers = []; // [time, requests] of the last seconds, for the rate
const regionCards = new Map();
const machineRows = new Map();

async function poll() {
  clearTimeout(pollTimer);
  try {
    const res = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!res.ok) throw new Error(res.statusText);
    show(await res.json());
    failures = 0;
    document.body.classList.remove("loading");
    live("live", "live");
  } catch {
    failures++;
    if (failures > 1) live("lost", "no answer, trying again");
  }
  if (!document.hidden) pollTimer = setTimeout(poll, failures ? 1000 : pollEvery);
}

function live(is, words) {
  $("live").dataset.is = is;
  text($("live").lastElementChild, words);
  document.body.classList.toggle("stale", is === "lost");
}

function show(s) {
  if (s.started !== undefined && started !== s.started) {
    if (started !== null) {
      answers = [];
      forget();
      follow();
    }
    started = s.started;
  }
  showFigures(s);
  showRegions(s);
  showRoundTrips(s.rtt);
}

function showFigures(s) {
  const count = (...states) => s.machines.filter((m) => states.includes(m.state)).length;
  const running = count("started");
  const starting = count("starting");
  const leaving = count("stopping", "suspending");
  const failed = count("failed");
  const suspended = count("suspended");
  const asleep = count("stopped") + suspended;
  const inFlight = s.in_flight ?? s.machines.reduce((n, m) => n + m.load, 0);

  text($("running"), running);
  text($("running-of"), `of ${s.machines.length}`);
  text($("running-note"), [starting && `${starting} starting`, leaving && `${leaving} going to sleep`, failed && `${failed} failed`].filter(Boolean).join(", ") || "\u00a0");
  text($("asleep"), asleep);
  text($("asleep-note"), suspended ? `${suspended} suspended` : asleep && !running ? "wakes on a request" : "\u00a0");
  text($("inflight"), inFlight);
  text($("rate"), rate(s.requests));
  text($("parked"), s.parked);
  text($("parked-note"), s.parked ? "for a free machine" : "no request is parked");
  $("parked-figure").classList.toggle("wait", s.parked > 0);
  text($("title"), s.title ?? "");
  document.title = `${running}/${s.machines.length} running · ebb`;
  showHistory(inFlight, running, s.machines.length);
}

function rate(requests) {
  if (requests === undefined) return "\u00a0";
  const now = performance.now();
  answers.push([now, requests]);
  while (answers.length > 2 && now - answers[0][0] > 3000) answers.shift();
  const [t, n] = answers[0];
  const perSecond = now > t ? ((requests - n) * 1000) / (now - t) : 0;
  return `${perSecond >= 10 ? Math.round(perSecond) : perSecond.toFixed(1)} requests/s`;
}

/* ---- two minutes back ---- */

let past = []; // {t, load, machines}

function showHistory(load, machines, all) {
  const now = performance.now() / 1000;
  past.push({ t: now, load, machines });
  while (past.length > 1 && past[1].t < now - historySeconds) past.shift();
  const top = Math.max(8, ...past.map((h) => h.load));
  text($("history-peak"), Math.max(...past.map((h) => h.load)));
  const x = (h) => (240 * (1 - (now - h.t) / historySeconds)).toFixed(2);
  const y = (v, of) => (39 - (38 * v) / Math.max(1, of)).toFixed(2);
  const loadPath = past.map((h, i) => `${i ? "L" : "M"}${x(h)} ${y(h.load, top)}`).join("");
  let steps = `M${x(past[0])} ${y(past[0].machines, all)}`;
  for (const h of past) steps += `H${x(h)}V${y(h.machines, all)}`;
  $("history-load").setAttribute("d", loadPath);
  $("history-area").setAttribute("d", `${loadPath}L240 40L${x(past[0])} 40Z`);
  $("history-machines").setAttribute("d", steps);
}

/* ---- regions ---- */

function showRegions(s) {
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
      let row = machineRows.get(m.id);
      if (!row) machineRows.set(m.id, (row = machineRow(m.id)));
      if (row.el.parentElement !== card.list) insertSorted(card.list, row.el);
      showMachine(row, m, manyApps);
    }
  }
  const present = new Set(s.machines.map((m) => m.id));
  for (const [id, row] of machineRows) {
    if (!present.has(id)) {
      row.el.remove();
      machineRows.delete(id);
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
  const epoch = make("span", "epoch", line);
  const load = make("span", "load", line);
  const loadNumber = make("b", "", load);
  const loadOf = make("span", "", load);
  const facts = make("p", "facts", el);
  const state = make("span", "state", facts);
  const app = make("span", "", facts);
  const cordon = make("span", "tag", facts);
  const health = make("span", "tag bad", facts);
  const since = make("time", "", facts);
  const bar = make("div", "bar", el);
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-label", `Requests in flight at ${id}`);
  bar.setAttribute("aria-valuemin", "0");
  const fill = make("i", "", make("span", "", bar));
  const soft = make("u", "", bar);
  const cause = make("p", "why", el);
  const causeWord = make("b", "", cause);
  const causeText = make("span", "", cause);
  return { el, id, epoch, state, app, cordon, health, since, loadNumber, loadOf, bar, fill, soft, cause, causeWord, causeText };
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
  text(row.health, m.health === "failing" ? "checks fail" : "");
  text(row.loadNumber, asleep && !m.load ? "" : m.load);
  const limits = [m.soft && `soft ${m.soft}`, m.hard && `hard ${m.hard}`].filter(Boolean).join(", ");
  text(row.loadOf, asleep && !m.load ? "" : m.hard || m.soft ? ` / ${m.hard || m.soft}` : " in flight");
  row.bar.title = limits ? `${m.load} in flight; ${limits}` : `${m.load} in flight`;
  const scale = m.hard || Math.max(1.5 * m.soft, m.load, 10);
  row.fill.style.width = `${Math.min(100, (100 * m.load) / scale)}%`;
  row.soft.hidden = !m.soft;
  row.soft.style.left = `${Math.min(100, (100 * m.soft) / scale)}%`;
  row.bar.setAttribute("aria-valuenow", m.load);
  row.bar.setAttribute("aria-valuemax", scale);
  row.el.title = [`app ${m.app}`, m.revision && `revision ${m.revision}`, `owner ${m.owner}`].filter(Boolean).join(" · ");
  showWhy(row);
}

/* ---- why a machine is as it is ---- */

const ups = ["start", "resume", "uncordon"];

function showWhy(row) {
  const e = why.get(row.id);
  const m = row.m;
  if (!e || !m) {
    text(row.causeWord, "");
    text(row.causeText, m?.epoch ? "" : "Never started");
    text(row.since, "");
    return;
  }
  let word = kinds[e.kind].why;
  if (e.kind === "start" && m.state === "started") word = "Started";
  if (e.kind === "resume" && m.state === "started") word = "Resumed";
  if (e.kind === "stop" && m.state === "stopping") word = "Stopping";
  if (e.kind === "suspend" && m.state === "suspending") word = "Suspending";
  if (ups.includes(e.kind) && m.state === "failed") word = "Failed to start";
  text(row.causeWord, e.reason ? `${word}: ` : word);
  text(row.causeText, e.reason);
  text(row.since, ago(e.time));
  row.cause.title = e.reason;
}

function refreshWhy() {
  for (const row of machineRows.values()) showWhy(row);
}

function ago(time) {
  const s = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (s < 5) return "just now";
  if (s < 60) return `${Math.floor(s / 5) * 5} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  return `${Math.floor(s / 3600)} h ago`;
}

/* ---- round trips ---- */

let tableOf = "";
let cells = new Map();

function showRoundTrips(rtt) {
  $("no-rtt").hidden = rtt.length > 0;
  $("rtt").parentElement.hidden = rtt.length === 0;
  const names = [...new Set([...regionCards.keys(), ...rtt.flatMap((r) => [r.from, r.to])])].filter((n) => rtt.some((r) => r.from === n || r.to === n));
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

/* ---- begin; rest while nobody looks ---- */

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(pollTimer);
    stopFollowing();
    live("paused", "paused");
  } else {
    past = [];
    answers = [];
    follow();
    poll();
  }
});

follow();
poll();
