// The page of the fleet: asks once a second and shows what it got.
const at = id => document.getElementById(id);

function el(name, props = {}, ...children) {
  const e = Object.assign(document.createElement(name), props);
  e.append(...children.filter(c => c !== null && c !== ""));
  return e;
}

function age(s) {
  if (s < 10) return s.toFixed(1) + " s";
  if (s < 120) return Math.round(s) + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  return Math.round(s / 3600) + " h";
}

async function act(node, what) {
  const answer = await fetch("do", { method: "POST", body: new URLSearchParams({ node, what }) });
  if (!answer.ok) at("summary").textContent = `${node}: ${await answer.text()}`;
  show();
}

const silentAfter = 3; // seconds without an answer to this page

function processCard(p) {
  const silent = p.View && p.ViewAge > silentAfter;
  const tone = p.State === "down" ? "bad" : p.State === "paused" || silent ? "warn" : "good";
  const state = p.State === "up" && silent ? `silent for ${age(p.ViewAge)}` : `${p.State} for ${age(p.For)}`;
  const acts = { up: ["kill", "pause", "end"], paused: ["resume", "kill"], down: ["start"] }[p.State] ?? [];
  const card = el("div", { className: "card " + tone },
    el("span", { className: "state" }, state),
    el("strong", {}, p.Name),
    el("div", { className: "meta" }, `process ${p.PID || "–"}, start ${p.Starts}` + (p.Why ? `, ended: ${p.Why}` : "")),
    p.View ? el("div", { className: "meta" }, `incarnation ${p.View.Incarnation}`) : "",
    p.Address ? el("div", { className: "meta" }, "clients: ", el("a", { href: p.Address }, p.Address)) : "",
    p.Page ? el("div", { className: "meta" }, "page: ", el("a", { href: p.Page }, p.Page)) : "");
  card.append(el("div", { className: "acts" }, ...acts.map(what => {
    const b = el("button", { type: "button", onclick: () => act(p.Name, what) }, what);
    b.setAttribute("aria-label", `${what} ${p.Name}`);
    return b;
  })));
  return card;
}

function matrix(nodes) {
  const head = el("tr", {}, el("th", {}, "heard of"), ...nodes.map(n => el("th", { scope: "col" }, "by " + n.Name)));
  const rows = nodes.map(owner => {
    const acked = new Map((owner.View?.Others ?? []).map(o => [o.Node, o.Acked]));
    const newest = Math.max(0, ...acked.values());
    return el("tr", {}, el("th", { scope: "row" }, owner.Name), ...nodes.map(seer => {
      if (seer === owner) return el("td", { className: "self" }, "–");
      const o = seer.View?.Others?.find(o => o.Node === owner.Name);
      if (!o) return el("td", { className: "bad" }, "never");
      const seq = acked.get(seer.Name) ?? 0;
      const told = owner.Role === "worker" && seer.Role === "edge";
      const cls = o.State !== "live" ? "bad" : o.Behind || told && seq < newest || seer.ViewAge > silentAfter ? "warn" : "";
      const heard = o.State === "live" ? age(o.Age + seer.ViewAge) : `${o.State} ${age(o.Age + seer.ViewAge)}`;
      return el("td", { className: cls }, told ? `${heard} · ✓ ${seq}` : heard);
    }));
  });
  at("matrix").replaceChildren(head, ...rows);
}

const tones = { started: "good", starting: "calm", stopping: "calm", failed: "bad", suspended: "calm" };

function machineCard(m) {
  const tone = m.Fault || m.Health === "failing" ? "bad" : m.Cordon !== "none" && m.State === "started" ? "warn" : tones[m.State] ?? "";
  return el("div", { className: "card " + tone },
    el("span", { className: "state" }, m.State),
    el("strong", {}, m.ID),
    el("div", { className: "meta" }, m.State === "started" ? `${m.Load} in flight of ${m.Soft || "–"}/${m.Hard || "–"}` : `run ${m.Epoch}`,
      m.Cordon !== "none" && m.State === "started" ? `, cordon ${m.Cordon}` : ""),
    m.Fault ? el("div", { className: "meta" }, m.Fault) : "");
}

// A button that is replaced while it is pressed is not clicked.
let held = false;
addEventListener("pointerdown", () => { held = true; });
for (const over of ["pointerup", "pointercancel"]) addEventListener(over, () => { held = false; });

let last = "";
async function show() {
  let s;
  try {
    s = await (await fetch("fleet.json")).json();
  } catch {
    at("summary").textContent = "The fleet has ended.";
    return;
  }
  if (held) return;
  const up = s.Processes.filter(p => p.State === "up").length;
  const run = s.Machines?.filter(m => m.State === "started").length ?? 0;
  at("summary").textContent =
    `${up} of ${s.Processes.length} processes up, ${run} of ${s.Machines?.length ?? 0} machines run, engine ${s.Own ? "of its own" : "apart"} at ${s.Engine}`;
  const focus = document.activeElement?.getAttribute("aria-label");
  at("processes").replaceChildren(...s.Processes.map(processCard));
  matrix(s.Processes.filter(p => p.Role !== "engine"));
  at("machines").replaceChildren(...(s.Machines ?? []).map(machineCard));
  const log = JSON.stringify(s.Events);
  if (log !== last) {
    at("log").replaceChildren(...(s.Events ?? []).map(e =>
      el("li", {}, el("time", {}, new Date(e.At).toLocaleTimeString()), `${e.Name} ${e.Text}`)));
    last = log;
  }
  if (focus) document.querySelector(`[aria-label="${focus}"]`)?.focus();
}

show();
setInterval(show, 1000);
