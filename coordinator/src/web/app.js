// Shows the topology as the coordinator sends it. Everything that it sends is shown as text, never read as markup.
"use strict";

// Absolute, since a page that was opened with a credential in its address cannot fetch relative to it.
const WATCH = new URL("/v1/topology/watch", location.origin).href;
const TOPOLOGY = new URL("/v1/topology", location.origin).href;
const REFUSALS = new URL("/v1/refusals?limit=20", location.origin).href;
const nodeAt = (id) => new URL(`/v1/nodes/${encodeURIComponent(id)}`, location.origin).href;
const RETRY_MS = 2000;
// Heartbeats renew leases without an event.
const REFRESH_MS = 10000;
const SVG = "http://www.w3.org/2000/svg";

let refusalsShown = null;

const byId = (id) => document.getElementById(id);

function watch() {
  const events = new EventSource(WATCH);
  events.addEventListener("topology", (event) => {
    show(JSON.parse(event.data));
    setStatus(true);
  });
  events.addEventListener("error", () => {
    setStatus(false);
    // The browser tries again by itself unless the answer was an error.
    if (events.readyState === EventSource.CLOSED) setTimeout(watch, RETRY_MS);
  });
}

function setStatus(live) {
  byId("status").textContent = live ? "live" : "disconnected";
  byId("status").className = live ? "live" : "down";
}

function show(topology) {
  const active = topology.nodes.filter((node) => node.state === "active");
  const online = active.filter((node) => node.online).length;
  byId("mesh").textContent = topology.mesh;
  byId("revision").textContent = String(topology.revision);
  byId("count").textContent = `${online} of ${active.length} online`;
  const names = new Map(topology.nodes.map((node) => [node.id, `${node.cluster}/${node.name}`]));
  const focused = document.activeElement?.dataset.node;
  fill(byId("nodes"), topology.nodes.map(nodeRow), 10, "No node yet: `carrick token create --cluster NAME` makes a join token.");
  if (focused) document.querySelector(`button[data-node="${CSS.escape(focused)}"]`)?.focus();
  fill(byId("links"), topology.links.map((link) => linkRow(link, names)), 8, "No tunnel is up.");
  draw(topology);
}

// The state in the words of `carrick nodes`.
const stateOf = (node) => (node.state === "active" && !node.online ? "offline" : node.state === "expired" ? "suspended" : node.state);

function nodeRow(node) {
  const state = stateOf(node);
  const why = node.suspended ?? (node.revoked && node.revoked.reason);
  const each = (say) => node.evidence.map(say).join("\n");
  const row = cells([
    node.cluster, "", why ? `${state}: ${why}` : state,
    each((evidence) => evidence.kind) || "none", each((evidence) => when(evidence.appraised_at)), each((evidence) => evidence.decision),
    "", node.overlay_ips.join("\n"), node.prefixes.join("\n"), node.endpoints.join("\n"),
  ]);
  const open = document.createElement("button");
  open.type = "button";
  open.dataset.node = node.id;
  open.textContent = node.name;
  open.setAttribute("aria-haspopup", "dialog");
  open.addEventListener("click", () => showNode(node.id));
  row.children[1].append(open);
  row.children[1].title = `${node.id}\n${node.public_key}\ncarrick ${node.version}`;
  row.children[2].className = state;
  row.children[5].className = node.evidence.some((evidence) => evidence.decision === "refused") ? "refused" : "accepted";
  row.children[6].append(lease(node));
  if (node.trust === "coordinator") {
    row.children[6].append(element("span", "trusts the coordinator", "warn"));
  }
  return row;
}

// The profile, and how long the lease holds unless it is renewed: counted down by `tick`.
function lease(node) {
  const shown = element("span", node.lease);
  // A second cannot be watched.
  if (node.lease_expires !== null && node.lease !== "strict") {
    shown.append(", ");
    const left = element("time", remaining(node.lease_expires));
    left.dateTime = node.lease_expires;
    shown.append(left);
  }
  return shown;
}

function remaining(time) {
  return `${Math.max(0, Math.ceil((Date.parse(time) - Date.now()) / 1000))} s left`;
}

function tick() {
  for (const left of document.querySelectorAll("#nodes time")) left.textContent = remaining(left.dateTime);
}

// Every claim of a node with its verdict, as it is appraised now.
async function showNode(id) {
  const dialog = byId("node");
  byId("node-title").textContent = "…";
  byId("node-claims").replaceChildren();
  if (!dialog.open) dialog.showModal();
  try {
    const node = await get(nodeAt(id));
    byId("node-title").textContent = `${node.cluster}/${node.name}`;
    const trust = node.trust === "coordinator" ? "takes the coordinator's word for its peers" : "checks the evidence of its peers";
    const facts = [`${node.id}, ${trust}, joined ${when(node.joined_at)}`];
    if (node.suspended) facts.push(`suspended: ${node.suspended}`);
    const evidence = node.evidence.length > 0 ? node.evidence.map(claims) : [element("p", "No evidence.", "none")];
    byId("node-claims").replaceChildren(...facts.map((fact) => element("p", fact)), ...evidence);
  } catch (error) {
    byId("node-title").textContent = "Not shown";
    byId("node-claims").replaceChildren(element("p", error.message, "refused"));
  }
}

