// Shows the topology as the coordinator sends it. Everything that it sends is shown as text, never read as markup.
"use strict";

// Absolute, since a page that was opened with a credential in its address cannot fetch relative to it.
const WATCH = new URL("/v1/topology/watch", location.origin).href;
const RETRY_MS = 2000;
const SVG = "http://www.w3.org/2000/svg";

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
  fill(byId("nodes"), topology.nodes.map(nodeRow), 7, "No node yet: `carrick token create --cluster NAME` makes a join token.");
  fill(byId("links"), topology.links.map((link) => linkRow(link, names)), 8, "No tunnel is up.");
  draw(topology, active);
}

function nodeRow(node) {
  const state = node.state === "active" && !node.online ? "offline" : node.state;
  const why = node.revoked && node.revoked.reason ? `${state}: ${node.revoked.reason}` : state;
  const row = cells([
    node.cluster, node.name, why, node.overlay_ips.join("\n"), node.prefixes.join("\n"), node.endpoints.join("\n"),
    node.evidence.map((evidence) => `${evidence.kind}, ${when(evidence.appraised_at)}`).join("\n"),
  ]);
  row.children[1].title = `${node.id}\n${node.public_key}\ncarrick ${node.version}`;
  row.children[2].className = state;
  return row;
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

// Clusters side by side, the nodes of each on a circle, and a line for each tunnel.
function draw(topology, active) {
  const clusters = topology.clusters.filter((cluster) => cluster.nodes > 0);
  const size = 260;
  const width = Math.max(1, clusters.length) * size;
  const at = new Map();
  const shapes = [];
  clusters.forEach((cluster, i) => {
    const [x, y] = [i * size + size / 2, size / 2];
    shapes.push(shape("circle", { class: "cluster", cx: x, cy: y, r: size / 2 - 14 }));
    shapes.push(shape("text", { class: "title", x, y: y + 4 }, cluster.name));
    const nodes = active.filter((node) => node.cluster === cluster.name);
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
  for (const node of active) {
    const [x, y] = at.get(node.id) ?? [0, 0];
    shapes.push(shape("circle", { class: node.online ? "node" : "node offline", cx: x, cy: y, r: 8 }));
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

watch();