// One piece of evidence: a table of its claims.
function claims(evidence) {
  const section = document.createElement("section");
  const verdict = element("span", evidence.decision, evidence.decision);
  const title = element("h3", `${evidence.kind}, ${when(evidence.appraised_at)}: `);
  title.append(verdict);
  const table = document.createElement("table");
  const head = document.createElement("tr");
  for (const name of ["Verdict", "Claim", "Value", "Reason"]) head.append(element("th", name));
  table.createTHead().append(head);
  const rows = (evidence.claims ?? []).map((claim) => {
    const row = cells([claim.verdict, claim.name, claim.value, claim.reason]);
    row.firstChild.className = claim.verdict;
    row.children[2].className = "value";
    return row;
  });
  table.createTBody().append(...rows);
  const scroll = element("div", "", "scroll");
  scroll.append(table);
  section.append(title, scroll);
  return section;
}

async function refresh() {
  try {
    show(await get(TOPOLOGY));
  } catch {
    // The status says that the coordinator is away.
  }
  await loadRefusals();
}

async function loadRefusals() {
  try {
    const refusals = await get(REFUSALS);
    const text = JSON.stringify(refusals);
    // What somebody has unfolded stays so.
    if (text === refusalsShown) return;
    refusalsShown = text;
    fill(byId("refusals"), refusals.map(refusalRow), 5, "Nobody was refused.");
  } catch {
    // The status says that the coordinator is away.
  }
}

function refusalRow(refusal) {
  const row = cells([when(refusal.at), refusal.cluster, refusal.name, refusal.code, refusal.detail]);
  row.children[3].className = "refused";
  if (refusal.evidence.length > 0) {
    const details = document.createElement("details");
    details.append(element("summary", refusal.detail), ...refusal.evidence.map(claims));
    row.children[4].replaceChildren(details);
  }
  return row;
}

async function get(address) {
  const answer = await fetch(address, { headers: { accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail ?? `HTTP ${answer.status}`);
  return body;
}

function element(kind, text, style) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (style) made.className = style;
  return made;
}

function linkRow(link, names) {
  const row = cells([
    names.get(link.from) ?? link.from, names.get(link.to) ?? link.to, link.path, link.endpoint,
    link.rtt_ms === null ? "" : `${link.rtt_ms.toFixed(1)} ms`,
    link.last_handshake === null ? "none yet" : when(link.last_handshake), bytes(link.rx_bytes), bytes(link.tx_bytes),
  ]);
  for (const column of [4, 6, 7]) row.children[column].className = "number";
  return row;
}

function cells(texts) {
  const row = document.createElement("tr");
  for (const text of texts) row.appendChild(document.createElement("td")).textContent = text;
  return row;
}

function fill(body, rows, columns, otherwise) {
  if (rows.length === 0) {
    const row = cells([otherwise]);
    row.firstChild.colSpan = columns;
    row.firstChild.className = "none";
    rows = [row];
  }
  body.replaceChildren(...rows);
}

// Clusters side by side, the members of each on a circle, and a line for each tunnel.
function draw(topology) {
  const members = topology.nodes.filter((node) => node.state !== "revoked");
  const clusters = topology.clusters.filter((cluster) => members.some((node) => node.cluster === cluster.name));
  const size = 260;
  const width = Math.max(1, clusters.length) * size;
  const at = new Map();
  const shapes = [];
  clusters.forEach((cluster, i) => {
    const [x, y] = [i * size + size / 2, size / 2];
    shapes.push(shape("circle", { class: "cluster", cx: x, cy: y, r: size / 2 - 14 }));
    shapes.push(shape("text", { class: "title", x, y: y + 4 }, cluster.name));
    const nodes = members.filter((node) => node.cluster === cluster.name);
    nodes.forEach((node, n) => {
      const turn = (2 * Math.PI * n) / nodes.length - Math.PI / 2;
      at.set(node.id, [x + Math.cos(turn) * size * 0.28, y + Math.sin(turn) * size * 0.28]);
    });
  });
  for (const link of topology.links) {
    if (link.from > link.to && topology.links.some((other) => other.from === link.to && other.to === link.from)) continue;
    const [from, to] = [at.get(link.from), at.get(link.to)];
    if (!from || !to) continue;
    const middle = [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2 - Math.abs(to[0] - from[0]) * 0.12];
    shapes.push(shape("path", { class: `link ${link.path}`, d: `M${from} Q${middle} ${to}` }));
  }
  for (const node of members) {
    const [x, y] = at.get(node.id) ?? [0, 0];
    shapes.push(shape("circle", { class: `node ${stateOf(node)}`, cx: x, cy: y, r: 8 }));
    shapes.push(shape("text", { x, y: y + 24 }, node.name));
  }
  const picture = byId("picture");
  picture.setAttribute("viewBox", `0 0 ${width} ${size}`);
  picture.replaceChildren(...shapes);
}

function shape(kind, attributes, text) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function when(time) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  return new Date(time).toLocaleString();
}

function bytes(count) {
  for (const unit of ["B", "KB", "MB", "GB"]) {
    if (count < 1000) return `${count < 10 && unit !== "B" ? count.toFixed(1) : Math.round(count)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

byId("node-close").addEventListener("click", () => byId("node").close());
setInterval(tick, 1000);
setInterval(refresh, REFRESH_MS);
loadRefusals();
watch();
